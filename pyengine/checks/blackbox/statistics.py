"""The statistics of one gradient: projections and elements, each with the deviation that rounding may cause."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .variances import (
    BackwardVariances,
    ForwardVariances,
    Groups,
    backward_variances,
    projection_variance,
    result_variances,
)
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
    """One tensor: relative errors ‖ĝ - g‖/‖g‖ as observed and as predicted, the fitted scale error ⟨g, ĝ - g⟩/‖g‖²; the
    worst element with its distance in standard deviations.

    :attr:`detectable_scale` is computed when it is asked for, and keeps the check's intermediates until then.
    """

    name: str
    shape: tuple[int, ...]
    actual_error: float
    predicted_error: float
    scale_error: float
    worst_index: tuple[int, ...]
    worst_actual: float
    worst_expected: float
    worst_deviation: float
    norm: float
    test: Projection = field(repr=False, compare=False)

    @property
    def detectable_scale(self) -> float:
        """The smallest relative error of the tensor's scale that would raise an alarm; NaN where the tensor is 0."""
        return self.test.limit / self.norm**2 if self.norm > 0.0 else math.nan

    def data(self) -> dict[str, Any]:
        """All of it, for JSON."""
        held = {key: value for key, value in vars(self).items() if key != "test"}
        return {**held, "worst_index": list(self.worst_index), "shape": list(self.shape)} | {
            "detectable_scale": self.detectable_scale
        }


@dataclass(frozen=True, eq=False)
class Projection:
    """A direction with the deviation that rounding may cause.

    ``floor`` is the part of the limit that costs nothing: what is below it need not be compared with the whole.
    """

    statistic: str
    where: str
    direction: Gradient
    coherent: float
    floor: float
    deviation: Callable[[Gradient], float]

    @functools.cached_property
    def limit(self) -> float:
        """How far the projection of a correct gradient may lie from the exact one."""
        return PROJECTION_LIMIT * self.deviation(self.direction) + self.coherent


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
        self._shared: dict[str, F64] = {}
        self._last: tuple[Gradient, Gradient, dict[str, tuple[float, tuple[int, ...]]]] = ({}, {}, {})
        self.parts = [{name: part[name] for name in self.names} for part in parts]
        whole = [("scale", "the whole gradient", self.truth)]
        whole += [("scale", name, {name: self.truth[name]}) for name in self.names]
        for number in range(SIGNS):
            signs = program.signs(seed, number)
            whole.append(
                (f"random projection {number + 1}", "the whole gradient", {name: signs[name] for name in self.names})
            )
        self.tests = [self.test(*one) for one in whole]

    def test(self, statistic: str, where: str, direction: Gradient) -> Projection:
        """How far ⟨direction, ĝ - g⟩ may deviate."""
        coherent = COHERENT * self.p.u * sum(abs(dot(direction, part)) for part in self.parts)
        results = sum(float(np.vdot(row * row, v)) for row, v in result_variances(self.variances, direction))
        # Nothing but the roundings of the last operation of each tensor: a part of the variance.
        floor = PROJECTION_LIMIT * math.sqrt(results) + coherent
        return Projection(statistic, where, direction, coherent, floor, self.deviation)

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
            size = abs(dot(test.direction, difference))
            if size <= test.floor:
                continue
            ratio = ratio_of(size, test.limit)
            if not ratio <= 1.0:
                found.append((Alarm(test.statistic, test.where, ratio), test))
        for name in self.names:
            if not difference[name].size or self._nearest(name, gradient, truth, difference[name])[0] <= 1.0:
                continue
            ratios = self.element_ratios(name, difference[name])
            if not (worst := float(ratios.max())) <= 1.0:
                index = tuple(int(i) for i in np.unravel_index(int(ratios.argmax()), ratios.shape))
                found.append((Alarm("the element", f"{name}{list(index)}", worst), None))
        return found

    def element_ratios(self, name: str, difference: F64) -> F64:
        """The difference of every element over its limit."""
        return self._over(name, difference, own=False)

    def _over(self, name: str, difference: F64, *, own: bool) -> F64:
        """The same; with ``own`` beside the roundings of the last operation alone: nothing is larger than that."""
        elements = self.variances.elements
        limit = ELEMENT_LIMIT * np.sqrt(elements.own[name] if own else elements.whole(name)) + self._coherent(name)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(difference == 0.0, 0.0, np.abs(difference) / limit)
        return np.asarray(np.where(np.isnan(ratio), np.inf, ratio))

    def _nearest(
        self, name: str, gradient: Gradient, truth: Gradient, difference: F64
    ) -> tuple[float, tuple[int, ...]]:
        """The largest of :meth:`_over` with ``own``, and where; kept for the last pair of gradients."""
        if self._last[0] is not gradient or self._last[1] is not truth:
            self._last = (gradient, truth, {})
        held = self._last[2]
        if name not in held:
            ratios = self._over(name, difference, own=True)
            index = tuple(int(i) for i in np.unravel_index(int(ratios.argmax()), ratios.shape))
            held[name] = (float(ratios[index]), index)
        return held[name]

    def _coherent(self, name: str) -> F64:
        """What the factors that all samples share may do to every element."""
        if name not in self._shared:
            self._shared[name] = np.asarray(COHERENT * self.p.u * sum(np.abs(part[name]) for part in self.parts))
        return self._shared[name]

    def tensor(self, name: str, gradient: Gradient, truth: Gradient) -> TensorFinding:
        g, difference = truth[name], gradient[name] - truth[name]
        norm = float(np.linalg.norm(g))
        size = norm if norm > 0.0 else math.nan
        test = next(t for t in self.tests if t.where == name)
        most, index = self._nearest(name, gradient, truth, difference)
        if not most <= 1.0:
            ratios = self.element_ratios(name, difference)
            index = tuple(int(i) for i in np.unravel_index(int(ratios.argmax()), ratios.shape))
        return TensorFinding(
            name=name,
            shape=g.shape,
            actual_error=float(np.linalg.norm(difference)) / size,
            predicted_error=math.sqrt(self.variances.elements.sum(name)) / size,
            scale_error=float((g * difference).sum()) / size**2,
            worst_index=index,
            worst_actual=float(gradient[name][index]),
            worst_expected=float(g[index]),
            worst_deviation=self._deviation_at(name, index, difference),
            norm=norm,
            test=test,
        )

    def _deviation_at(self, name: str, index: tuple[int, ...], difference: F64) -> float:
        """The deviation of an element in standard deviations, each with its share of what is coherent."""
        limit = ELEMENT_LIMIT * math.sqrt(self.variances.elements.at(name, index))
        limit += float(self._coherent(name)[index])
        return ELEMENT_LIMIT * ratio_of(abs(float(difference[index])), limit)


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
