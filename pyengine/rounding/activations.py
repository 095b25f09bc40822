"""What rounding needs to know of each activation: value, derivative, how fast both vary, how well both are evaluated.

The constants assume that exp, expm1, log, log1p, tanh and erf have a relative error of at most 8u, that is 4 units in
the last place (docs/tolerances.md, section 3, derives each line and says what was measured). The derivative's
constant covers both common formulas, from z and from h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._core import erfc
from ..activations import ELU, GELU, Activation, GELUTanh, LeakyReLU, Linear, ReLU, Sigmoid, SiLU, Softplus, Tanh
from .running import F64, Kinks, ambiguous

if TYPE_CHECKING:
    from collections.abc import Callable

    from .precision import Precision

ELEMENTARY = 8.0
"""Relative error of an elementary function, in units of u."""

_GELU_TANH_OUTER, _GELU_TANH_CUBIC = math.sqrt(2.0 / math.pi), 0.044715


@dataclass(frozen=True, eq=False)
class Behaviour:
    """An activation around z, over all numbers within ``reach`` of z.

    ``size``, ``steepness`` and ``curvature`` bound |f|, |f'| and |f''| there (the curvature away from a kink);
    ``jump`` is by how much f' may differ because the kink is within reach; ``value_error`` and ``slope_error`` bound
    the evaluation of f and f' in units of u. ``exact_slope`` marks f' in {0, 1}: the product with it does not round.
    """

    value: F64
    slope: F64
    size: F64
    steepness: F64
    curvature: F64
    jump: F64
    value_error: F64
    slope_error: F64
    exact_slope: bool = False


def behaviour(activation: Activation, z: F64, reach: F64, kinks: Kinks = "convention") -> Behaviour:
    """The activation around z (any shape), for arguments within ``reach`` of it."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return _BEHAVIOURS[type(activation)](activation, z, reach, kinks)


def activation_bound(activation: Activation, around: Behaviour, z_most: F64, p: Precision) -> F64:
    """Bound on the evaluation of h = f(z) from a given z, |z| ≤ z_most: E_f·u and underflow."""
    if isinstance(activation, Linear | ReLU):
        return np.zeros_like(z_most)
    lost = p.underflow if isinstance(activation, LeakyReLU) else p.smallest_normal
    # f(0) = 0 holds without error for all but these two: 0·σ(0), tanh 0, expm1(0), erf(0).
    rounds = True if isinstance(activation, Sigmoid | Softplus) else z_most > 0.0
    return np.where(rounds, p.u * around.value_error + 4.0 * lost * (1.0 + z_most), 0.0)


def slope_bound(around: Behaviour, z_most: F64, g_most: F64, p: Precision) -> F64:
    """Bound on the evaluation of ∂L/∂z = g·f'(z) from given z and g = ∂L/∂h, |g| ≤ g_most.

    E_f'·u·|g|, two products (autodiff may distribute g over the factors of f'), and underflow.
    """
    if around.exact_slope:
        return np.zeros_like(g_most)
    rounding = p.u * g_most * (around.slope_error + 2.0 * around.steepness)
    lost = 4.0 * p.smallest_normal * (1.0 + g_most) * (1.0 + np.minimum(z_most, 12.0)) ** 3
    return np.where(g_most > 0.0, rounding + lost, 0.0)


def _linear(_: Activation, z: F64, reach: F64, _kinks: Kinks) -> Behaviour:
    zero, one = np.zeros_like(z), np.ones_like(z)
    return Behaviour(z, one, np.abs(z) + reach, one, zero, zero, zero, zero, exact_slope=True)


def _relu(_: Activation, z: F64, reach: F64, kinks: Kinks) -> Behaviour:
    zero, on = np.zeros_like(z), (z > 0.0).astype(np.float64)
    jump = ambiguous(z, reach, kinks).astype(np.float64)
    return Behaviour(
        np.maximum(z, 0.0),
        on,
        np.maximum(z + reach, 0.0),
        np.maximum(on, jump),
        zero,
        jump,
        zero,
        zero,
        exact_slope=True,
    )


