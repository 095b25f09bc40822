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
MANTISSAS, CHUNK, BLOCK = 1 << 23, 1 << 18, 1 << 14
"""Frameworks get chunks that are worth the call; what is compared in float64 stays in the cache by blocks."""

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
    """The largest share of a bound, and where; and how many NaN there are where a number on the way overflows."""

    share: float = 0.0
    at: float = 0.0
    undefined: int = 0

    def look(self, z: Array, actual: Array, expected: Array, bound: Array) -> None:
        with np.errstate(all="ignore"):
            error = np.abs(actual - expected)
            shares = np.where(error == 0.0, 0.0, error / bound)
            # Where the exact value is beyond float32 an infinity is right; a NaN never is.
            shares = np.where(np.isinf(actual) & (np.abs(expected) >= _LARGEST), 0.0, shares)
            shares = np.where(np.isnan(actual) != np.isnan(expected), np.inf, np.where(np.isnan(expected), 0.0, shares))
            # The bounds promise nothing where a number on the way overflows, or a negative one is flushed before its
            # logarithm is sought, and say so by being infinite.
            shares = np.where(np.isinf(bound) & ~np.isinf(expected), 0.0, shares)
            self.undefined += int(np.isnan(actual[np.isinf(bound) & np.isfinite(expected)]).sum())
        most = int(shares.argmax())
        if shares[most] > self.share:
            self.share, self.at = float(shares[most]), float(z[most])

    def at_most(self, share: float, at: float) -> None:
        """Note an upper bound of the shares of some numbers, the first of which is ``at``."""
        if share > self.share:
            self.share, self.at = share, at


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
        size, ones = np.abs(wide), np.ones_like(wide)
        both = {flush: precision("float32", flush_to_zero=flush) for flush in (False, True)}
        # What is flushed on the way in is 0: log has no value there, and a kink may be on either side.
        flushed = {flush: flush & (size < p.smallest_normal) for flush, p in both.items()}
        with np.errstate(all="ignore"):
            if name in ELEMENTARY:
                value = exactly(name)(wide)
                relative = np.abs(value) if name not in {"erf", "erfc"} else np.ones_like(value)
                bounds = {flush: p.u * ALLOWED * relative + p.smallest_normal for flush, p in both.items()}
                if name == "log":
                    bounds = {flush: np.where(flushed[flush], np.inf, bound) for flush, bound in bounds.items()}
                return cls(z, value, bounds)
            own = activation(name)
            around = behaviour(own, wide, np.zeros_like(wide), "any")
            kink = abs(1.0 - own.slope) if name in {"leaky_relu", "elu"} else 0.0
            # z·(1 + erf)/2 doubles z first; the derivative of gelu_tanh has the factor (1 - tanh²)·3z²: 0·∞.
            doubled = np.where((name == "gelu") & (2.0 * size > _LARGEST), np.inf, 0.0)
            squared = np.where((name == "gelu_tanh") & (3.0 * wide * wide > _LARGEST), np.inf, 0.0)
            return cls(
                z,
                around.value,
                {flush: activation_bound(own, around, size, p) + doubled for flush, p in both.items()},
                around.slope,
                {
                    flush: slope_bound(around, size, ones, p) + around.jump + squared + kink * flushed[flush]
                    for flush, p in both.items()
                },
            )

    def judge(self, framework: str, value: Array, slope: Array | None, worst: tuple[Worst, Worst]) -> None:
        """Hold the values of a framework against their bounds, and the slopes."""
        flush = framework in FLUSHING
        worst[0].look(self.z, value.astype(np.float64), self.value, self.value_bounds[flush])
        if slope is not None and self.slope is not None:
            worst[1].look(self.z, slope.astype(np.float64), self.slope, self.slope_bounds[flush])
