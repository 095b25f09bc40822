"""Products of float64 matrices far beyond float64, by ordinary float64 products.

Every row of A and column of B is cut into slices of so few bits that products of slices are sums of integers below 2⁵³:
exact, in any order, on any BLAS. Ten such products of four slices each are added in double-double arithmetic. Source:
Ozaki, Ogita, Oishi, Rump, Numerical Algorithms 59, 2012; here the cuts are made by rounding to integers.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
SLICES = 4


def split_matmul(a: F64, b: F64) -> tuple[F64, F64, F64]:
    """A·B as an unevaluated sum high + low, and a bound on what that misses: a (m, k), b (k, n); three of (m, n).

    All finite; products that overflow or fall below 2⁻¹⁰⁷⁴ do so in the result too.

    >>> high, low, missed = split_matmul(np.array([[1.0, 2.0**-60]]), np.array([[1.0], [1.0]]))
    >>> float(high[0, 0]), float(low[0, 0]) == 2.0**-60
    (1.0, True)
    """
    k = a.shape[1]
    if k == 0:
        zero = np.zeros((a.shape[0], b.shape[1]))
        return zero, zero, zero
    bits = (53 - math.ceil(math.log2(k)) - 1) // 2
    scaled_a, rows = _scaled(a, axis=1)
    scaled_b, columns = _scaled(b, axis=0)
    slices_a, slices_b = _slices(scaled_a, bits), _slices(scaled_b, bits)
    high = low = np.zeros((a.shape[0], b.shape[1]))
    for order in range(2 * SLICES):
        for i in range(SLICES):
            j = order - i
            if 0 <= j < SLICES and order < SLICES:
                # Smaller terms come last: each sum of two is exact in high and its error goes to low.
                high, error = _two_sum(high, slices_a[i] @ slices_b[j])
                low = low + error
    high, low = _two_sum(high, low)
    exponents = rows + columns
    # Dropped: slices beyond the fourth of one side against all of the other, and pairs of later ones; and the roundings
    # of ten additions to low, each below 2⁻¹⁰⁵ of the largest partial sum k.
    missed = np.ldexp(np.full_like(high, 4.0 * k * 2.0 ** (-SLICES * bits) + 20.0 * k * 2.0**-105), exponents)
    return np.ldexp(high, exponents), np.ldexp(low, exponents), missed


def _scaled(a: F64, axis: int) -> tuple[F64, npt.NDArray[np.intc]]:
    """Rows (axis 1) or columns (axis 0) brought below 1 by powers of two, and the exponents."""
    _, exponents = np.frexp(np.abs(a).max(axis=axis, keepdims=True))
    return np.ldexp(a, -exponents), exponents


def _slices(a: F64, bits: int) -> list[F64]:
    """Numbers below 1 as a sum of slices, each a multiple of a power of two with at most ``bits`` bits."""
    slices, rest = [], a
    for number in range(1, SLICES + 1):
        unit = 2.0 ** (-number * bits)
        part = np.rint(rest / unit) * unit
        slices.append(part)
        rest = rest - part
    return slices


def _two_sum(a: F64, b: F64) -> tuple[F64, F64]:
    """a + b rounded, and its exact error (Knuth; Higham 2002, section 4.3)."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)
