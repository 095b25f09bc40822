"""Rounding bounds hold for whoever computes correctly; test_rounding_faults.py plants the faults."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import textbook
from problems import problem
from textbook import Style

import pyengine as pe
from pyengine import _core, _oracle
from pyengine.activations import ACTIVATIONS
from pyengine.rounding import (
    activation_bound,
    behaviour,
    gradient_bounds,
    matmul_bound,
    precision,
    slope_bound,
    sum_bound,
    worst_ratio,
)

Array = np.ndarray[Any, Any]

STYLES = (
    Style(),
    Style(order="sequential", derivative_from="h", divides=True, weights_within=True),
    Style(order="reversed", log_softmax=True, weights_within=True),
)


# ------------------------------------------------------------------------------------------------------ one operation


@pytest.mark.parametrize("order", ["blas", "sequential", "reversed"])
@pytest.mark.parametrize("k", [1, 2, 17, 300])
def test_matmul_bound_holds_against_rational_arithmetic(
    k: int, order: str, dtype: str, rng: np.random.Generator
) -> None:
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((3, k), (k, 4)))
    bias = rng.standard_normal(4).astype(dtype)
    computed = Style(order=order).matmul(a, b) + bias
    bound = matmul_bound(a.astype(float), b.astype(float), precision(dtype), bias.astype(float))
    for i, j in np.ndindex(3, 4):
        exact = sum((Fraction(float(u)) * Fraction(float(v)) for u, v in zip(a[i], b[:, j], strict=True)), Fraction(0))
        error = abs(Fraction(float(computed[i, j])) - exact - Fraction(float(bias[j])))
        assert error <= Fraction(float(bound[i, j]))


def test_sum_bound_is_nearly_attained(dtype: str) -> None:
    n = 1000
    # Each term is half a unit in the last place of 1: added one after another to 1, all of them are lost.
    u = float(np.finfo(dtype).eps) / 2
    terms = np.array([1.0, *[u] * (n - 1)], dtype)
    total = terms[:1].copy()
    for term in terms[1:]:
        total += term
    error = abs(Fraction(float(total[0])) - sum(map(Fraction, terms.tolist())))
    bound = Fraction(float(sum_bound(np.array(terms.astype(float).sum()), n, precision(dtype))))
    assert bound / 2 < error <= bound


def test_a_product_without_its_last_term_exceeds_the_matmul_bound(dtype: str, rng: np.random.Generator) -> None:
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((3, 50), (50, 4)))
    bound = matmul_bound(a.astype(float), b.astype(float), precision(dtype))
    assert worst_ratio("product", a @ b, a.astype(np.longdouble) @ b.astype(np.longdouble), bound).holds
    assert not worst_ratio("product", a[:, :-1] @ b[:-1], a.astype(float) @ b.astype(float), bound).holds


def test_underflow_is_bounded_and_flushing_costs_more() -> None:
    a = np.full((2, 3), 1e-25, np.float32)
    exact = a.astype(float) @ a.T.astype(float)
    gradual, flushed = (
        matmul_bound(a.astype(float), a.T.astype(float), precision("float32", flush_to_zero=f)) for f in (False, True)
    )
    assert worst_ratio("product", a @ a.T, exact, gradual).holds
    assert not worst_ratio("product", np.ones((2, 2)), exact, flushed).holds
    assert (gradual < flushed).all()
    subnormal = np.full((2, 3), 1e-39, np.float32).astype(float)
    ones = np.ones((3, 1))
    assert worst_ratio(
        "flushed",
        np.zeros((2, 1)),
        subnormal @ ones,
        matmul_bound(subnormal, ones, precision("float32", flush_to_zero=True)),
    ).holds
    assert not worst_ratio(
        "flushed", np.zeros((2, 1)), subnormal @ ones, matmul_bound(subnormal, ones, precision("float32"))
    ).holds


def test_a_product_with_zero_has_no_error(dtype: str) -> None:
    zero, ones = np.zeros((2, 3)), np.ones((3, 2))
    for flush in (False, True):
        assert not matmul_bound(zero, ones, precision(dtype, flush_to_zero=flush), np.zeros(2)).any()


def test_products_that_may_overflow_have_no_bound() -> None:
    assert np.isinf(matmul_bound(np.array([[1e30]]), np.array([[1e30]]), precision("float32"))).all()


ARGUMENTS = np.concatenate([np.linspace(-30, 30, 4001), np.geomspace(1e-12, 80, 999), -np.geomspace(1e-12, 80, 999)])


def exact_activation(kind: pe.Activation, z: Array) -> tuple[Array, Array]:
    """f and f' from double-double arithmetic, in extended precision where the platform has it."""
    pairs = np.zeros((2, z.size))
    pairs[0] = z
    value, slope = _oracle.activation(kind.name, kind.slope, pairs)
    return value[0].astype(np.longdouble) + value[1], slope[0].astype(np.longdouble) + slope[1]


