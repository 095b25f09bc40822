"""Judging ∂L/∂h at a head's output: the loss's derivative, the factor of every sample, the weight of the head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ...losses import MAE, ClippedBinaryCrossEntropy, ClippedCrossEntropy
from ...parameters import Array
from ...reference import (
    binary_cross_entropy,
    clipped_binary_cross_entropy,
    clipped_cross_entropy,
    huber,
    mae,
    mse,
    softmax_cross_entropy,
)
from ...rounding import EVALUATION, Precision, accumulated, exact
from ...rounding.losses import samples, scale_error, target_rows
from ...rounding.running import F64
from ...rounding.storage import NARROW, Storage, nearest
from ...rounding.variance import COHERENT, loss_variance
from .elementwise import largest_ratio
from .finding import Finding
from .linear_stages import judged
from .statistics import Errors, sign_vectors

if TYPE_CHECKING:
    from ...batch import HeadTarget
    from ...losses import Loss

VECTORS = (1, 8, 16, 32)
"""Lanes of the vectors that sum over classes: none, AVX, AVX-512, two of those."""


def judge_loss(
    name: str,
    loss: Loss,
    weight: float,
    heads: int,
    given: HeadTarget,
    claimed: Array,
    output: Array,
    p: Precision,
    u: float,
    seed: int,
    kept: Storage,
) -> Finding:
    """Judge ∂(weight·L)/∂output, (batch, n_out)."""
    batch, n_out = output.shape
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        rows = target_rows(loss, given, n_out, p)
        s = samples(loss, exact(output, 1.0), rows, output.dtype, "any", p)
        scale = weight * given.coefficients(loss, n_out)[:, None]
        size = np.abs(scale)
        z = scale * s.d
        lost = np.where(
            (size > 0.0) & ((s.d != 0.0) | (s.d_bound > 0.0)), 4.0 * p.underflow * (1.0 + size + np.abs(s.d)), 0.0
        )
        factor = scale_error(loss, given, heads, p)
        d_bound, coherent = s.d_bound, COHERENT * p.u + _sum_of_weights(loss, given, u)
        v = scale**2 * loss_variance(loss, output.astype(np.float64), rows.y, s.d, u)
        if not kept.plain:
            steps = kept.loss_steps(loss, output.astype(np.float64), rows.y)
            own = kept.loss.u * EVALUATION
            d_bound = d_bound + steps
            factor += accumulated(kept.loss_roundings(loss, given, weight, n_out), own) * (1.0 + factor)
            coherent += kept.coherent(loss, given, weight, n_out) * own
            # Steps and products with the factor are uniform within their bounds; the factor itself is common to all.
            v = v + (scale * steps) ** 2 / 3.0 + kept.variance(z) + 2.0 * own**2 / 3.0 * z**2
        bound = size * (d_bound + factor * (np.abs(s.d) + d_bound)) + lost
        bound = bound + kept.rounding(np.abs(z) + bound)
        ratio, worst = largest_ratio(claimed, z, bound)
        errors = Errors(claimed - z, z, v, float(lost.max()), coherent, kept.flushed(z))
    smooth = np.flatnonzero(_smooth(loss, output, rows.y, s.d_bound, s.jump))
    signs = sign_vectors(seed, batch, n_out)

    def keep() -> tuple[Array, Array]:
        together = np.concatenate([output[smooth].astype(np.float64), rows.y[smooth], scale[smooth]], axis=1)
        columns = np.concatenate([output, rows.y], axis=0)
        return np.unique(together, axis=0, return_index=True)[1], np.unique(columns, axis=1, return_index=True)[1]

    def replays() -> Iterator[F64]:
        for residual in _replays(loss, given, output, weight, seed, kept):
            yield ((kept.stored(residual) if not kept.plain else residual) - z)[smooth]

    found = Finding(name, "loss", n_out, claimed.size, ratio, worst)
    if not smooth.size:
        return found
    return judged(found, errors.part(smooth, np.arange(n_out)), (signs[0][:, smooth], signs[1]), keep, replays)


def _sum_of_weights(loss: Loss, given: HeadTarget, u: float) -> float:
    """By what relative amount Σ w may be off where the loss divides by it: its σ times the limit of one entry."""
    if loss.reduction != "weighted_mean" or given.weights is None:
        return 0.0
    w = given.weights
    return u * w.size * float(np.abs(w).sum() / abs(w.sum()))


def _smooth(loss: Loss, output: Array, y: F64, d_bound: F64, jump: F64 | float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Samples of which no derivative may jump: the bounds allow for that, the variance does not."""
    if isinstance(loss, MAE):
        return np.asarray((output != y).all(axis=1))
    if isinstance(loss, ClippedBinaryCrossEntropy):
        return np.asarray((np.broadcast_to(jump, y.shape) == 0.0).all(axis=1))
    if not isinstance(loss, ClippedCrossEntropy):
        return np.ones(len(output), bool)
    shifted = np.exp(output.astype(np.float64) - output.max(axis=1, keepdims=True))
    p = shifted / shifted.sum(axis=1, keepdims=True)
    near = np.zeros(p.shape, bool)
    for edge in loss.clip_bounds(output.dtype):
        # The bound covers how well p is evaluated, times Σ y; where Σ y is 0 nothing can jump.
        near |= np.abs(p - edge) * y.sum(axis=1, keepdims=True) <= 2.0 * d_bound
    return np.asarray(~near.any(axis=1))


