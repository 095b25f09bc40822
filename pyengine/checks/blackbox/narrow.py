"""Products of squares and variances, in float32: a variance needs a few digits, and only its exponent must not be lost.

Rows of the left and columns of the right side are brought below 1 by powers of two. Where a product may have lost
something to underflow all the same, it is formed in float64.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ... import spare

F64 = npt.NDArray[np.float64]

WORTH_NARROWING = 1 << 21
"""Multiplications from which float32 pays."""
VANISHING = 2.0**-80
"""Of products of numbers below 1, what is larger has lost nothing to underflow in float32."""
BLOCK = 1 << 15
"""Entries that stay in the cache from one operation to the next."""


class Side:
    """The left side (m, k) of a product, or the right side transposed (n, k); with ``power`` 2 its squares."""

    def __init__(self, given: F64, power: Literal[1, 2]) -> None:
        self.given, self.power = given, power

    @functools.cached_property
    def wide(self) -> F64:
        return self.given if self.power == 1 else self.given * self.given

    @functools.cached_property
    def exponents(self) -> npt.NDArray[np.intc]:
        """Every row of the narrow side is below 1 after division by 2 to this, (m,)."""
        most = np.maximum(self.given.max(axis=1), -self.given.min(axis=1))
        return np.asarray(self.power * np.clip(np.frexp(most)[1], -1000 // self.power, 1000 // self.power))

    @functools.cached_property
    def narrow(self) -> npt.NDArray[np.float32]:
        found = np.empty_like(self.given, np.float32)
        by = np.ldexp(1.0, -self.exponents // self.power)[:, None]
        np.multiply(self.given, by, out=found, casting="same_kind")
        if self.power == 2:
            found *= found
        return found


def spread(left: Side, right: Side) -> F64:
    """Left·rightᵀ, (m, n)."""
    return linear_form(left, right)


def linear_form(
    left: Side, right: Side, factor: float = 1.0, z: F64 | None = None, on_z: float = 0.0, rest: Any = 0.0
) -> F64:
    """factor·(left·rightᵀ) + on_z·z² + rest, (m, n): ``rest`` a number or (n,)."""
    m, n = left.given.shape[0], right.given.shape[0]
    product, lost = _product(left, right)
    rows, columns = np.full(m, factor), np.ones(n)
    if product.dtype == np.float32:
        rows, columns = factor * np.ldexp(1.0, left.exponents), np.ldexp(1.0, right.exponents)
    found = spare.empty((m, n))
    height = max(1, min(m, BLOCK // max(n, 1)))
    square = np.empty((height, n))
    for start in range(0, m, height):
        part = slice(start, min(start + height, m))
        block = found[part]
        block[...] = product[part]
        block *= rows[part, None]
        block *= columns
        if (again := lost[(lost >= part.start) & (lost < part.stop)]).size:
            block[again - start] = factor * (left.wide[again] @ right.wide.T)
        if z is not None:
            some = square[: part.stop - part.start]
            np.multiply(z[part], z[part], out=some)
            some *= on_z
            block += some
        block += rest
    return found


def _product(left: Side, right: Side) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Left·rightᵀ: in float64, or scaled in float32, with the rows of which something may have vanished there."""
    none = np.zeros(0, np.intp)
    if left.given.size * right.given.shape[0] < WORTH_NARROWING:
        return left.wide @ right.wide.T, none
    product = left.narrow @ right.narrow.T
    if product.min() >= VANISHING:
        return product, none
    there = np.outer(left.given.any(axis=1), right.given.any(axis=1))
    lost = np.flatnonzero(~np.all((product >= VANISHING) | ~there, axis=1))
    if 2 * lost.size > len(product):
        return left.wide @ right.wide.T, none
    return product, lost


def weighted_square(row: F64, variance: F64) -> float:
    """Σ row²·variance, block by block in the cache."""
    if row.size <= BLOCK:
        return float(np.vdot(row * row, variance))
    flat, v = row.ravel(), variance.ravel()
    square, total = np.empty(BLOCK), 0.0
    for start in range(0, flat.size, BLOCK):
        part = flat[start : start + BLOCK]
        some = square[: part.size]
        np.multiply(part, part, out=some)
        total += float(np.dot(some, v[start : start + BLOCK]))
    return total
