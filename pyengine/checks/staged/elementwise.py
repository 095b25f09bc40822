"""Activation stages: h = f(z) and ∂L/∂z = ∂L/∂h·f'(z). Rigorous bounds only, exact ones for ReLU.

They have no variance: a library's tanh or exp errs as a fixed function of its argument, with a bias that no model of
independent roundings describes, and a test on sums of such errors would refute correct libraries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ...activations import Linear, ReLU
from ...parameters import Array
from ...rounding import Behaviour, Precision, activation_bound, behaviour, slope_bound
from ...rounding.running import F64
from ...rounding.storage import PLAIN, Storage
from .finding import Finding, Kind, Worst

if TYPE_CHECKING:
    from ...spec import Layer


class Activated:
    """A layer's z with what its activation does there."""

    def __init__(self, layer: Layer, z: Array, p: Precision, kept: Storage = PLAIN, h: Array | None = None) -> None:
        self.layer, self.z, self.p = layer, z, p
        self.kept, self.h = kept, h

    @cached_property
    def around(self) -> Behaviour:
        wide = self.z.astype(np.float64)
        return behaviour(self.layer.activation, wide, np.zeros_like(wide), "any")

    def value(self, name: str, h: Array) -> Finding:
        """Judge h."""
        if isinstance(self.layer.activation, Linear):
            return exactly(name, "activation", h, self.z, self.p)
        if isinstance(self.layer.activation, ReLU):
            return exactly(name, "activation", h, np.maximum(self.z, 0), self.p)
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            p = self.kept.stepwise(self.p)
            bound = activation_bound(self.layer.activation, self.around, np.abs(self.z.astype(np.float64)), p)
            bound = bound + self.kept.rounding(np.abs(self.around.value) + bound)
            return within(name, "activation", h, self.around.value, bound)

    def slope(self, name: str, dz: Array, dh: Array) -> Finding:
        """Judge dz = dh·f'(z); at a kink any one-sided derivative or a number between them will do."""
        if isinstance(self.layer.activation, Linear):
            return exactly(name, "slope", dz, dh, self.p)
        if isinstance(self.layer.activation, ReLU):
            return self._masked(name, dz, dh)
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            g = dh.astype(np.float64)
            p = self.kept.stepwise(self.p)
            bound = slope_bound(self.around, np.abs(self.z.astype(np.float64)), np.abs(g), p)
            if not self.kept.plain:
                bound = bound + np.abs(g) * self._from_stored()
                bound = bound + self.kept.rounding(np.abs(g * self.around.slope) + bound)
            return within(name, "slope", dz, g * self.around.slope, bound + np.abs(g) * self.around.jump)

    def _from_stored(self) -> F64 | float:
        """By how much f' formed from the h that was stored, as PyTorch does, differs from f' at z."""
        if self.h is None:
            return 0.0
        h, name = self.h.astype(np.float64), self.layer.activation.name
        if name == "tanh":
            return np.abs((1.0 - h) * (1.0 + h) - self.around.slope)
        return np.abs(h * (1.0 - h) - self.around.slope) if name == "sigmoid" else 0.0

    def _masked(self, name: str, dz: Array, dh: Array) -> Finding:
        expected = dh * (self.z > 0)
        zero = (self.z == 0) & (dh != 0)
        note = ""
        if zero.any():
            convention = Convention.seen(dz[zero], dh[zero])
            expected = np.where(zero & convention.allowed(dz, dh), dz, expected)
            note = f"{int(zero.sum())} units at z = 0: {convention.text}"
        # NaN·0 is NaN; a mask would hide it.
        found = exactly(name, "slope", dz, expected, self.p)
        return found if not note else Finding(**{**vars(found), "note": note})


@dataclass(frozen=True)
class Convention:
    """Which derivatives of ReLU at z = 0 were seen: PyTorch and JAX have 0, ``maximum`` ½ or, in TensorFlow, 1."""

    seen_slopes: tuple[float, ...]

    SLOPES = (0.0, 0.5, 1.0)

    @classmethod
    def seen(cls, dz: Array, dh: Array) -> Convention:
        return cls(tuple(s for s in cls.SLOPES if bool((dz == dh.dtype.type(s) * dh).any())))

    def allowed(self, dz: Array, dh: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        found = np.zeros(dz.shape, bool)
        for s in self.SLOPES:
            found |= dz == dh.dtype.type(s) * dh
        return found

    @property
    def text(self) -> str:
        return f"f'(0) = {' and '.join(f'{s:g}' for s in self.seen_slopes)}" if self.seen_slopes else "no derivative"


def exactly(name: str, kind: Kind, actual: Array, expected: Array, p: Precision) -> Finding:
    """Judge a stage that does not round. Where subnormal numbers are flushed, they may be 0."""
    if np.array_equal(actual, expected) and np.isfinite(actual).all():
        return Finding(name, kind, 1, actual.size, 0.0)
    exact = expected.astype(np.float64)
    bound = (
        np.where(np.abs(exact) < p.smallest_normal, np.abs(exact), 0.0) if p.flush_to_zero else np.zeros(exact.shape)
    )
    return within(name, kind, actual, exact, bound)


def within(name: str, kind: Kind, actual: Array, expected: F64, bound: F64, terms: int = 1) -> Finding:
    """Judge a stage by its rigorous bound alone."""
    ratio, worst = largest_ratio(actual, expected, bound)
    return Finding(name, kind, terms, actual.size, ratio, worst)


def largest_ratio(actual: Array, expected: F64, bound: F64) -> tuple[float, Worst]:
    """The largest |actual - expected|/bound and where it is. 0/0 is 0; what is not finite has no business here: ∞."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        error = np.abs(actual - expected)
        ratios = np.where(error == 0.0, 0.0, error / bound)
        ratios = np.where(np.isfinite(actual) & np.isfinite(expected) & ~np.isnan(ratios), ratios, np.inf)
    index = tuple(int(i) for i in np.unravel_index(int(ratios.argmax()), ratios.shape))
    worst = Worst(index, float(actual[index]), float(expected[index]), float(bound[index]))
    return float(ratios[index]), worst