def _leaky_relu(activation: Activation, z: F64, reach: F64, kinks: Kinks) -> Behaviour:
    s, zero, on = activation.slope, np.zeros_like(z), z > 0.0
    near = ambiguous(z, reach, kinks)
    slope = np.where(on, 1.0, s)
    steepness = np.where(near, max(1.0, abs(s)), np.abs(slope))
    value, size = slope * z, steepness * (np.abs(z) + reach)
    rounds = near | ~on
    # The slope is rounded to the dtype, then multiplied.
    return Behaviour(
        value, slope, size, steepness, zero, np.where(near, abs(1.0 - s), 0.0),
        np.where(rounds, 2.0 * abs(s) * (np.abs(z) + reach), 0.0), np.where(rounds, abs(s), 0.0),
    )  # fmt: skip


def _elu(activation: Activation, z: F64, reach: F64, kinks: Kinks) -> Behaviour:
    alpha, on = activation.slope, z > 0.0
    near = ambiguous(z, reach, kinks)
    negative = near | ~on
    below = np.minimum(z, 0.0)
    tail = abs(alpha) * np.exp(np.minimum(z + reach, 0.0))
    value, slope = np.where(on, z, alpha * np.expm1(below)), np.where(on, 1.0, alpha * np.exp(below))
    steepness = np.where(near, np.maximum(1.0, tail), np.where(on, 1.0, tail))
    size = np.minimum(np.abs(value) + steepness * reach, np.maximum(abs(alpha), z + reach))
    # Written as exp(z) - 1, the error is that of exp(z), however small the difference.
    error = np.where(negative, ELEMENTARY * tail + 11.0 * np.minimum(size, abs(alpha)), 0.0)
    return Behaviour(
        value, slope, size, steepness, np.where(negative, tail, 0.0), np.where(near, abs(1.0 - alpha), 0.0),
        error, np.where(negative, error + 10.0 * tail + 2.0 * abs(alpha), 0.0),
    )  # fmt: skip


def _tanh(_: Activation, z: F64, reach: F64, _kinks: Kinks) -> Behaviour:
    value = np.tanh(z)
    steepness = _sech2(_nearest_zero(z, reach))
    size = np.minimum(np.abs(value) + steepness * reach, 1.0)
    curvature = 2.0 * steepness * np.tanh(np.abs(z) + reach)
    return Behaviour(
        value,
        _sech2(z),
        size,
        steepness,
        curvature,
        np.zeros_like(z),
        ELEMENTARY * size,
        3.0 + 2.0 * ELEMENTARY * size**2,
    )


def _sigmoid(_: Activation, z: F64, reach: F64, _kinks: Kinks) -> Behaviour:
    value, steepness = sigmoid(z), sigmoid_slope(_nearest_zero(z, reach))
    size = np.minimum(value + steepness * reach, 1.0)
    curvature = steepness * np.tanh((np.abs(z) + reach) / 2.0)
    return Behaviour(
        value,
        sigmoid_slope(z),
        size,
        steepness,
        curvature,
        np.zeros_like(z),
        sigmoid_error(size, steepness),
        4.0 * size + 14.0 * steepness,
    )


def _softplus(_: Activation, z: F64, reach: F64, _kinks: Kinks) -> Behaviour:
    steepness, size = sigmoid(z + reach), softplus(z + reach)
    nearest = _nearest_zero(z, reach)
    # log1p(exp(z)) errs with log1p where z is large, with both functions where it is not.
    error = 11.0 * size + 7.0 * softplus(-nearest)
    # From h, as JAX has it: exp(z - h), where the errors of h and of the difference count in full.
    slope_error = steepness * (20.0 + error + softplus(reach - z))
    curvature = sigmoid_slope(nearest)
    return Behaviour(softplus(z), sigmoid(z), size, steepness, curvature, np.zeros_like(z), error, slope_error)


def _silu(_: Activation, z: F64, reach: F64, _kinks: Kinks) -> Behaviour:
    s, most = sigmoid(z), np.abs(z) + reach
    value, slope = z * s, s * (1.0 + z * sigmoid(-z))
    curvature = np.minimum((2.0 + most) * sigmoid_slope(_nearest_zero(z, reach)), 0.5)
    steepness = np.minimum(np.abs(slope) + curvature * reach, 1.1)
    size = np.minimum(np.abs(value) + steepness * reach, most)
    return Behaviour(
        value,
        slope,
        size,
        steepness,
        curvature,
        np.zeros_like(z),
        13.0 * size,
        15.0 * sigmoid(z + reach) * (1.0 + most),
    )


