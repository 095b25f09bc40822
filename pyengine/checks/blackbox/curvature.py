"""Second derivatives: f'' of each activation, and the Hessian of each loss applied to a vector."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...losses import ClippedBinaryCrossEntropy, ClippedCrossEntropy, Huber, SoftmaxCrossEntropy
from ...reference import targets_as_rows

if TYPE_CHECKING:
    from ...activations import Activation
    from ...batch import HeadTarget
    from ...losses import Loss

F64 = npt.NDArray[np.float64]


def second_derivative(activation: Activation, z: F64) -> F64:
    """f''(z), elementwise; 0 at a kink. The derivatives of those in :mod:`pyengine.reference`."""
    name = activation.name
    if name in {"linear", "relu", "leaky_relu"}:
        return np.zeros_like(z)
    if name == "elu":
        return np.where(z > 0.0, 0.0, activation.slope * np.exp(np.minimum(z, 0.0)))
    if name == "tanh":
        h = np.tanh(z)
        return np.asarray(-2.0 * h * (1.0 - h) * (1.0 + h))
    if name == "gelu":
        clipped = np.clip(z, -40.0, 40.0)  # the density is 0 there, and z² must not overflow
        density = np.exp(-0.5 * clipped * clipped) / math.sqrt(2.0 * math.pi)
        return np.asarray(density * (2.0 - clipped * clipped))
    if name == "gelu_tanh":
        return _gelu_tanh(np.clip(z, -40.0, 40.0))
    s = _sigmoid(z)
    first = s * _sigmoid(-z)
    if name == "softplus":
        return first
    bend = first * (_sigmoid(-z) - s)
    if name == "sigmoid":
        return bend
    if name == "silu":
        return np.asarray(2.0 * first + z * bend)
    raise NotImplementedError(f"the second derivative of {name!r} is missing")


def _gelu_tanh(z: F64) -> F64:
    # f = z·s(v), v = 2u(z): f'' = 2·s'·v' + z·(s''·v'² + s'·v'')
    outer, cubic = 2.0 * math.sqrt(2.0 / math.pi), 0.044715
    v, dv, ddv = outer * z * (1.0 + cubic * z * z), outer * (1.0 + 3.0 * cubic * z * z), outer * 6.0 * cubic * z
    s, rest = _sigmoid(v), _sigmoid(-v)
    first = s * rest
    return np.asarray(2.0 * first * dv + z * (first * (rest - s) * dv * dv + first * ddv))


def _sigmoid(z: F64) -> F64:
    e = np.exp(-np.abs(z))
    return np.asarray(np.where(z >= 0.0, 1.0, e) / (1.0 + e))


class LossCurvature:
    """∂²L/∂z² of one loss at its outputs z (batch, n_out), block-diagonal in the samples, scaled by their factors."""

    def __init__(self, loss: Loss, z: F64, given: HeadTarget, dtype: np.dtype[Any]) -> None:
        self.factor = given.coefficients(loss, z.shape[1])[:, None]
        self.rows = targets_as_rows(loss, given, z.shape[1])
        self.softmax = isinstance(loss, SoftmaxCrossEntropy | ClippedCrossEntropy)
        if self.softmax:
            e = np.exp(z - z.max(axis=1, keepdims=True))
            self.p = e / e.sum(axis=1, keepdims=True)
            kept = self.rows
            if isinstance(loss, ClippedCrossEntropy):
                low, high = loss.clip_bounds(dtype)
                kept = np.where((low <= self.p) & (self.p <= high), kept, 0.0)
            self.mass = kept.sum(axis=1, keepdims=True)
        else:
            self.diagonal = _diagonal(loss, z, self.rows, dtype)

    def times(self, direction: F64) -> F64:
        """The Hessian times (batch, n_out)."""
        if not self.softmax:
            return np.asarray(self.factor * self.diagonal * direction)
        mean = (self.p * direction).sum(axis=1, keepdims=True)
        return np.asarray(self.factor * self.mass * self.p * (direction - mean))

    def squared_times(self, variance: F64) -> F64:
        """Σ_j H_ij²·v_j: the variance of H·e for independent e."""
        if not self.softmax:
            return np.asarray((self.factor * self.diagonal) ** 2 * variance)
        p = self.p
        others = (p * p * variance).sum(axis=1, keepdims=True)
        return np.asarray((self.factor * self.mass * p) ** 2 * np.maximum((1.0 - 2.0 * p) * variance + others, 0.0))


def _diagonal(loss: Loss, z: F64, y: F64, dtype: np.dtype[Any]) -> F64:
    if loss.name == "mse":
        return np.full_like(z, 2.0)
    if loss.name == "mae":
        return np.zeros_like(z)
    if isinstance(loss, Huber):
        return (np.abs(z - y) <= loss.delta).astype(np.float64)
    if loss.name == "binary_cross_entropy":
        return np.asarray(_sigmoid(z) * _sigmoid(-z))
    if isinstance(loss, ClippedBinaryCrossEntropy):
        s, (low, high) = _sigmoid(z), loss.clip_bounds(dtype)
        return np.where((low <= s) & (s <= high), s * _sigmoid(-z), 0.0)
    raise NotImplementedError(f"the curvature of {loss.name!r} is missing")
