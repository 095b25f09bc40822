"""Binades on which a function is all but a straight line: there one comparison with the line does for every number.

With L(z) = c·z + t and v what a framework computes, |v - f(z)| ≤ |v - L(z)| + |f(z) - L(z)|. Away from its bend
|f - L| is monotone on a binade, and so is the bound; so the two ends of a binade know the largest of the one and the
smallest of the other, and the share of the bound is at most (max|v - L| + max|f - L|)/min bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyengine.rounding import EVALUATION

from .functions import FLUSHING, activation
from .measure import CORE, MANTISSAS, Standard

Array = np.ndarray[Any, Any]
Line = tuple[float, float]
"""c and t."""

ACCEPTED = 0.5
"""A share above this is looked at number by number."""

_SLOPE = float(getattr(activation("leaky_relu"), "slope", 0.0))
_ELU = float(getattr(activation("elu"), "slope", 0.0))
ONE, ZERO, IDENTITY, HALF = (0.0, 1.0), (0.0, 0.0), (1.0, 0.0), (0.5, 0.0)

NEAR: dict[str, tuple[Line, Line, Line | None, Line | None]] = {
    "exp": (ONE, ONE, None, None),
    "expm1": (IDENTITY, IDENTITY, None, None),
    "log1p": (IDENTITY, IDENTITY, None, None),
    "erf": ((2.0 / math.sqrt(math.pi), 0.0), (2.0 / math.sqrt(math.pi), 0.0), None, None),
    "erfc": (ONE, ONE, None, None),
    "leaky_relu": (IDENTITY, (_SLOPE, 0.0), ONE, (0.0, _SLOPE)),
    "elu": (IDENTITY, (_ELU, 0.0), ONE, (0.0, _ELU)),
    "tanh": (IDENTITY, IDENTITY, ONE, ONE),
    "sigmoid": ((0.25, 0.5), (0.25, 0.5), (0.0, 0.25), (0.0, 0.25)),
    "softplus": ((0.5, math.log(2.0)), (0.5, math.log(2.0)), (0.25, 0.5), (0.25, 0.5)),
    "silu": (HALF, HALF, (0.5, 0.5), (0.5, 0.5)),
    "gelu": (HALF, HALF, (math.sqrt(2.0 / math.pi), 0.5), (math.sqrt(2.0 / math.pi), 0.5)),
    "gelu_tanh": (HALF, HALF, (math.sqrt(2.0 / math.pi), 0.5), (math.sqrt(2.0 / math.pi), 0.5)),
}
"""Around zero: the values for z ≥ 0 and z ≤ 0, then the slopes. log bends everywhere."""

FAR: dict[str, tuple[Line | None, Line | None, Line | None, Line | None]] = {
    "exp": (None, ZERO, None, None),
    "expm1": (None, (0.0, -1.0), None, None),
    "erf": (ONE, (0.0, -1.0), None, None),
    "erfc": (ZERO, (0.0, 2.0), None, None),
    "leaky_relu": (IDENTITY, (_SLOPE, 0.0), ONE, (0.0, _SLOPE)),
    "elu": (IDENTITY, (0.0, -_ELU), ONE, ZERO),
    "tanh": (ONE, (0.0, -1.0), ZERO, ZERO),
    "sigmoid": (ONE, ZERO, ZERO, ZERO),
    "softplus": (IDENTITY, ZERO, ONE, ZERO),
    "silu": (IDENTITY, ZERO, ONE, ZERO),
    "gelu": (IDENTITY, ZERO, ONE, ZERO),
    "gelu_tanh": (IDENTITY, ZERO, ONE, ZERO),
}
"""Where everything is saturated. log1p bends there too, and exp overflows."""


@dataclass(frozen=True)
class Side:
    """A line, by how much the function leaves it, and the smallest bound, with flushing and without."""

    line: Line
    off: float
    bounds: dict[bool, float]

    def share(self, z: Array, actual: Array, flush: bool) -> float:
        """At most this share of the bound is taken by any number; NaN where ``actual`` holds one."""
        c, t = self.line
        wide = actual.astype(np.float64)
        wide -= c * z.astype(np.float64) + t if c else t
        np.abs(wide, out=wide)
        # The float64 rounding of line and function is 2⁻²⁶ of any bound but 0, as everywhere (section 1 of the docs).
        return (float(wide.max()) + self.off) / self.bounds[flush] + (EVALUATION - 1.0)


@dataclass(frozen=True)
class Limit:
    """What is known of one binade. ``infinite``, ``undefined``: the exact value is beyond float32, or there is none."""

    value: Side | None
    slope: Side | None
    infinite: bool = False
    undefined: bool = False

    def shares(self, framework: str, z: Array, value: Array, slope: Array | None) -> tuple[float, float] | None:
        """Upper bounds of the shares of value and slope; None where the numbers have to be looked at."""
        flush = framework in FLUSHING
        with np.errstate(all="ignore"):
            if self.undefined or self.infinite:
                fits = np.isnan(value).all() if self.undefined else np.isposinf(value).all()
                return (0.0, 0.0) if fits else None
            assert self.value is not None
            first = self.value.share(z, value, flush)
            second = 0.0 if slope is None or self.slope is None else self.slope.share(z, slope, flush)
        return (first, second) if first <= ACCEPTED and second <= ACCEPTED else None


def limit(name: str, sign: int, exponent: int) -> Limit | None:
    """The lines of a function on one binade, or None where it bends."""
    if exponent in CORE:
        return None
    if name in {"log", "log1p"} and sign and exponent >= CORE.stop:
        return Limit(None, None, undefined=True)
    near = exponent < CORE.start
    known = (NEAR if near else FAR).get(name)
    if known is None:
        return None
    bits = np.array([0, MANTISSAS - 1], np.uint32) | np.uint32(sign << 31 | exponent << 23)
    standard = Standard.of(name, bits.view(np.float32))
    if not all(np.isfinite(bound).all() for bound in standard.value_bounds.values()):
        return None
    if bool((standard.value > float(np.finfo(np.float32).max)).all()):
        return Limit(None, None, infinite=True)
    value, slope = known[sign], known[2 + sign]
    if value is None:
        return None
    ends = standard.z.astype(np.float64)
    of_slope = None
    if slope is not None and standard.slope is not None:
        of_slope = _side(slope, ends, standard.slope, standard.slope_bounds)
        if of_slope is not None and not all(map(math.isfinite, of_slope.bounds.values())):
            of_slope, slope = None, None
    found = _side(value, ends, standard.value, standard.value_bounds)
    return None if found is None or (slope is not None and of_slope is None) else Limit(found, of_slope)


def _side(line: Line, ends: Array, exact: Array, bounds: dict[bool, Array]) -> Side | None:
    """None where a bound is 0 at an end (z = 0, where nothing rounds): numbers are compared one by one."""
    at = line[0] * ends + line[1]
    off = float(np.abs(exact - at).max())
    least = {flush: float(bound.min()) for flush, bound in bounds.items()}
    if off == 0.0 and not any(least.values()):
        # Where nothing rounds, the line is the function, and only the line will do.
        return Side(line, 0.0, dict.fromkeys(least, math.ulp(0.0)))
    return Side(line, off, least) if all(least.values()) else None
