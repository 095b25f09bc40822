"""The statistics of one gradient: projections and elements, each with the deviation that rounding may cause."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .variances import BackwardVariances, ForwardVariances, Groups, backward_variances, projection_variance
from .worst_case import worst_case

if TYPE_CHECKING:
    from ...rounding import Precision
    from .program import Backward, Program

F64 = npt.NDArray[np.float64]
Gradient = Mapping[str, F64]

PROJECTION_LIMIT, ELEMENT_LIMIT = 7.0, 15.0
"""Standard deviations. A normal variable passes 7 once in 4·10¹¹; the second also covers that elements of one layer
share errors (docs/tolerances.md, section 7)."""
COHERENT = 8.0
"""Roundings of the factors 1/batch and weight, which are the same for every sample: they add up in step."""
SIGNS = 3
"""Random projections."""


@dataclass(frozen=True)
class Alarm:
    """A statistic beyond its limit: ``deviation`` in units of ``limit``; ``where`` names the tensor and the entry."""

    statistic: str
    where: str
    deviation: float

    def __str__(self) -> str:
        return f"{self.statistic} of {self.where} deviates by {self.deviation:.3g} times its limit"


@dataclass(frozen=True)
class TensorFinding:
    """One tensor: relative errors ‖ĝ - g‖/‖g‖ as observed and as predicted, the fitted scale error ⟨g, ĝ - g⟩/‖g‖² and
    the smallest that would raise an alarm; the worst element with its distance in standard deviations."""

    name: str
    shape: tuple[int, ...]
    actual_error: float
    predicted_error: float
    scale_error: float
    detectable_scale: float
    worst_index: tuple[int, ...]
    worst_actual: float
    worst_expected: float
    worst_deviation: float
    norm: float


@dataclass(frozen=True, eq=False)
class Projection:
    """A direction with the deviation that rounding may cause."""

    statistic: str
    where: str
    direction: Gradient
    limit: float
    coherent: float


class GradientTests:
    """The statistics for one weighted sum of losses, ready to be applied to any gradient that claims to be it."""

    def __init__(
        self,
        program: Program,
        weights: Mapping[str, float],
        p: Precision,
        seed: int = 0,
        forward: ForwardVariances | None = None,
    ) -> None:
        self.program, self.p = program, p
        self.back = program.backward(weights)
        self.names = [n for n in program.net.layout.names if n.startswith("trunk.") or n.split(".")[1] in weights]
        self.forward = ForwardVariances(program, p) if forward is None else forward
        self.variances: BackwardVariances = backward_variances(self.forward, self.back)
        self.groups = Groups(program, self.back.weights)
        self.truth: dict[str, F64] = {name: self.back.gradient[name] for name in self.names}
        parts = _parts(program, self.back)
        self.parts = [{name: part[name] for name in self.names} for part in parts]
        rng = np.random.default_rng(seed)
        whole = [("scale", "the whole gradient", self.truth)]
        whole += [("scale", name, {name: self.truth[name]}) for name in self.names]
        for number in range(SIGNS):
            signs = {name: rng.choice((-1.0, 1.0), size=self.truth[name].shape) for name in self.names}
            whole.append((f"random projection {number + 1}", "the whole gradient", signs))
        self.tests = [self.test(*one) for one in whole]

    def test(self, statistic: str, where: str, direction: Gradient) -> Projection:
        """How far ⟨direction, ĝ - g⟩ may deviate."""
        coherent = COHERENT * self.p.u * sum(abs(dot(direction, part)) for part in self.parts)
        limit = PROJECTION_LIMIT * self.deviation(direction) + coherent
        return Projection(statistic, where, direction, limit, coherent)

    def deviation(self, direction: Gradient) -> float:
        """The standard deviation of ⟨direction, ĝ⟩ over all its rounding errors."""
        amplitudes = self.program.amplitudes(self.back, direction)
        return math.sqrt(projection_variance(self.forward, self.variances, amplitudes, direction, self.groups))

    def conspiracy(self, test: Projection) -> float:
        """The largest deviation that rounding can cause, to first order, if every error is as large and signed as is
        worst."""
        amplitudes = self.program.amplitudes(self.back, test.direction)
        most = worst_case(self.program, self.back, self.forward, self.variances, amplitudes, test.direction, self.p)
        return most + test.coherent

    def alarms(self, gradient: Gradient, truth: Gradient) -> list[tuple[Alarm, Projection | None]]:
        """All statistics beyond their limits; a NaN anywhere is beyond."""
        found: list[tuple[Alarm, Projection | None]] = []
        difference = {name: gradient[name] - truth[name] for name in self.names}
        for test in self.tests:
            ratio = ratio_of(abs(dot(test.direction, difference)), test.limit)
            if not ratio <= 1.0:
                found.append((Alarm(test.statistic, test.where, ratio), test))
        for name in self.names:
            ratios = self.element_ratios(name, difference[name])
            if ratios.size and not (worst := float(ratios.max())) <= 1.0:
                index = tuple(int(i) for i in np.unravel_index(int(ratios.argmax()), ratios.shape))
                found.append((Alarm("the element", f"{name}{list(index)}", worst), None))
        return found

    def element_ratios(self, name: str, difference: F64) -> F64:
        limit = ELEMENT_LIMIT * np.sqrt(self.variances.total[name])
        limit = limit + COHERENT * self.p.u * sum(np.abs(part[name]) for part in self.parts)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(difference == 0.0, 0.0, np.abs(difference) / limit)
        return np.asarray(np.where(np.isnan(ratio), np.inf, ratio))

    def tensor(self, name: str, gradient: Gradient, truth: Gradient) -> TensorFinding:
        g, difference = truth[name], gradient[name] - truth[name]
        norm = float(np.linalg.norm(g))
        size = norm if norm > 0.0 else math.nan
        test = next(t for t in self.tests if t.where == name)
        ratios = ELEMENT_LIMIT * self.element_ratios(name, difference)
        index = tuple(int(i) for i in np.unravel_index(int(ratios.argmax()), ratios.shape))
        return TensorFinding(
            name=name,
            shape=g.shape,
            actual_error=float(np.linalg.norm(difference)) / size,
            predicted_error=math.sqrt(float(self.variances.total[name].sum())) / size,
            scale_error=float((g * difference).sum()) / size**2,
            detectable_scale=test.limit / size**2,
            worst_index=index,
            worst_actual=float(gradient[name][index]),
            worst_expected=float(g[index]),
            worst_deviation=float(ratios[index]),
            norm=norm,
        )


def _parts(program: Program, back: Backward) -> list[Gradient]:
    """weight·(gradient of each loss): what a coherent error of that loss's factor is proportional to."""
    if len(back.weights) == 1:
        return [back.gradient]
    return [program.backward({name: weight}).gradient for name, weight in back.weights.items()]


def dot(direction: Gradient, gradient: Gradient) -> float:
    """⟨direction, gradient⟩ over the parameters of the direction."""
    return sum(float(np.vdot(row, gradient[name])) for name, row in direction.items())


def ratio_of(value: float, limit: float) -> float:
    """value/limit, with 0/0 = 0."""
    if value == 0.0:
        return 0.0
    return value / limit if limit > 0.0 else math.inf
