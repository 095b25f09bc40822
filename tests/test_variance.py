"""The variance of every operation: an envelope of what correct implementations do, and not much more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from staged_runs import everyday, torch_witnesses

import pyengine as pe
from pyengine.checks.staged.loss_stage import derivative
from pyengine.checks.staged.matrices import Matrix, Product, Room
from pyengine.checks.staged.products import Linear
from pyengine.checks.staged.screen import STRIDE, screen
from pyengine.checks.staged.statistics import ALPHA, PROJECTED, Errors, measured, sign_vectors
from pyengine.rounding import precision, unit_roundoff
from pyengine.rounding.variance import heads_variance, largest_of, loss_variance, product_variance, sum_variance

Array = np.ndarray[Any, Any]
U = unit_roundoff("float32")


def sequential(a: Array, b: Array) -> Array:
    total = np.zeros((a.shape[0], b.shape[1]), a.dtype)
    for k in range(a.shape[1]):
        total += a[:, k, None] * b[None, k]
    return total


def product_of(claimed: Array, a: Array, b: Array, bias: Array | None = None) -> Linear:
    return Linear(claimed, (Product(Matrix(a), Matrix(b)),), bias, precision("float32"), U)


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


# ----------------------------------------------------------------------------------------------------------- products


@pytest.mark.parametrize("k", [1, 2, 8, 64, 512])
def test_sequential_products_have_errors_of_about_the_predicted_variance(k: int, rng: np.random.Generator) -> None:
    a, b = normal(rng, 60, k), normal(rng, k, 60)
    stage = product_of(sequential(a, b), a, b)
    mean = float(np.mean(stage.residual**2 / stage.variance))
    # V has every number at the lower end of its binade, where a rounding is relatively largest.
    assert mean <= 1.0
    assert mean >= 1.0 / 8.0, "an envelope that is far too wide sees nothing"


@pytest.mark.parametrize("k", [3, 100])
def test_fused_and_blocked_products_lie_within_the_variance(k: int, rng: np.random.Generator) -> None:
    a, b, bias = normal(rng, 60, k), normal(rng, k, 60), normal(rng, 60)
    stage = product_of(a @ b + bias, a, b, bias)
    assert float(np.mean(stage.residual**2 / stage.variance)) <= 1.0
    assert measured(stage.errors, sign_vectors(0, 60, 60)).flagged(3600) == ()


def test_a_product_scaled_by_little_exceeds_its_limits(rng: np.random.Generator) -> None:
    a, b = normal(rng, 200, 64), normal(rng, 64, 200)
    stage = product_of((a @ b * (1 + 2 * U)).astype(np.float32), a, b)
    flagged = measured(stage.errors, sign_vectors(0, 200, 200)).flagged(200 * 200)
    assert "whole" in flagged
    assert "entry" not in flagged, "one entry alone does not tell"


def test_one_wrong_entry_exceeds_its_limit(rng: np.random.Generator) -> None:
    a, b = normal(rng, 50, 64), normal(rng, 64, 50)
    claimed = a @ b
    stage = product_of(claimed, a, b)
    claimed[3, 5] += np.float32(2 * largest_of(2500, ALPHA) * np.sqrt(stage.variance[3, 5]) * 2.0**stage.exponent)
    assert "entry" in measured(product_of(claimed, a, b).errors, sign_vectors(0, 50, 50)).flagged(2500)


def test_variance_of_two_heads_is_one_more_rounding() -> None:
    z = np.array([[3.0]])
    assert heads_variance([np.array([[1.0]]), np.array([[2.0]])], z, U) == pytest.approx(U * U / 3 * 9.0, rel=U)
    assert heads_variance([z], z, U) == 0.0


def test_heads_that_cancel_leave_the_variance_of_their_shares() -> None:
    parts = [np.full((1, 1), value) for value in (5.0, -5.0, 5.0, -5.0)]
    assert heads_variance(parts, np.zeros((1, 1)), U)[0, 0] > U * U / 3 * 25.0


def test_form_of_a_product_counts_a_bias_as_a_term() -> None:
    assert product_variance(9, bias=True).on_q == product_variance(10, bias=False).on_q
    assert product_variance(9, bias=True).on_z0 == 1.0


# --------------------------------------------------------------------------------------------------------------- sums


@pytest.mark.parametrize("n", [2, 30, 1000])
@pytest.mark.parametrize("add", [lambda t: t.sum(axis=0), lambda t: np.add.accumulate(t, axis=0)[-1]])
def test_sums_lie_within_their_variance(n: int, add: Callable[[Array], Array], rng: np.random.Generator) -> None:
    terms = normal(rng, n, 400)
    wide = terms.astype(np.float64)
    z = wide.sum(axis=0)
    ratio = (add(terms) - z) ** 2 / sum_variance(z, (wide**2).sum(axis=0), n, U)
    assert float(np.mean(ratio)) <= 1.0
    scaled = ((add(terms) * np.float32(1 + 64 * U)) - z) ** 2 / sum_variance(z, (wide**2).sum(axis=0), n, U)
    assert float(np.mean(scaled)) > float(np.mean(ratio))


# ------------------------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("loss", [pe.MSE(), pe.Huber(), pe.MAE(), pe.BinaryCrossEntropy(), pe.SoftmaxCrossEntropy()])
@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
def test_derivatives_of_losses_lie_within_their_variance(loss: pe.Loss, size: float, rng: np.random.Generator) -> None:
    z = size * normal(rng, 300, 7)
    z = z.astype(np.float32)
    y = rng.uniform(size=(300, 7)).astype(np.float32)
    if isinstance(loss, pe.SoftmaxCrossEntropy):
        y = np.eye(7, dtype=np.float32)[rng.integers(0, 7, 300)]
    exact = derivative(loss, z.astype(np.float64), y.astype(np.float64))
    v = loss_variance(loss, z.astype(np.float64), y.astype(np.float64), exact, U)
    error = derivative(loss, z, y) - exact
    assert float(np.mean(error**2)) <= float(np.mean(v))
    assert (
        float(np.max(np.where(error == 0.0, 0.0, error**2 / np.where(v > 0.0, v, 1.0)))) <= largest_of(2100, ALPHA) ** 2
    )


# ----------------------------------------------------------------------------------------------------- the quick look


@pytest.mark.parametrize("bias", [True, False])
def test_the_quick_look_sees_what_the_exact_evaluation_sees(bias: bool, rng: np.random.Generator) -> None:
    a, b, c = normal(rng, 300, 90), normal(rng, 90, 170), normal(rng, 170) if bias else None
    for factor in (1.0, 1 + 4 * U):
        claimed = ((a @ b if c is None else a @ b + c) * factor).astype(np.float32)
        stage = product_of(claimed, a, b, c)
        signs = sign_vectors(0, 300, 170)
        seen, exact = screen(stage, signs, Room()), measured(stage.errors, signs)
        assert seen.conclusive
        assert bool(exact.flagged(51000)) == (factor != 1.0)
        assert bool(seen.statistics.flagged(51000)) == (factor != 1.0)
        for name, value in exact.items().items():
            # The quick look adds its own rounding errors and sums a part of Q, so it is never below.
            assert value <= seen.statistics.items()[name] * (1 + unit_roundoff("float64") / U)
            assert seen.statistics.items()[name] <= np.sqrt(STRIDE) * value + PROJECTED / 4
        most = float((np.abs(stage.residual) / stage.bound).max())
        assert most <= seen.ratio


def test_the_quick_look_at_a_sum_of_heads_agrees_too() -> None:
    given = everyday("medium")
    witnesses = torch_witnesses(given)
    assert witnesses.summed is not None
    products = tuple(
        Product(Matrix(witnesses.summed.dz[f"heads.{name}.0"]), Matrix(given.params[f"heads.{name}.0.weight"]))
        for name in given.net.heads
    )
    stage = Linear(witnesses.summed.dh["trunk.1"], products, None, precision("float32"), U)
    signs = sign_vectors(0, *stage.claimed.shape)
    seen, exact = screen(stage, signs, Room()), measured(stage.errors, signs)
    for name, value in exact.items().items():
        assert value <= seen.statistics.items()[name] <= np.sqrt(STRIDE) * value + PROJECTED / 4
    assert float((np.abs(stage.residual) / stage.bound).max()) <= seen.ratio


def test_the_quick_look_leaves_tiny_numbers_to_the_exact_evaluation() -> None:
    a = np.full((64, 64), 1e-25, np.float32)
    a[0] = 1.0
    claimed = a @ a.T
    claimed[5, 7] *= np.float32(1.01)
    assert not screen(product_of(claimed, a, np.ascontiguousarray(a.T)), sign_vectors(0, 64, 64), Room()).conclusive


# ------------------------------------------------------------------------------------------------------------- limits


def test_nan_is_beyond_every_limit() -> None:
    r, one = np.ones((2, 3)), np.ones((2, 3))
    r[1, 1] = np.nan
    found = measured(Errors(r, one, one), sign_vectors(0, 2, 3))
    assert set(found.flagged(6)) == set(found.items())


def test_a_coherent_error_is_granted_where_it_is_declared_and_no_more() -> None:
    z = np.ones((40, 40))
    v = np.full((40, 40), U * U / 3)
    signs = sign_vectors(0, 40, 40)
    assert "whole" in measured(Errors(5 * U * z, z, v), signs).flagged(1600)
    assert measured(Errors(5 * U * z, z, v, coherent=6 * U), signs).flagged(1600) == ()
    assert "whole" in measured(Errors(9 * U * z, z, v, coherent=6 * U), signs).flagged(1600)