def _replays(loss: Loss, given: HeadTarget, output: Array, weight: float, seed: int, kept: Storage) -> Iterator[F64]:
    """∂L/∂output recomputed in its own dtype: the classes in other orders, the factors applied in other ways."""
    batch, n_out = output.shape
    dtype = output.dtype.type
    y = np.eye(n_out, dtype=output.dtype)[given.target] if given.target.ndim == 1 else given.target
    s = dtype(getattr(loss, "label_smoothing", 0.0))
    y = (1 - s) * y + s / dtype(n_out) if s else y
    weights = np.ones(batch, output.dtype) if given.weights is None else given.weights.astype(output.dtype)
    n = dtype(given.divisor(loss, n_out))
    rng = np.random.default_rng([seed, n_out])
    for order in (np.arange(n_out), np.arange(n_out)[::-1], *(rng.permutation(n_out) for _ in range(2))):
        back = np.argsort(order)
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            d = derivative(loss, output[:, order], y[:, order])[:, back]
            factors: list[Array] = [weights / n, weights * (1 / n)]
            if kept.loss.name in NARROW:
                d, *factors = (nearest(a.astype(np.float64), kept.loss).astype(d.dtype) for a in (d, *factors))
            for factor in factors:
                yield (d * (dtype(weight) * factor)[:, None]).astype(np.float64)
                yield ((d * factor[:, None]) * dtype(weight)).astype(np.float64)
    if loss.name == "softmax_cross_entropy" and kept.plain:
        for factor in (weights / n, weights * (1 / n)):
            for lanes in VECTORS:
                with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
                    d = through_log_softmax(output, y * (dtype(weight) * factor)[:, None], lanes)
                yield d.astype(np.float64)


def through_log_softmax(z: Array, target: Array, lanes: int) -> Array:
    """p·Σ target - target, as differentiating -Σ target·log softmax(z) gives it; Σ by vectors of some lanes.

    The textbook's p - y takes Σ y for 1. Smoothed, all terms of that sum but one are the same number in every sample,
    and so is its rounding: a common factor of p alone, which shows wherever p and the target nearly cancel.
    """
    whole = target.shape[1] // lanes * lanes
    total = np.zeros((len(target), lanes), target.dtype)
    for begin in range(0, whole, lanes):
        total += target[:, begin : begin + lanes]
    total[:, : target.shape[1] - whole] += target[:, whole:]
    while total.shape[1] > 1:
        half = total.shape[1] // 2
        total = total[:, :half] + total[:, half:]
    shifted = z - z.max(axis=1, keepdims=True)
    p = np.exp(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
    return np.asarray(p * total - target)


def derivative(loss: Loss, z: Array, y: Array) -> Array:
    """∂l/∂z by the textbook, in the dtype of z."""
    routes: dict[str, Any] = {
        "softmax_cross_entropy": softmax_cross_entropy,
        "binary_cross_entropy": binary_cross_entropy,
        "mse": mse,
        "mae": mae,
    }
    if isinstance(loss, ClippedCrossEntropy):
        found = clipped_cross_entropy(z, y, *loss.clip_bounds(z.dtype))
    elif isinstance(loss, ClippedBinaryCrossEntropy):
        found = clipped_binary_cross_entropy(z, y, *loss.clip_bounds(z.dtype))
    elif loss.name == "huber":
        found = huber(z, y, getattr(loss, "delta", 1.0))
    else:
        found = routes[loss.name](z, y)
    return np.asarray(found[1], z.dtype)
