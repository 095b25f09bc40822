"""Directional finite differences in float64: is ⟨∇loss, d⟩ the slope of the loss along d?

φ(t) is the loss at θ + t·d. With the central difference D(h) = (φ(h) - φ(-h))/2h, the one-sided slopes D⁺, D⁻ and their
difference S(h) = D⁺(h) - D⁻(h), the slope is D(h) up to

    T(h) = |D(2h) - D(h)| + |S(2h) - 2·S(h)|        truncation
    ρ(h) = t·σ/(√2·h)                               rounding

T bounds the truncation of every cubic, where it is three times as large as needed, and of a kink anywhere between -h
and h, which no difference of D alone can see. σ is the noise of φ, from the fourth differences of φ at points so near
to one another that a smooth function shows none (Moré & Wild, SIAM J. Sci. Comput. 33, 2011), and never below one
rounding of φ. h runs through powers of two; the step is the one whose bound T + ρ is smallest, where T may fall to a
quarter from one step to the next, as it does for a smooth function, and no faster. docs/tolerances.md, section 10,
derives this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..observation import Twin
from ..progress import say
from ..rounding.precision import EVALUATION, unit_roundoff
from ..rounding.repeats import student_limit
from .staged.statistics import ALPHA

F64 = npt.NDArray[np.float64]
Point = Mapping[str, F64]

STEPS = tuple(2.0**-i for i in range(7, 24))
"""Steps in units of the parameters' own size, from large to small."""

NEIGHBOURS = 16
"""Points at which the noise of the loss is measured."""

SPAN = STEPS[-1] / 2.0**5
"""How far these points reach to both sides."""

UNKNOWN = (math.nan, math.inf, math.inf, math.nan)

Outcome = Literal["holds", "differs", "cannot tell"]


@dataclass(frozen=True)
class Slope:
    """One loss along one direction: the gradient's slope, the measured one, and the two parts of its error bound."""

    loss: str
    along: str
    claimed: float
    measured: float
    truncation: float
    rounding: float
    step: float

    @property
    def bound(self) -> float:
        return self.truncation + self.rounding

    @property
    def outcome(self) -> Outcome:
        """A bound as large as the slope itself can tell nothing, unless the difference is larger still."""
        if not math.isfinite(self.bound) or not math.isfinite(self.measured):
            return "cannot tell"
        if not abs(self.claimed - self.measured) <= self.bound:
            return "differs"
        return (
            "holds" if self.bound < max(abs(self.measured), abs(self.claimed)) or self.claimed == 0.0 else "cannot tell"
        )


def check_differences(twin: Twin, weights: Mapping[str, float], seed: int) -> tuple[Slope, ...]:
    """The slope of every loss along a random direction, and along the signs of the summed gradient, where it is
    large."""
    draw = np.random.default_rng(seed)
    random = {name: draw.choice((-1.0, 1.0), value.shape) for name, value in twin.parameters.items()}
    steep = {}
    for name, signs in random.items():
        total = np.zeros(signs.shape)
        for loss, gradient in twin.gradients.items():
            part = gradient[name]
            if part is not None:
                total += weights[loss] * np.asarray(part, dtype=np.float64)
        steep[name] = np.where(total != 0.0, np.sign(total), signs)
    return _slopes(twin, random, "random signs") + _slopes(twin, steep, "the signs of the sum")


def culprits(twin: Twin, seed: int) -> tuple[Slope, ...]:
    """The slopes that differ along one parameter each: where a wrong gradient is wrong."""
    found: list[Slope] = []
    for i, name in enumerate(twin.parameters):
        say("where a gradient is wrong", i, len(twin.parameters))
        found += [slope for slope in _alone(twin, name, seed) if slope.outcome == "differs"]
    return tuple(found)


def moves(twin: Twin, loss: str, name: str, seed: int) -> Slope:
    """Whether a loss moves with one parameter that its gradient does not reach: its slope there, against zero."""
    return next(slope for slope in _alone(twin, name, seed) if slope.loss == loss)


def repeatable(twin: Twin) -> str:
    """The first loss that two evaluations at the same parameters do not agree on; empty if there is none."""
    first, second = twin.evaluate(twin.parameters), twin.evaluate(twin.parameters)
    return next((name for name in first if first[name] != second[name]), "")


