"""Every float32 of a binade through one function, compared with its bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyengine.rounding import activation_bound, behaviour, precision, slope_bound
from pyengine.rounding.activations import ELEMENTARY as ALLOWED

from .functions import ELEMENTARY, FLUSHING, activation, exactly

Array = np.ndarray[Any, Any]
MANTISSAS, CHUNK = 1 << 23, 1 << 19
BINADES = tuple((sign, exponent) for exponent in range(255) for sign in (0, 1))
"""All finite float32: the sign and the biased exponent, 0 for zero and the subnormal numbers."""

CORE = range(127 - 24, 127 + 8)
"""The exponents of 2⁻²⁴ ≤ |z| < 2⁸: outside, every function here is constant, linear or out of range."""


def ordered() -> list[tuple[int, int]]:
    """The binades, those first where functions bend."""
    return sorted(BINADES, key=lambda binade: (binade[1] not in CORE, abs(binade[1] - 127)))


def chunks(sign: int, exponent: int) -> Iterator[Array]:
    """All numbers of a binade."""
    for start in range(0, MANTISSAS, CHUNK):
        bits = np.arange(start, start + CHUNK, dtype=np.uint32) | np.uint32(sign << 31 | exponent << 23)
        yield bits.view(np.float32)


@dataclass
class Worst:
    """The largest share of a bound, and where."""

    share: float = 0.0
    at: float = 0.0

    def look(self, z: Array, actual: Array, expected: Array, bound: Array) -> None:
        with np.errstate(all="ignore"):
            error = np.abs(actual - expected)
            shares = np.where(error == 0.0, 0.0, error / bound)
            # Where the exact value is beyond float32 an infinity is right; a NaN never is.
            shares = np.where(np.isinf(actual) & (np.abs(expected) >= _LARGEST), 0.0, shares)
            shares = np.where(np.isnan(actual) != np.isnan(expected), np.inf, np.where(np.isnan(expected), 0.0, shares))
        most = int(shares.argmax())
        if shares[most] > self.share:
            self.share, self.at = float(shares[most]), float(z[most])


_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Standard:
    """What a function is exactly at some arguments, and how far a correct evaluation may be off, flushing or not."""

    z: Array
    value: Array
    value_bounds: dict[bool, Array]
    slope: Array | None = None
    slope_bounds: dict[bool, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, z: Array) -> Standard:
        wide = z.astype(np.float64)
        both = {flush: precision("float32", flush_to_zero=flush) for flush in (False, True)}
        with np.errstate(all="ignore"):
            if name in ELEMENTARY:
                value = exactly(name)(wide)
                relative = np.abs(value) if name not in {"erf", "erfc"} else np.ones_like(value)
                bounds = {flush: p.u * ALLOWED * relative + p.smallest_normal for flush, p in both.items()}
                return cls(z, value, bounds)
            around, size, ones = (
                behaviour(activation(name), wide, np.zeros_like(wide)),
                np.abs(wide),
                np.ones_like(wide),
            )
            return cls(
                z,
                around.value,
                {flush: activation_bound(activation(name), around, size, p) for flush, p in both.items()},
                around.slope,
                {flush: slope_bound(around, size, ones, p) + around.jump for flush, p in both.items()},
            )

    def judge(self, framework: str, value: Array, slope: Array | None, worst: tuple[Worst, Worst]) -> None:
        """Hold the values of a framework against their bounds, and the slopes."""
        flush = framework in FLUSHING
        worst[0].look(self.z, value.astype(np.float64), self.value, self.value_bounds[flush])
        if slope is not None and self.slope is not None:
            worst[1].look(self.z, slope.astype(np.float64), self.slope, self.slope_bounds[flush])
