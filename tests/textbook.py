"""The textbook program in any NumPy dtype, with the choices that correct implementations make differently, and faults.

It stands for the world outside: whatever it computes without a fault must lie within the rounding bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

import pyengine as pe
from pyengine.batch import checked_batch

Array = np.ndarray[Any, Any]

_erf = np.frompyfunc(math.erf, 1, 1)


@dataclass(frozen=True)
class Style:
    """How an implementation does what the mathematics leaves open."""

    order: str = "blas"  # of summation: "blas", "sequential", "reversed"
    derivative_from: str = "z"  # or "h"
    divides: bool = False  # by N, else multiplies by a rounded 1/N
    weights_within: bool = False  # the loss, else after the per-loss gradients
    log_softmax: bool = False
    flipped: tuple[str, int, int] | None = None  # the fault: a layer, a sample and a unit whose slope is switched

    def matmul(self, a: Array, b: Array) -> Array:
        if self.order == "blas":
            return a @ b
        steps = range(a.shape[1])
        total = np.zeros((a.shape[0], b.shape[1]), a.dtype)
        for k in steps if self.order == "sequential" else reversed(steps):
            total += a[:, k, None] * b[None, k, :]
        return total


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def activation(kind: pe.Activation, z: Array, derivative_from: str) -> tuple[Array, Array]:
    """f(z) and f'(z) in the dtype of z."""
    one, s = z.dtype.type(1), z.dtype.type(kind.slope)
    root = z.dtype.type(math.sqrt(2 / math.pi))
    from_h = derivative_from == "h"
    match kind.name:
        case "linear":
            return z, np.ones_like(z)
        case "relu":
            return np.maximum(z, 0), (z > 0).astype(z.dtype)
        case "leaky_relu":
            return np.where(z > 0, z, s * z), np.where(z > 0, one, s)
        case "elu":
            below = np.minimum(z, 0)
            h = s * (np.exp(below) - 1) if from_h else s * np.expm1(below)
            return np.where(z > 0, z, h), np.where(z > 0, one, h + s if from_h else s * np.exp(below))
        case "tanh":
            h = np.tanh(z)
            return h, 1 - h * h if from_h else (1 - h) * (1 + h)
        case "sigmoid":
            h = sigmoid(z)
            e = np.exp(-np.abs(z))
            return h, h * (1 - h) if from_h else e / ((1 + e) * (1 + e))
        case "softplus":
            return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))), sigmoid(z)
        case "silu":
            h = sigmoid(z)
            return z * h, h + z * h * (1 - h) if from_h else h * (1 + z * (1 - h))
        case "gelu":
            cdf = (one + np.asarray(_erf(z * z.dtype.type(math.sqrt(0.5))), z.dtype)) / 2
            return z * cdf, cdf + z * np.exp(-z * z / 2) * z.dtype.type(1 / math.sqrt(2 * math.pi))
        case _:
            cubic = z.dtype.type(0.044715)
            t = np.tanh(root * (z + cubic * z * z * z))
            return z * (1 + t) / 2, (1 + t) / 2 + z / 2 * (1 - t * t) * root * (1 + 3 * cubic * z * z)


def loss_terms(loss: pe.Loss, z: Array, given: Array, params_dtype: np.dtype[Any], style: Style) -> tuple[Array, Array]:
    """The samples' losses and ∂l/∂z, both (batch, n_out)."""
    one = z.dtype.type(1)
    y = np.eye(z.shape[1], dtype=z.dtype)[given] if given.ndim == 1 else given.astype(z.dtype)
    smoothing = z.dtype.type(getattr(loss, "label_smoothing", 0.0))
    if smoothing > 0:
        y = (1 - smoothing) * y + smoothing / z.shape[1]
    if isinstance(loss, pe.SoftmaxCrossEntropy | pe.ClippedCrossEntropy):
        shifted = z - z.max(axis=1, keepdims=True)
        e = np.exp(shifted)
        total = e.sum(axis=1, keepdims=True)
        log_p = shifted - np.log(total)
        p = np.exp(log_p) if style.log_softmax else e / total
        if isinstance(loss, pe.SoftmaxCrossEntropy):
            return np.where(y > 0, -y * log_p, 0), p * y.sum(axis=1, keepdims=True) - y
        q = p / p.sum(axis=1, keepdims=True)
        low, high = (z.dtype.type(bound) for bound in loss.clip_bounds(params_dtype))
        # As autodiff has it: through the logarithm, the clip, the division and the softmax, one after another.
        dq = np.where((q >= low) & (q <= high), -y / np.maximum(q, low), 0)
        dp = dq - (dq * q).sum(axis=1, keepdims=True)
        return -y * np.log(np.clip(q, low, high)), p * (dp - (dp * p).sum(axis=1, keepdims=True))
    if isinstance(loss, pe.ClippedBinaryCrossEntropy):
        p = sigmoid(z)
        low, high = (z.dtype.type(bound) for bound in loss.clip_bounds(params_dtype))
        q = np.clip(p, low, high)
        # As autodiff has it: through the logarithms, the clip and the sigmoid, one after another.
        dq = np.where((p >= low) & (p <= high), (one - y) / (one - q) - y / q, 0)
        return -(y * np.log(q) + (one - y) * np.log(one - q)), dq * (p * (one - p))
    if isinstance(loss, pe.BinaryCrossEntropy):
        return np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z))), sigmoid(z) - y
    r = z - y
    if isinstance(loss, pe.MSE):
        return r * r, 2 * r
    if isinstance(loss, pe.MAE):
        return np.abs(r), np.sign(r)
    delta = z.dtype.type(loss.delta)
    far = delta * (np.abs(r) - delta / 2)
    return np.where(np.abs(r) <= delta, r * r * (one / 2), far), np.clip(r, -delta, delta)