def _alone(twin: Twin, name: str, seed: int) -> tuple[Slope, ...]:
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), twin.parameters[name].shape)
    return _slopes(twin, {name: signs}, name)


def _slopes(twin: Twin, signs: Point, along: str) -> tuple[Slope, ...]:
    direction = {name: sign * _size(twin.parameters[name]) for name, sign in signs.items()}
    line = _Line(twin, direction)
    found = []
    for loss, gradient in twin.gradients.items():
        claimed = 0.0
        for name, d in direction.items():
            part = gradient[name]
            if part is not None:
                claimed += float(np.asarray(part, dtype=np.float64).ravel() @ d.ravel())
        found.append(Slope(loss, along, claimed, *line.slope(loss)))
    return tuple(found)


def _size(value: F64) -> float:
    """The root mean square of a parameter; 1 for one of zeros, such as a fresh bias."""
    rms = math.sqrt(float(np.mean(value**2))) if value.size else 0.0
    return rms if rms > 0.0 else 1.0


class _Line:
    """The losses along one line through the parameters, evaluated once a point."""

    def __init__(self, twin: Twin, direction: Point) -> None:
        self.twin, self.direction = twin, direction
        self.known: dict[float, dict[str, float]] = {}

    def at(self, t: float, loss: str) -> float:
        if t not in self.known:
            moved = {name: value + t * self.direction[name] if name in self.direction else value
                     for name, value in self.twin.parameters.items()}  # fmt: skip
            self.known[t] = self.twin.evaluate(moved)
        return self.known[t][loss]

    def slope(self, loss: str) -> tuple[float, float, float, float]:
        """The slope at zero, the bounds of its truncation and of its rounding, and the step."""
        # Differences of a few points have few degrees of freedom; the limit is Student's.
        limit = student_limit(ALPHA, NEIGHBOURS - 4)
        noise = self.noise(loss)
        best = UNKNOWN
        coarser = 0.0
        for h in STEPS[1:]:
            central, crooked = self._central(loss, h)
            wide, wider = self._central(loss, 2.0 * h)
            truncation = max(abs(wide - central) + abs(wider - 2.0 * crooked), coarser / 4.0)
            coarser = truncation
            rounding = limit * noise / (math.sqrt(2.0) * h)
            if truncation + rounding < best[1] + best[2]:
                best = (central, EVALUATION * truncation, EVALUATION * rounding, h)
        return best if self._wide(loss, noise, best[0], limit * noise / SPAN + best[1] + best[2]) else UNKNOWN

    def _wide(self, loss: str, noise: float, central: float, allowed: float) -> bool:
        """Whether the loss is computed in float64 throughout: only then do near neighbours tell its noise.

        Behind a number that is rounded to float32 they are mostly equal, so that the slope among them is another; or
        one of them jumps, by what is nearer to float32's roundoff than to float64's.
        """
        near = (self.at(SPAN, loss) - self.at(-SPAN, loss)) / (2.0 * SPAN)
        roundoff = math.sqrt(unit_roundoff("float32") * unit_roundoff("float64"))
        return abs(near - central) <= allowed and noise <= roundoff * abs(self.at(0.0, loss))

    def _central(self, loss: str, h: float) -> tuple[float, float]:
        ahead, here, behind = self.at(h, loss), self.at(0.0, loss), self.at(-h, loss)
        return (ahead - behind) / (2.0 * h), (ahead - 2.0 * here + behind) / h

    def noise(self, loss: str) -> float:
        """σ of the loss: fourth differences of noise have variance 70·σ², and a smooth function has almost none."""
        values = [self.at(SPAN * (2.0 * i / NEIGHBOURS - 1.0), loss) for i in range(NEIGHBOURS + 1)]
        fourth = _differences(values, 4)
        measured = math.sqrt(float(np.mean(fourth**2)) / math.comb(8, 4))
        return max(measured, unit_roundoff("float64") * abs(self.at(0.0, loss)))


def _differences(values: Sequence[float], order: int) -> F64:
    found: F64 = np.diff(np.array(values, dtype=np.float64), n=order)
    return found
