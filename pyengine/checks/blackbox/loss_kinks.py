"""Where a loss's derivative jumps: at the clip of a clipped cross-entropy, and where an absolute error is 0.

An output within rounding of such a place may be taken on its other side, as a unit may at the kink of ReLU, or between
both: exactly at the clip, ``maximum`` has the derivative ½. Taking it there changes ∂L/∂output of its sample by a known
vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...losses import MAE, ClippedBinaryCrossEntropy, ClippedCrossEntropy
from ...reference import targets_as_rows
from ...rounding.activations import sigmoid, sigmoid_slope
from ...rounding.losses import clipped_sigmoid_error
from ...rounding.variance import softmax_variance

if TYPE_CHECKING:
    from ...batch import HeadTarget
    from ...losses import Loss

F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]
KINKED_LOSSES = (MAE, ClippedCrossEntropy, ClippedBinaryCrossEntropy)


def place(head: str) -> str:
    """What stands for the loss of a head among the layers' names."""
    return f"the loss of {head}"


class LossKinks:
    """The jumps of an unweighted loss at its outputs z (batch, n_out)."""

    def __init__(self, loss: Loss, z: F64, given: HeadTarget, dtype: np.dtype[Any]) -> None:
        self.loss, self.z = loss, z
        self.factor = given.coefficients(loss, z.shape[1])[:, None]
        y = targets_as_rows(loss, given, z.shape[1])
        if isinstance(loss, ClippedCrossEntropy):
            # ∂l/∂z = (Σ v)·p - v, v = y between the bounds and 0 beyond: `jump` is how v changes.
            self.edges = loss.clip_bounds(dtype)
            self.p, self.own_variance = softmax_variance(z)
            self.jump = np.where((self.edges[0] <= self.p) & (self.p <= self.edges[1]), -y, y)
        elif isinstance(loss, ClippedBinaryCrossEntropy):
            self.edges, self.p = loss.clip_bounds(dtype), sigmoid(z)
            self.jump = np.where((self.edges[0] <= self.p) & (self.p <= self.edges[1]), y - self.p, self.p - y)
        else:
            self.residual = z - y
            self.jump = -2.0 * np.sign(self.residual)

    def distance(self, variance: F64, u: float) -> F64:
        """How far each output is from its kink, in standard deviations; ``variance`` is that of z, (batch, n_out)."""
        if isinstance(self.loss, MAE):
            return np.abs(self.residual) / np.sqrt(variance)
        p = self.p
        if isinstance(self.loss, ClippedBinaryCrossEntropy):
            steepness = sigmoid_slope(self.z)
            sigma = np.sqrt(steepness**2 * variance + clipped_sigmoid_error(self.z, 0.0, steepness, u) ** 2 / 3.0)
            return np.asarray(np.minimum(*(np.abs(p - edge) for edge in self.edges)) / sigma)
        moved = (1.0 - 2.0 * p) * variance + (p * p * variance).sum(axis=1, keepdims=True)
        # The division by the row's sum, that sum, and the classes' sum on the way.
        evaluated = self.own_variance + (16.0 + p.shape[1]) * p * p
        sigma = np.sqrt(p * p * np.maximum(moved, 0.0) + u * u / 3.0 * evaluated)
        return np.asarray(np.minimum(*(np.abs(p - edge) for edge in self.edges)) / sigma)

    def change(self, share: F64) -> F64:
        """By what ∂L/∂z changes if these outputs are taken on the other side: 1 wholly, ½ as ties may be, 0 not."""
        jump = self.jump * share
        if not isinstance(self.loss, ClippedCrossEntropy):
            return np.asarray(self.factor * jump)
        return np.asarray(self.factor * (jump.sum(axis=1, keepdims=True) * self.p - jump))

    def each(self, samples: Index, outputs: Index) -> F64:
        """By what the ∂L/∂z of a sample changes if one of its outputs is taken on the other side: (count, n_out), a row
        for each pair of ``samples`` and ``outputs``."""
        jump = self.jump[samples, outputs]
        found = np.zeros((len(samples), self.z.shape[1]))
        found[np.arange(len(samples)), outputs] = jump
        if isinstance(self.loss, ClippedCrossEntropy):
            found = jump[:, None] * self.p[samples] - found
        return np.asarray(self.factor[samples] * found)

    def moves(self, near: Mask, amplitude: F64) -> float:
        """Σ over ``near`` of |⟨amplitude, what taking that output on its other side changes⟩|."""
        one = self.factor * amplitude * self.jump
        if isinstance(self.loss, ClippedCrossEntropy):
            one = self.factor * self.jump * ((amplitude * self.p).sum(axis=1, keepdims=True) - amplitude)
        return float(np.abs(one)[near].sum())
