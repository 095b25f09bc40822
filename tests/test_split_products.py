"""Split products against ball arithmetic, and what they miss against what they say."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from pyengine.rounding.split_products import split_matmul

RNG = np.random.default_rng(0)


def drawn(kind: str, *shape: int) -> np.ndarray[Any, Any]:
    values = RNG.normal(size=shape)
    if kind == "wide":
        values *= 2.0 ** RNG.integers(-40, 40, size=shape)
    if kind == "constant":
        values[...] = 1.0 / 3.0
    if kind == "tiny":
        values *= 2.0**-300
    return values


@pytest.mark.parametrize("kind", ["normal", "wide", "constant", "tiny"])
@pytest.mark.parametrize("shape", [(3, 1, 2), (4, 7, 3), (2, 1000, 2), (1, 1025, 1)])
def test_error_is_below_what_is_promised(shape: tuple[int, int, int], kind: str) -> None:
    flint = pytest.importorskip("flint")
    m, k, n = shape
    a, b = drawn(kind, m, k), drawn(kind, k, n)
    high, low, missed = split_matmul(a, b)
    rational = flint.fmpq_mat(m, k, [flint.fmpq(*f.as_integer_ratio()) for f in a.ravel().tolist()])
    exact = rational * flint.fmpq_mat(k, n, [flint.fmpq(*f.as_integer_ratio()) for f in b.ravel().tolist()])
    for i in range(m):
        for j in range(n):
            truth = Fraction(int(exact[i, j].p), int(exact[i, j].q))
            error = abs(Fraction(float(high[i, j])) + Fraction(float(low[i, j])) - truth)
            assert error <= Fraction(float(missed[i, j]))
            # Worth having: far finer than float64's own bound for this product.
            assert missed[i, j] <= 2.0**-10 * np.finfo(float).eps * np.abs(a[i]).max() * np.abs(b[:, j]).max() * k


def test_cancellation_keeps_what_float64_loses() -> None:
    a, b = np.array([[1.0, 2.0**-70, -1.0]]), np.ones((3, 1))
    high, low, _ = split_matmul(a, b)
    assert high[0, 0] + low[0, 0] == 2.0**-70


def test_a_product_of_nothing_is_zero() -> None:
    high, low, missed = split_matmul(np.zeros((2, 0)), np.zeros((0, 3)))
    assert high.shape == (2, 3)
    assert not high.any()
    assert not low.any()
    assert not missed.any()
