"""The two statistical tests of a stage: no entry errs by too many σ, and no projection of the errors adds up.

A rounding error is as often up as down. Weighted sums of many errors therefore stay near zero, and a sum that does not
tells of a fault far below the error of any single entry: a scale of 1 + 1e-7, a row that is slightly off.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields

import numpy as np

from ...parameters import Array
from ...rounding.running import F64
from ...rounding.variance import largest_of

ALPHA = 1e-9
"""The chance that a correct stage exceeds the limit of its largest entry, if the model of V holds."""

PROJECTED = 12.0
"""The limit of every projection, in its own σ: 2·exp(-12²/6) = 8e-11 by Azuma's inequality for errors within ±√3·σ."""

REPLAYED = 3.0
"""A statistic that a correct recomputation reaches to a third is explained by it."""

SIGNS = 4
"""How many pairs of random ±1 vectors the errors are projected on."""


@dataclass(frozen=True)
class Statistics:
    """The statistics of a stage: ``entry`` is the largest |r|/σ, the others are the largest projections of their kind.

    ``whole``, ``row`` and ``column`` project on the exact numbers (an error of scale), ``signs`` on random ±1 vectors.
    """

    entry: float
    whole: float
    row: float
    column: float
    signs: float

    def flagged(self, entries: int) -> tuple[str, ...]:
        """The names of the statistics that are beyond their limits. NaN is beyond."""
        return tuple(name for name, value in self.items().items() if not value <= limit(name, entries))

    def items(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def limit(name: str, entries: int) -> float:
    """The limit of a statistic of a stage with that many entries."""
    return largest_of(entries, ALPHA) if name == "entry" else PROJECTED


@dataclass(frozen=True)
class Scale:
    """By what relative amount a stage is too large: ε̂ = Σ r·Z / Σ Z², with its standard deviation."""

    value: float
    deviation: float


@dataclass(frozen=True, eq=False)
class Errors:
    """What the tests of a stage look at, all (m, n) float64.

    ``r`` is the residual, ``z`` the exact number, ``v`` the variance, ``lost`` what underflow may take from any entry,
    coherently. ``coherent`` is the relative error that all entries may share (0 but for losses). ``flushed`` (m, n) is
    what each entry may lose towards 0 when it is stored, or 0.
    """

    r: F64
    z: F64
    v: F64
    lost: float = 0.0
    coherent: float = 0.0
    flushed: F64 | float = 0.0

    def part(self, rows: Array, columns: Array) -> Errors:
        """The errors at some rows and columns."""
        at = np.ix_(rows, columns)
        flushed = self.flushed if isinstance(self.flushed, float) else self.flushed[at]
        return Errors(self.r[at], self.z[at], self.v[at], self.lost, self.coherent, flushed)


def measured(errors: Errors, signs: tuple[F64, F64]) -> Statistics:
    """The statistics of a stage. ``signs`` are random ±1 vectors, (SIGNS, m) and (SIGNS, n)."""
    r, z, v, lost, coherent, flushed = (getattr(errors, field.name) for field in fields(Errors))
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        rz, zz, zzv, size = r * z, z * z, z * z * v, np.abs(z)

        vanishing: F64 | None = None if isinstance(flushed, float) else flushed

        def scales(axis: int | None) -> F64:
            allowed = coherent * zz.sum(axis=axis) + lost * size.sum(axis=axis)
            if vanishing is not None:
                allowed = allowed + (vanishing * size).sum(axis=axis)
            return _in_sigmas(np.abs(rz.sum(axis=axis)) - allowed, zzv.sum(axis=axis))

        def signed(of: F64) -> F64:
            return np.asarray(np.abs(((signs[0] @ of) * signs[1]).sum(axis=1)))

        most = lost * r.size + (0.0 if vanishing is None else float(vanishing.sum()))
        random = _in_sigmas(signed(r) - coherent * signed(z) - most, np.full(len(signs[0]), v.sum()))
        shared = coherent * size + flushed
        return Statistics(
            entry=float(_in_sigmas(np.abs(r) - lost - shared, v).max(initial=0.0)),
            whole=float(scales(None)),
            row=float(scales(1).max(initial=0.0)),
            column=float(scales(0).max(initial=0.0)),
            signs=float(random.max()),
        )


def scale(errors: Errors) -> Scale:
    """ε̂ and its standard deviation; both 0 where the exact numbers are all 0."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        square = float((errors.z * errors.z).sum())
        if square == 0.0:
            return Scale(0.0, 0.0)
        spread = float((errors.z * errors.z * errors.v).sum())
        return Scale(float((errors.r * errors.z).sum()) / square, float(np.sqrt(spread)) / square)


def relative(errors: Errors) -> tuple[float | None, float | None]:
    """‖r‖/‖Z‖ and √(ΣV)/‖Z‖; None where the exact numbers are all 0."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        square = float(np.vdot(errors.z, errors.z))
        if not square > 0.0:
            return None, None
        found = float(np.vdot(errors.r, errors.r)), float(errors.v.sum())
        return float(np.sqrt(found[0] / square)), float(np.sqrt(found[1] / square))


@functools.lru_cache(maxsize=64)
def sign_vectors(seed: int, m: int, n: int) -> tuple[F64, F64]:
    """The random ±1 vectors of stages of one shape, (SIGNS, m) and (SIGNS, n)."""
    rng = np.random.default_rng([seed, m, n])
    rows, columns = (rng.integers(0, 2, (SIGNS, size), np.int8) * 2.0 - 1.0 for size in (m, n))
    return rows.astype(np.float64), columns.astype(np.float64)


def _in_sigmas(size: F64, variance: F64) -> F64:
    """size/σ. Nothing over nothing is 0; NaN is infinite."""
    ratio = np.where(size <= 0.0, 0.0, size / np.sqrt(variance))
    return np.asarray(np.where(np.isnan(ratio), np.inf, ratio))