def _gelu(_: Activation, z: F64, reach: F64, _kinks: Kinks) -> Behaviour:
    cdf, most = 0.5 * np.asarray(erfc(-z / math.sqrt(2.0))), np.abs(z) + reach
    value, slope = z * cdf, cdf + z * _normal_density(z)
    curvature = np.minimum(_normal_density(_nearest_zero(z, reach)) * (2.0 + most**2), 0.8)
    steepness = np.minimum(np.abs(slope) + curvature * reach, 1.13)
    size = np.minimum(np.abs(value) + steepness * reach, most)
    return Behaviour(value, slope, size, steepness, curvature, np.zeros_like(z), 8.0 * most, 7.0 + 5.0 * steepness)


def _gelu_tanh(_: Activation, z: F64, reach: F64, _kinks: Kinks) -> Behaviour:
    inner, inner_slope = _gelu_tanh_inner(z)
    t, most = np.tanh(inner), np.abs(z) + reach
    bell = _sech2(inner)
    value = 0.5 * z * (1.0 + t)
    slope = 0.5 * (1.0 + t) + 0.5 * np.where(bell > 0.0, z * bell * inner_slope, 0.0)
    widest = _sech2(_gelu_tanh_inner(_nearest_zero(z, reach))[0])
    far_slope = _gelu_tanh_inner(most)[1]
    bend = 6.0 * _GELU_TANH_OUTER * _GELU_TANH_CUBIC * most
    curvature = np.where(widest > 0.0, widest * (far_slope + most * (far_slope**2 + bend / 2.0)), 0.0)
    curvature = np.fmin(curvature, 0.8)
    steepness = np.minimum(np.abs(slope) + curvature * reach, 1.13)
    size = np.minimum(np.abs(value) + steepness * reach, most)
    # Beyond |z| = 9 the computed tanh is ±1 in both dtypes, and 1 - tanh² is exactly 0.
    near = np.minimum(most, 9.0)
    return Behaviour(
        value,
        slope,
        size,
        steepness,
        curvature,
        np.zeros_like(z),
        8.0 * most,
        6.0 + 12.0 * near * _gelu_tanh_inner(near)[1],
    )


_BEHAVIOURS: dict[type[Activation], Callable[[Activation, F64, F64, Kinks], Behaviour]] = {
    Linear: _linear,
    ReLU: _relu,
    LeakyReLU: _leaky_relu,
    ELU: _elu,
    Tanh: _tanh,
    Sigmoid: _sigmoid,
    Softplus: _softplus,
    SiLU: _silu,
    GELU: _gelu,
    GELUTanh: _gelu_tanh,
}


def sigmoid(z: F64) -> F64:
    """1 / (1 + exp(-z)), without overflow."""
    e = np.exp(-np.abs(z))
    return np.asarray(np.where(z >= 0.0, 1.0, e) / (1.0 + e))


def sigmoid_slope(z: F64) -> F64:
    """The derivative of the sigmoid: largest at 0, falling on both sides."""
    e = np.exp(-np.abs(z))
    return np.asarray(e / (1.0 + e) ** 2)


def sigmoid_error(size: F64, steepness: F64) -> F64:
    """Evaluation error of the sigmoid in units of u, from bounds on its value and derivative."""
    return np.asarray(4.0 * size + 7.0 * steepness)


def softplus(z: F64) -> F64:
    """log(1 + exp(z)), without overflow and without loss where it is small."""
    return np.asarray(np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z))))


def _nearest_zero(z: F64, reach: F64) -> F64:
    """The smallest magnitude within reach: where the bell-shaped derivatives are largest."""
    return np.asarray(np.maximum(np.abs(z) - reach, 0.0))


def _sech2(z: F64) -> F64:
    return 4.0 * sigmoid_slope(2.0 * z)


def _normal_density(z: F64) -> F64:
    return np.asarray(np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi))


def _gelu_tanh_inner(z: F64) -> tuple[F64, F64]:
    """√(2/π)·(z + 0.044715·z³) and its derivative."""
    square = _GELU_TANH_CUBIC * z * z
    return np.asarray(_GELU_TANH_OUTER * z * (1.0 + square)), np.asarray(_GELU_TANH_OUTER * (1.0 + 3.0 * square))