def gradients(
    net: pe.Network, params: Any, x: Any, targets: Any, sample_weight: Any = None, *, dtype: Any, style: Style
) -> SimpleNamespace:
    """What ``net.gradients`` returns, computed by the textbook in ``dtype``."""
    with np.errstate(all="ignore"):
        return _gradients(net, params, x, targets, sample_weight, np.dtype(dtype), style)


def _gradients(
    net: pe.Network, params: Any, x: Any, targets: Any, sample_weight: Any, dtype: np.dtype[Any], style: Style
) -> SimpleNamespace:
    own = next(iter(params.values())).dtype
    batch = checked_batch(x, targets, sample_weight, n_in=net.n_in, heads=net.heads, dtype=own)
    wide = {name: value.astype(dtype) for name, value in params.items()}
    losses, per_loss, weighted = {}, {}, {}
    for name, head in net.heads.items():
        layers = [*net.trunk_layers, *net.head_layers[name]]
        h, tape = batch.x.astype(dtype), []
        for layer in layers:
            z = style.matmul(h, wide[f"{layer.name}.weight"].T)
            if layer.bias:
                z = z + wide[f"{layer.name}.bias"]
            value, slope = activation(layer.activation, z, style.derivative_from)
            if style.flipped is not None and style.flipped[0] == layer.name:
                slope[style.flipped[1:]] = 1 - slope[style.flipped[1:]]
            tape.append((layer, h, slope))
            h = value
        given = batch.heads[name]
        l, d = loss_terms(head.loss, h, given.target, own, style)
        w = np.ones(len(h), dtype) if given.weights is None else given.weights.astype(dtype)
        n = dtype.type(given.divisor(head.loss, h.shape[1]))
        factor = w / n if style.divides else w * (1 / n)
        losses[name] = float((factor[:, None] * l).sum())
        per_loss[name] = _backward(tape, wide, factor[:, None] * d, style)
        weighted[name] = _backward(tape, wide, dtype.type(head.weight) * factor[:, None] * d, style)
    summed: dict[str, Array] = {}
    for name, head in net.heads.items():
        for key, value in per_loss[name].items():
            term = weighted[name][key] if style.weights_within else dtype.type(head.weight) * value
            summed[key] = summed[key] + term if key in summed else term
    trunk = [key for key in params if key.startswith("trunk.")]
    rows = np.array([[*(v for key in trunk for v in g[key].ravel())] for g in per_loss.values()], dtype)
    return SimpleNamespace(
        losses=losses,
        total_loss=sum(head.weight * losses[name] for name, head in net.heads.items()),
        per_loss=per_loss,
        summed=summed,
        gramian=rows @ rows.T,
    )


def _backward(tape: Any, params: dict[str, Array], dh: Array, style: Style) -> dict[str, Array]:
    found = {}
    for layer, h, slope in reversed(tape):
        dz = dh * slope
        if layer.bias:
            found[f"{layer.name}.bias"] = style.matmul(np.ones((1, len(dz)), dz.dtype), dz)[0]
        found[f"{layer.name}.weight"] = style.matmul(dz.T, h)
        dh = style.matmul(dz, params[f"{layer.name}.weight"])
    return found