@pytest.mark.parametrize("derivative_from", ["z", "h"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_bounds_hold_and_a_scaled_activation_exceeds_them(
    name: str, derivative_from: str, dtype: str
) -> None:
    kind, z, p = ACTIVATIONS[name](), ARGUMENTS.astype(dtype), precision(dtype)
    size = np.abs(z).astype(float)
    around = behaviour(kind, z.astype(float), np.zeros(z.size))
    value_bound, slopes_bound = activation_bound(kind, around, size, p), slope_bound(around, size, np.ones(z.size), p)
    with np.errstate(all="ignore"):
        value, slope = textbook.activation(kind, z, derivative_from)
    exact_value, exact_slope = exact_activation(kind, z.astype(float))
    assert worst_ratio("f", value, exact_value, value_bound).holds
    assert worst_ratio("f'", slope, exact_slope, slopes_bound).holds
    wrong = 1 + 64 * p.u
    assert not worst_ratio("f", exact_value * wrong, exact_value, value_bound).holds
    assert not worst_ratio("f'", exact_slope * wrong, exact_slope, slopes_bound).holds


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_behaviour_encloses_the_activation_within_reach(name: str, rng: np.random.Generator) -> None:
    kind = ACTIVATIONS[name]()
    z = ARGUMENTS
    reach = np.exp(rng.uniform(-20, 2, z.size))
    around = behaviour(kind, z, reach)
    ends = [z + s * reach for s in np.linspace(-1, 1, 9)]
    p = precision("float64")
    points = [behaviour(kind, end, np.zeros(z.size)) for end in ends]
    evaluation = [
        activation_bound(kind, point, np.abs(end), p)
        + slope_bound(point, np.abs(end), np.ones(z.size), p)
        + 4 * p.u * (np.abs(z) + reach)  # the ends themselves are rounded
        for point, end in zip(points, ends, strict=True)
    ]
    for point, slack in zip(points, evaluation, strict=True):
        assert (np.abs(point.value) <= around.size + slack).all()
        assert (np.abs(point.slope) <= around.steepness + slack).all()
        assert (np.abs(point.value - around.value) <= around.steepness * reach + slack + evaluation[4]).all()
        change = np.abs(point.slope - around.slope)
        assert (change <= around.curvature * reach + around.jump + slack + evaluation[4]).all()


# -------------------------------------------------------------------------------------------------- correct networks


@pytest.mark.parametrize("seed", range(60))
def test_correct_implementations_hold_their_bounds(seed: int, dtype: str) -> None:
    given = problem(seed, dtype)
    bounds, exact = gradient_bounds(*given), pe.oracle.gradients(*given)
    assert bounds.check(given.net.gradients(*given[1:]), exact) == []
    for style in STYLES:
        assert bounds.check(textbook.gradients(*given, dtype=dtype, style=style), exact) == []


@pytest.mark.parametrize("seed", range(0, 60, 7))
def test_float64_implementations_hold_their_bounds_against_each_other(seed: int) -> None:
    given = problem(seed, "float64")
    bounds = gradient_bounds(*given, against="float64")
    found = [given.net.gradients(*given[1:]), pe.reference.gradients(*given)]
    found += [textbook.gradients(*given, dtype="float64", style=style) for style in STYLES]
    for actual in found:
        for expected in found:
            assert bounds.check(actual, expected) == []


@pytest.mark.parametrize("seed", range(0, 60, 7))
def test_a_float64_implementation_of_float32_parameters_holds_the_float64_bound(seed: int) -> None:
    given = problem(seed, "float32")
    bounds = gradient_bounds(*given, dtype="float64")
    exact = pe.oracle.gradients(*given)
    assert bounds.check(pe.reference.gradients(*given), exact) == []
    # A softmax over one class has a gradient of 0 in every arithmetic.
    narrow = textbook.gradients(*given, dtype="float32", style=Style())
    assert bool(bounds.check(narrow, exact)) == bool(exact.summed.flat.any())


@pytest.mark.parametrize("seed", range(60))
def test_torch_holds_its_bounds(seed: int, dtype: str) -> None:
    pytest.importorskip("torch")
    from torch_route import torch_gradients

    given = problem(seed, dtype)
    assert gradient_bounds(*given).check(torch_gradients(given), pe.oracle.gradients(*given)) == []


def test_the_compiled_erfc_is_that_of_the_c_library() -> None:
    z = np.concatenate([np.random.default_rng(0).standard_normal(1000) * 8.0, [0.0, -0.0, np.inf, -np.inf, 30.0]])
    expected = np.array([math.erfc(number) for number in z])
    assert np.array_equal(_core.erfc(z), expected)
    assert np.isnan(_core.erfc(np.array([np.nan]))).all()
    assert _core.erfc(z.reshape(3, -1).T).shape == (335, 3)
