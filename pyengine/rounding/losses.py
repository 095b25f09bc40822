"""The running error of each loss and of its gradient, for outputs z that themselves carry an error.

Each function takes z and the targets as rows (batch, n_out) and returns the samples' losses l_ij and the derivatives
∂l/∂z, with bounds on the distance between any two allowed implementations. docs/tolerances.md, section 4, derives
each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..losses import (
    MAE,
    MSE,
    BinaryCrossEntropy,
    ClippedBinaryCrossEntropy,
    ClippedCrossEntropy,
    Huber,
    Loss,
    SoftmaxCrossEntropy,
)
from .activations import ELEMENTARY, sigmoid, sigmoid_error, sigmoid_slope, softplus
from .precision import FLOAT64_ROUNDOFF, Precision, accumulated
from .running import F64, Kinks, Running, ambiguous

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..batch import HeadTarget

SCALE_ROUNDINGS = 8
"""How often the factor of a sample may be rounded.

Weight and divisor to the dtype (2), their product or quotient (1), separate means over features and batch (2), the
weight of the head to the dtype (1), two products with it (2).
"""


@dataclass(frozen=True, eq=False)
class Samples:
    """Per output element: the loss ``l`` and its derivative ``d``, unscaled, with bounds. ``jump`` is the part of
    ``d_bound`` that stands for the other side of a clip which the output may be on."""

    l: F64
    l_bound: F64
    d: F64
    d_bound: F64
    jump: F64 | float = 0.0


@dataclass(frozen=True, eq=False)
class Rows:
    """Targets (batch, n_out) with label smoothing applied, and the bound on the rounding of that."""

    y: F64
    bound: F64


def target_rows(loss: Loss, given: HeadTarget, n_out: int, p: Precision) -> Rows:
    """The targets as every route understands them: one-hot rows for classes, smoothed."""
    y = np.eye(n_out)[given.target] if given.target.ndim == 1 else given.target.astype(np.float64)
    s = float(getattr(loss, "label_smoothing", 0.0))
    if s == 0.0:
        return Rows(y, np.zeros_like(y))
    # 1 - s, s/n_out, the product and the sum are rounded, and s itself.
    return Rows((1.0 - s) * y + s / n_out, 4.0 * p.u * (y + s / n_out))


def scale_error(loss: Loss, given: HeadTarget, extra: int, p: Precision) -> float:
    """Relative error of a sample's factor: 1/N rounded or divided by, weights, and ``extra`` more roundings."""
    n: float = SCALE_ROUNDINGS + extra
    if loss.reduction == "weighted_mean" and given.weights is not None:
        # Σ w is added up in the dtype; negative weights make it cancel.
        n += given.weights.size * float(np.abs(given.weights).sum() / abs(given.weights.sum()))
    return accumulated(n, p.u)


