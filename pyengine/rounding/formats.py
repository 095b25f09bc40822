"""Narrow formats at the edges of an operation: what storing a result in one, or reading operands in one, costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import listing, sentence
from .precision import EVALUATION

if TYPE_CHECKING:
    from .running import F64

TF32_ROUNDOFF = 2.0**-11
"""TF32 keeps float32's exponent and 10 bits of the fraction: reading a float32 operand rounds it by up to 2⁻¹¹."""


@dataclass(frozen=True)
class Format:
    """A storage format: unit roundoff, half the spacing of its subnormal numbers, and its largest number."""

    name: str
    u: float
    half_spacing: float
    largest: float

    @property
    def smallest_normal(self) -> float:
        """The smallest number with a full significand: half the spacing below it, over u."""
        return self.half_spacing / self.u

    def rounding(self, most: F64) -> F64:
        """Bound on storing numbers of at most this magnitude; infinite where one may overflow."""
        bound = EVALUATION * (self.u * most + self.half_spacing)
        return np.where(most + bound <= self.largest, np.where(most > 0.0, bound, 0.0), np.inf)


FORMATS = {
    "bfloat16": Format("bfloat16", 2.0**-8, 2.0**-134, (2.0 - 2.0**-7) * 2.0**127),
    "float16": Format("float16", 2.0**-11, 2.0**-25, 65504.0),
    "float32": Format("float32", 2.0**-24, 2.0**-150, (2.0 - 2.0**-23) * 2.0**127),
    "float64": Format("float64", 2.0**-53, 0.0, float(np.finfo(np.float64).max)),
}
"""The definitions of IEEE 754-2019, table 3.5; bfloat16 is float32 with 7 bits of the fraction."""


def format_of(argument: str, name: str) -> Format:
    """The format of a dtype's name. Raises ``TypeError`` for a dtype that is none of them."""
    if name not in FORMATS:
        raise TypeError(
            sentence(argument, got=f"is {name}", expected=listing(FORMATS), remedy="Convert it to one of these.")
        )
    return FORMATS[name]


def tf32_bound(sizes: F64, n: int, u: float) -> F64:
    """Bound on a product whose float32 operands are read as TF32: (2u_t + u_t²)·S + n·u·(1 + n·u)·(1 + u_t)²·S.

    ``sizes`` is S = |A|·|B| + |bias|; docs/tolerances.md, section 8.
    """
    t = TF32_ROUNDOFF * EVALUATION
    return np.asarray((2.0 * t + t * t) * sizes + n * u * (1.0 + n * u) * (1.0 + t) ** 2 * sizes)
