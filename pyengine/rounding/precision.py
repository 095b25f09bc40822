"""What a floating-point format can promise: its unit roundoff, its range, and how rounding errors accumulate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import sentence
from ..parameters import DTYPES

EVALUATION = 1.0 + 2.0**-20
"""Every u and every bound is multiplied by this.

It covers the float64 rounding of the bound's own evaluation, and that of a float64 reference beside float32
(docs/tolerances.md, section 1).
"""

FLOAT64_ROUNDOFF = 2.0**-53


def unit_roundoff(dtype: npt.DTypeLike) -> float:
    """Half the distance from 1 to the next number: the largest relative error of one rounding to nearest.

    >>> unit_roundoff("float32") == 2.0**-24
    True
    """
    return float(np.finfo(dtype).eps) / 2.0


def smallest_normal(dtype: npt.DTypeLike) -> float:
    """The smallest positive number with a full significand.

    >>> smallest_normal("float32") == 2.0**-126
    True
    """
    return float(np.finfo(dtype).smallest_normal)


def accumulated(n: float, u: float) -> float:
    """(1 + u)ⁿ - 1: the largest relative error of a number that meets n roundings.

    Source: Higham 2002, Lemma 3.1, before its simplification to n·u/(1 - n·u); so it needs no n·u < 1.

    >>> 1000 * 2.0**-24 < accumulated(1000, 2.0**-24) < 1001 * 2.0**-24
    True
    """
    try:
        return math.expm1(n * math.log1p(u))
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class Precision:
    """The numbers that the bounds need to know about an implementation's arithmetic.

    ``u`` is the unit roundoff, already multiplied by :data:`EVALUATION`; ``smallest_normal`` and
    ``smallest_subnormal`` are where relative accuracy ends; ``largest`` is where numbers overflow; ``flush_to_zero``
    tells whether subnormal operands and results become zero.
    """

    u: float
    smallest_normal: float
    smallest_subnormal: float
    largest: float
    flush_to_zero: bool = False

    @property
    def underflow(self) -> float:
        """What one product, quotient or sum may lose to underflow; exp and its like may lose ``smallest_normal``."""
        return self.smallest_normal if self.flush_to_zero else self.smallest_subnormal

    def together_with(self, other: Precision) -> Precision:
        """The precision whose bounds hold between two implementations: both round, so their errors add."""
        return Precision(
            self.u + other.u,
            self.smallest_normal + other.smallest_normal,
            self.smallest_subnormal + other.smallest_subnormal,
            min(self.largest, other.largest),
            self.flush_to_zero or other.flush_to_zero,
        )


def precision(dtype: npt.DTypeLike, *, flush_to_zero: bool = False) -> Precision:
    """The precision of a dtype, float32 or float64.

    Raises ``TypeError`` for any other dtype.
    """
    chosen: np.dtype[Any] = np.dtype(dtype)
    if chosen not in DTYPES:
        raise TypeError(
            sentence(
                "dtype", got=f"is {chosen}", expected="float32 or float64", remedy="The engine computes in these two."
            )
        )
    info = np.finfo(chosen)
    return Precision(
        unit_roundoff(chosen) * EVALUATION,
        smallest_normal(chosen),
        float(info.smallest_subnormal),
        float(info.max),
        flush_to_zero,
    )
