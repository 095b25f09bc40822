"""The kernel's look at a product and its sums of columns, by every instruction set, beside NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pyengine import _core
from pyengine.checks.staged.screen import SMALLEST
from pyengine.rounding import accumulated, unit_roundoff

DTYPES = ["float32", "float64"]
Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(params=_core.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _core.isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(before)


class Case:
    """A product (m, n) that is claimed, with r of a few units, and what to look at it with."""

    def __init__(self, dtype: str, m: int, n: int, *, bias: bool, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.z = rng.standard_normal((m, n)).astype(dtype).astype(np.float64)
        self.bias = rng.standard_normal(n).astype(dtype).astype(np.float64) if bias else None
        self.exact = self.z / 4.0 + (0.0 if self.bias is None else self.bias)
        self.unit = 2.0**10
        self.claimed = (8.0 * (self.exact + rng.uniform(-3, 3, (m, n)) / self.unit)).astype(dtype)
        self.q = rng.uniform(1.0, 2.0, (m, n)).astype(dtype)
        self.signs = (rng.integers(0, 2, (4, n)) * 2.0 - 1.0).astype(dtype)
        self.limit = 100.0

    def seen(self) -> Any:
        bias_v = None if self.bias is None else (self.bias**2).astype(self.dtype)
        return _core.screen(
            self.claimed, self.z, self.q, self.bias, bias_v, self.signs, up=0.25, down=0.125, unit=self.unit,
            on_q=0.5, on_z=3.0, smallest=SMALLEST, limit=self.limit,
        )  # fmt: skip

    def expected(self) -> tuple[Array, Array, Array, Array]:
        """The sums of the rows (9, m) and of the columns (4, n), those of magnitudes, and r²/v."""
        r = (self.claimed.astype(np.float64) / 8.0 - self.exact) * self.unit
        v = 0.5 * self.q.astype(np.float64) + 3.0 * self.exact**2
        if self.bias is not None:
            v = v + self.bias**2 + (self.z / 4.0) ** 2
        v = np.maximum(v, SMALLEST)
        terms = [r * self.exact, self.exact**2 * v, r * r, self.exact**2, v, *(r * row for row in self.signs)]
        rows, sizes = (np.array([f(term).sum(axis=1) for term in terms]) for f in (np.asarray, np.abs))
        return rows, np.array([term.sum(axis=0) for term in terms[:4]]), sizes, r * r / v


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "bias"), [(1, 1, False), (7, 33, True), (70, 600, False), (300, 513, True)])
def test_a_look_has_the_sums_of_the_textbook(isa: str, dtype: str, m: int, n: int, bias: bool) -> None:
    case = Case(dtype, m, n, bias=bias)
    rows, columns, top, infinite, low, listed, at, _ = case.seen()
    own_rows, own_columns, sizes, ratio = case.expected()
    u = unit_roundoff(dtype)
    # A term is rounded up to eight times, and the screen's own bound is granted for its sum.
    within = accumulated(min(_core.screen_terms, max(m, n)) + max(m, n) // 64 + 32, u)
    assert (np.abs(rows - own_rows) <= within * sizes).all()
    assert (np.abs(columns - own_columns) <= within * sizes[:4].sum()).all()
    assert abs(top - ratio.max()) <= accumulated(16, u) * ratio.max()
    assert (infinite, low, listed, at.size) == (False, False, True, 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_entries_beyond_the_limit_are_listed_and_left_out_of_the_largest(isa: str, dtype: str) -> None:
    case = Case(dtype, 90, 700, bias=False)
    case.limit = float(np.sort(case.expected()[3].ravel())[-4] * (1 + accumulated(16, unit_roundoff(dtype))))
    _, _, top, infinite, _, listed, at, r = case.seen()
    ratio = case.expected()[3].ravel()
    assert sorted(at) == sorted(np.argsort(ratio)[-3:])
    assert top <= case.limit
    assert (infinite, listed) == (False, True)
    own = ((case.claimed.astype(np.float64) / 8.0 - case.exact) * case.unit).ravel()[at]
    assert (np.abs(r - own) <= accumulated(4, unit_roundoff(dtype)) * np.abs(own)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_beyond_the_limit_than_there_is_room_for_is_told(isa: str, dtype: str) -> None:
    case = Case(dtype, 90, 700, bias=False)
    case.limit = 0.0
    assert not case.seen()[5]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [(0, 0), (89, 699), (40, 520)])
def test_what_is_not_finite_is_told(isa: str, value: float, where: tuple[int, int]) -> None:
    case = Case("float32", 90, 700, bias=False)
    case.claimed[where] = value
    assert case.seen()[3]


def test_a_variance_below_the_smallest_counts_where_there_is_an_error(isa: str) -> None:
    case = Case("float32", 3, 40, bias=False)
    case.z[1, 7] = case.q[1, 7] = 0.0
    case.exact = case.z / 4.0
    case.claimed[1, 7] = 0.0
    assert not case.seen()[4]
    case.claimed[1, 7] = 1e-3
    assert case.seen()[4]


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_no_bit(dtype: str) -> None:
    case, before = Case(dtype, 900, 700, bias=True), _core.num_threads()
    found = []
    for threads in (1, 2, 3):
        _core.set_num_threads(threads)
        found.append(case.seen())
    _core.set_num_threads(before)
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(1, 1), (500, 3), (40, 700)])
def test_sums_of_columns_are_those_of_the_textbook(dtype: str, m: int, n: int) -> None:
    x = np.random.default_rng(0).standard_normal((m, n)).astype(dtype)
    a = x.astype(np.float64) / 8.0
    found = _core.column_sums(x, 0.125)
    for own, term in zip(found, (a, np.abs(a), a * a), strict=True):
        assert (
            np.abs(own - term.sum(axis=0)) <= accumulated(2 * m, unit_roundoff("float64")) * np.abs(term).sum(axis=0)
        ).all()
    x[0, -1] = np.nan
    assert np.isnan(_core.column_sums(x, 0.125)[:, -1]).all()


def test_operands_of_another_kind_fails() -> None:
    case = Case("float32", 3, 40, bias=False)
    case.q = case.q[:, ::2]
    with pytest.raises(ValueError, match="another size, dtype or order"):
        case.seen()
    with pytest.raises(ValueError, match="not a matrix"):
        _core.column_sums(np.zeros(3), 1.0)