def samples(loss: Loss, z: Running, y: Rows, dtype: np.dtype[Any], kinks: Kinks, p: Precision) -> Samples:
    """Losses and derivatives of a batch, unscaled. ``dtype`` is that of the parameters: it fixes the clip's bounds."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        if isinstance(loss, ClippedCrossEntropy):
            return _clipped_cross_entropy(z, y, *loss.clip_bounds(dtype), p)
        if isinstance(loss, ClippedBinaryCrossEntropy):
            return _clipped_binary_cross_entropy(z, y.y, *loss.clip_bounds(dtype), p)
        if isinstance(loss, Huber):
            return _huber(z, y, loss, p)
        if isinstance(loss, MAE):
            return _mae(z, y, kinks, p)
        return _PLAIN[type(loss)](z, y, p)


def _mse(z: Running, y: Rows, p: Precision) -> Samples:
    r = z.value - y.y
    most = np.abs(r) + z.reach
    lost = 3.0 * p.underflow
    return Samples(
        r * r,
        2.0 * most * z.bound + 4.0 * p.u * most**2 + lost * (1.0 + most),
        2.0 * r,
        2.0 * z.bound + 3.0 * p.u * 2.0 * most + lost,
    )


def _mae(z: Running, y: Rows, kinks: Kinks, p: Precision) -> Samples:
    r = z.value - y.y
    flushed = p.smallest_normal if p.flush_to_zero else 0.0
    jump = np.where(ambiguous(r, z.reach + np.where(r != 0.0, flushed, 0.0), kinks), 2.0, 0.0)
    return Samples(np.abs(r), z.bound + 2.0 * p.u * (np.abs(r) + z.reach) + flushed, np.sign(r), jump)


def _huber(z: Running, y: Rows, loss: Huber, p: Precision) -> Samples:
    delta = loss.delta
    r = z.value - y.y
    most = np.abs(r) + z.reach
    slope = np.minimum(most, delta)
    size = np.abs(r)
    inside = np.minimum(size, delta)
    l = np.where(size <= delta, 0.5 * inside * inside, delta * (size - 0.5 * delta))
    lost = 3.0 * p.underflow
    # The derivative is continuous: no jump at ±delta. delta is rounded to the dtype.
    d_bound = np.minimum(z.bound, 2.0 * delta) + 3.0 * p.u * slope + lost
    if loss.form != "clipped":
        # With q = min(|r|, delta), q²/2 + delta·(|r| - q): autodiff forms delta + (q - delta), where the difference is
        # rounded, and one of the two deltas (times a factor) if the sum is fused.
        d_bound = d_bound + np.where(size - z.reach < delta, 2.0 * p.u * delta, 0.0)
    return Samples(
        l, slope * z.bound + 8.0 * p.u * slope * most + lost * (1.0 + most), np.clip(r, -delta, delta), d_bound
    )


def _binary_cross_entropy(z: Running, y: Rows, p: Precision) -> Samples:
    value, reach, most = z.value, z.reach, z.most
    s = sigmoid(value)
    steepness = sigmoid_slope(np.maximum(np.abs(value) - reach, 0.0))
    size = np.minimum(s + steepness * reach, 1.0)
    lost = 4.0 * p.smallest_normal * (1.0 + most)
    l = np.maximum(value, 0.0) - value * y.y + np.log1p(np.exp(-np.abs(value)))
    # Both usual forms: max(z, 0) - z·y + log(1 + e^-|z|), and -y·log σ(z) - (1 - y)·log σ(-z).
    terms = 4.0 * most * (1.0 + y.y) + 22.0 * (y.y * softplus(-value + reach) + (1.0 - y.y) * softplus(value + reach))
    tail = 18.0 * np.log1p(np.exp(-np.maximum(np.abs(value) - reach, 0.0)))
    slope = np.minimum(np.abs(s - y.y) + steepness * reach, 1.0)
    d_bound = steepness * z.bound + p.u * (2.0 * sigmoid_error(size, steepness) + 4.0 * (size + y.y)) + lost
    return Samples(l, slope * z.bound + p.u * (terms + tail) + lost, s - y.y, d_bound)


def clipped_sigmoid_error(value: F64, reach: F64 | float, steepness: F64, u: float) -> F64:
    """Evaluation error of a sigmoid near 1 as of one elsewhere, but no more than 2·(1 - p): 1 + e^-z rounds to 1 there.

    The largest within reach of z, in absolute terms; ``steepness`` bounds the derivative there.
    """
    return np.asarray(np.minimum(u * sigmoid_error(sigmoid(value + reach), steepness), 2.0 * sigmoid(reach - value)))


def _clipped_binary_cross_entropy(z: Running, y: F64, low: float, high: float, p: Precision) -> Samples:
    value, reach = z.value, z.reach
    s, rest = sigmoid(value), sigmoid(-value)
    steepness = sigmoid_slope(np.maximum(np.abs(value) - reach, 0.0))
    evaluated = clipped_sigmoid_error(value, reach, steepness, p.u)
    reached = steepness * reach + (1.0 + FLOAT64_ROUNDOFF / p.u) * evaluated
    within = (low <= s) & (s <= high)
    near = ((np.abs(s - low) <= reached) | (np.abs(s - high) <= reached)) & (reached > 0.0)
    # Autodiff multiplies (1 - y)/(1 - q) - y/q by p·(1 - p): each part rounds eight times on its way.
    parts = y * np.minimum(rest + reached, 1.0) + (1.0 - y) * np.minimum(s + reached, 1.0)
    error = steepness * z.bound + 2.0 * evaluated + 8.0 * p.u * parts + 4.0 * p.smallest_normal * (1.0 + z.most)
    jump = np.where(near, np.abs(s - y) + reached, 0.0)
    d_bound = np.where(within | near, error, 0.0) + jump
    q = np.clip(s, low, high)
    log_p = np.minimum(value, 0.0) - np.log1p(np.exp(-np.abs(value)))
    log_q, log_rest = np.where(within, log_p, np.log(q)), np.where(within, log_p - value, np.log1p(-q))
    lowest, highest = np.clip(s - reached, low, high), np.clip(s + reached, low, high)
    moved = y * np.log(highest / lowest) + (1.0 - y) * (np.log1p(-lowest) - np.log1p(-highest))
    # 1 - q is rounded, the logarithms are evaluated, then two products with y and 1 - y, a sum.
    most = y * (np.abs(log_q) + np.log(highest / lowest)) + (1.0 - y) * (np.abs(log_rest) + 1.0)
    l_bound = moved + p.u * ((ELEMENTARY + 4.0) * most + 1.0) + 4.0 * p.smallest_normal
    return Samples(-(y * log_q + (1.0 - y) * log_rest), l_bound, np.where(within, s - y, 0.0), d_bound, jump)


@dataclass(frozen=True, eq=False)
class _Softmax:
    """p = softmax(z) over the last axis, and log p.

    ``most`` bounds every p that may stand here. ``moved`` and ``reached`` bound how far p moves with z's bound and
    reach, ``evaluated`` by how much its evaluation from a given z errs; ``log_bound`` is the error of log p with both
    causes.
    """

    p: F64
    log_p: F64
    most: F64
    moved: F64
    reached: F64
    evaluated: F64
    log_bound: F64
    log_most: F64


def _softmax(z: Running, p: Precision, further_roundings: float = 0.0) -> _Softmax:
    classes = z.value.shape[1]
    shifted = z.value - z.value.max(axis=1, keepdims=True)
    e = np.exp(shifted)
    total = e.sum(axis=1, keepdims=True)
    value, log_p = e / total, shifted - np.log(total)
    if classes == 1:
        # exp(0) = 1 and 1/1 = 1 do not round, whatever z is.
        one, zero = value, np.zeros_like(value)
        return _Softmax(one, zero, one, zero, zero, zero, zero, zero)
    wide = z.reach + z.reach.max(axis=1, keepdims=True)
    highest = np.minimum(0.0, log_p + wide)
    drift, drift_reach = _log_drift(z.bound, highest), _log_drift(z.reach, highest)
    log_most = np.abs(log_p) + drift_reach
    # The errors of exp/sum and of exp(log-softmax), added: see the derivation.
    rounded = p.u * (np.abs(shifted) + wide + ELEMENTARY)
    mean = np.fmin(_grown(highest, rounded).sum(axis=1, keepdims=True), rounded.max(axis=1, keepdims=True))
    log_evaluated = (
        rounded + mean * (1.0 + mean) + p.u * (log_most + classes + ELEMENTARY * (math.log(classes) + 1.0) + 2.0)
    )
    log_evaluated = log_evaluated + p.u * further_roundings
    evaluated = _grown(highest, log_evaluated)
    return _Softmax(
        value,
        log_p,
        np.exp(highest) + evaluated,
        _move(highest, drift),
        _move(highest, drift_reach),
        evaluated,
        drift + log_evaluated * (1.0 + log_evaluated) + p.u * (ELEMENTARY + 2.0) * log_most,
        log_most,
    )


_FINITE = math.log(np.finfo(np.float64).max)
"""exp of what lies below is finite."""


def _grown(highest: F64, by: F64) -> F64:
    """The largest of p·(exp(by) - 1) over log p ≤ highest, without ∞·0 where p is tiny and ``by`` huge."""
    if float(by.max()) < _FINITE:
        return np.asarray(np.exp(highest) * np.expm1(by))
    return np.asarray(np.fmin(np.exp(highest) * np.expm1(by), np.exp(highest + by)))


def _log_drift(distance: F64, highest: F64) -> F64:
    """By how much log p_j moves when each z_i moves by distance_i: distance_j + log Σ p_i·exp(distance_i)."""
    if not distance.any():
        return distance
    worst = distance.max(axis=1, keepdims=True)
    return np.asarray(distance + np.fmin(worst, _grown(highest, distance).sum(axis=1, keepdims=True)))


def _move(highest: F64, drift: F64) -> F64:
    """By how much p moves. All p of a row add up to 1: the largest moves by no more than the others together."""
    if not drift.any():
        return drift
    moved = np.fmin(_grown(highest, drift), 1.0)
    top = highest.argmax(axis=1)[:, None]
    others = moved.copy()
    np.put_along_axis(others, top, 0.0, axis=1)
    largest = np.minimum(np.take_along_axis(moved, top, axis=1), others.sum(axis=1, keepdims=True))
    np.put_along_axis(moved, top, largest, axis=1)
    return moved


def _mass_error(y: F64, p: Precision) -> F64:
    """Rounding of Σ y, which an implementation may take to be 1 where the probabilities miss that by rounding only."""
    mass, classes = y.sum(axis=1, keepdims=True), y.shape[1]
    off = np.abs(mass - 1.0)
    return np.asarray(accumulated(classes, p.u) * mass + np.where(off <= 2.0 * classes * p.u, off, 0.0))


def _softmax_cross_entropy(z: Running, rows: Rows, p: Precision) -> Samples:
    s, y = _softmax(z, p), rows.y
    mass = y.sum(axis=1, keepdims=True)
    most, error = s.most, s.moved + s.evaluated
    smoothing = rows.bound + most * rows.bound.sum(axis=1, keepdims=True)
    d_bound = mass * error + most * _mass_error(y, p) + smoothing + 4.0 * p.u * (mass * most + y)
    d_bound = d_bound + 4.0 * p.smallest_normal * (1.0 + mass)
    terms = np.where(y > 0.0, y * s.log_p, 0.0)
    l_bound = y * s.log_bound + rows.bound * s.log_most + accumulated(y.shape[1] + 3, p.u) * y * s.log_most
    return Samples(-terms, np.where(y > 0.0, l_bound, 0.0), mass * s.p - y, d_bound)


def _clipped_cross_entropy(z: Running, rows: Rows, low: float, high: float, p: Precision) -> Samples:
    y = rows.y
    classes = y.shape[1]
    # p is divided by the row's sum once more.
    s = _softmax(z, p, further_roundings=classes + 4.0)
    most, error = s.most, s.moved + s.evaluated
    reached = s.reached + (1.0 + FLOAT64_ROUNDOFF / p.u) * s.evaluated
    within = (low <= s.p) & (s.p <= high)
    near = ((np.abs(s.p - low) <= reached) | (np.abs(s.p - high) <= reached)) & (reached > 0.0)
    v, v_near = np.where(within, y, 0.0), np.where(near, y, 0.0)
    v_most = np.where(within | near, y, 0.0)
    mass, mass_most = v.sum(axis=1, keepdims=True), v_most.sum(axis=1, keepdims=True)
    # A class that crosses the clip switches on or off y_i·(p_j - [i = j]).
    jump = most * (v_near.sum(axis=1, keepdims=True) - v_near) + v_near * np.minimum(1.0, 1.0 - s.p + reached)
    smoothing = np.where(v_most > 0.0, rows.bound, 0.0)
    smoothing = smoothing + most * smoothing.sum(axis=1, keepdims=True)
    # Two more sums over the classes on the way back, through the division and through the softmax.
    d_bound = mass_most * error + jump + smoothing + 8.0 * p.u * (most * mass_most + v_most)
    d_bound = (
        d_bound + most * mass_most * accumulated(3 * classes + 16, p.u) + 4.0 * p.smallest_normal * (1.0 + mass_most)
    )
    log_q = np.where(within, s.log_p, np.log(np.clip(s.p, low, high)))
    # Where p cannot come within the bounds, the logarithm is that of a constant.
    far = ~within & ~near
    log_most = np.abs(log_q) + np.where(far, 0.0, s.log_bound)
    l_bound = y * np.where(far, 0.0, s.log_bound) + rows.bound * log_most
    l_bound = l_bound + (accumulated(classes + 3, p.u) + p.u * ELEMENTARY) * y * log_most
    return Samples(np.where(y > 0.0, -y * log_q, 0.0), np.where(y > 0.0, l_bound, 0.0), mass * s.p - v, d_bound)


_PLAIN: dict[type[Loss], Callable[[Running, Rows, Precision], Samples]] = {
    SoftmaxCrossEntropy: _softmax_cross_entropy,
    BinaryCrossEntropy: _binary_cross_entropy,
    MSE: _mse,
}
