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
from .measure import BLOCK, CORE, MANTISSAS, Standard

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


class Distances:
    """How far arrays are from a line on some arguments. Frameworks mostly agree there, and equal arrays count once."""

    def __init__(self, line: Line, z: Array) -> None:
        self._line, self._z = line, z
        self._seen: list[tuple[Array, float]] = []

    def of(self, actual: Array) -> float:
        """The largest; NaN where there is one."""
        bits = actual.view(np.uint32)
        for seen, most in self._seen:
            if np.array_equal(seen, bits):
                return most
        most = self._measured(actual)
        self._seen.append((bits, most))
        return most

    def _measured(self, actual: Array) -> float:
        c, t = self._line
        if c == 0.0:
            return float(np.abs(np.array([actual.max(), actual.min()], np.float64) - t).max())
        at, parts = np.empty(BLOCK), []
        for start in range(0, len(actual), BLOCK):
            here = at[: len(actual) - start]
            np.multiply(self._z[start : start + BLOCK], c, out=here, dtype=np.float64)
            if t:
                here += t
            np.subtract(actual[start : start + BLOCK], here, out=here, dtype=np.float64)
            parts += [here.max(), -here.min()]
        return float(np.max(parts))


@dataclass(frozen=True)
class Side:
    """A line, by how much the function leaves it, and the smallest bound, with flushing and without."""

    line: Line
    off: float
    bounds: dict[bool, float]

    def share(self, distance: float, flush: bool) -> float:
        """At most this share of the bound is taken by a number so far from the line; NaN for NaN."""
        # The float64 rounding of line and function is 2⁻²⁶ of any bound but 0, as everywhere (section 1 of the docs).
        return (distance + self.off) / self.bounds[flush] + (EVALUATION - 1.0)


@dataclass(frozen=True)
class Limit:
    """What is known of one binade. ``infinite``, ``undefined``: the exact value is beyond float32, or there is none."""

    value: Side | None
    slope: Side | None
    infinite: bool = False
    undefined: bool = False

    def on(self, z: Array) -> Look:
        """A look at what frameworks make of some arguments."""
        sides = (None if side is None else Distances(side.line, z) for side in (self.value, self.slope))
        return Look(self, *sides)


@dataclass(frozen=True)
class Look:
    """A binade's limit and the distances from its lines on one array of arguments."""

    limit: Limit
    values: Distances | None
    slopes: Distances | None

    def shares(self, framework: str, value: Array, slope: Array | None) -> tuple[float, float] | None:
        """Upper bounds of the shares of value and slope; None where the numbers have to be looked at."""
        flush, limit = framework in FLUSHING, self.limit
        with np.errstate(all="ignore"):
            if limit.undefined or limit.infinite:
                fits = np.isnan(value).all() if limit.undefined else np.isposinf(value).all()
                return (0.0, 0.0) if fits else None
            assert limit.value is not None
            assert self.values is not None
            first, second = limit.value.share(self.values.of(value), flush), 0.0
            if slope is not None and limit.slope is not None and self.slopes is not None:
                second = limit.slope.share(self.slopes.of(slope), flush)
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
