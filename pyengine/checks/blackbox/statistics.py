"""The statistics of one gradient: projections and elements, each with the deviation that rounding may cause."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ... import spare
from ...parameters import Parameters
from ...rounding import gradient_bounds
from .narrow import BLOCK, weighted_square
from .rough import rough_amplitudes
from .variances import (
    BackwardVariances,
    ForwardVariances,
    Groups,
    backward_variances,
    projection_variance,
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
FEW = 4096
"""Up to so many elements of a tensor are compared with their variance one by one, more all at once."""


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


@dataclass(frozen=True, eq=False)
class _Deviation:
    """The standard deviation of ⟨direction, ĝ⟩ over all rounding errors of ĝ.

    Apart from the tests, which hold it: a circle would keep all that it needs until Python looks for circles.
    """

    program: Program
    back: Backward
    forward: ForwardVariances
    variances: BackwardVariances
    groups: Groups

    def __call__(self, direction: Gradient) -> float:
        amplitudes, factor = rough_amplitudes(self.program, self.back, direction)
        return math.sqrt(projection_variance(self.forward, self.variances, amplitudes, factor, direction, self.groups))


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
        self.deviation = _Deviation(program, self.back, self.forward, self.variances, self.groups)
        self.truth: dict[str, F64] = {name: self.back.gradient[name] for name in self.names}
        # A coherent error of a loss's factor is proportional to weight·(its gradient).
        self.parts: list[tuple[float, Gradient]] = [
            (abs(weight), program.backward({name: 1.0}).gradient) for name, weight in self.back.weights.items()
        ]
        self._nearest_of: _Nearest | None = None
        sums = {name: float(v.sum()) for name, v in self._results()}
        squares = {name: weighted_square(self.truth[name], v) for name, v in self._results()}
        along = {name: self._along({name: self.truth[name]}) for name in self.names}
        whole = [sum(of) for of in zip(*along.values(), strict=True)]
        self.tests = [self._projection("scale", "the whole gradient", self.truth, sum(squares.values()), whole)]
        for name in self.names:
            self.tests.append(self._projection("scale", name, {name: self.truth[name]}, squares[name], along[name]))
        for number in range(SIGNS):
            signs = program.signs(seed, number)
            direction = {name: signs[name] for name in self.names}
            title = f"random projection {number + 1}"
            self.tests.append(self._projection(title, "the whole gradient", direction, sum(sums.values())))

    def _results(self) -> list[tuple[str, F64]]:
        """The variance of the last operation of each tensor."""
        return [(name, self.variances.elements.own(name)) for name in self.names]

    def test(self, statistic: str, where: str, direction: Gradient) -> Projection:
        """How far ⟨direction, ĝ - g⟩ may deviate."""
        return self._projection(statistic, where, direction, 0.0)

    def _along(self, direction: Gradient) -> list[float]:
        return [dot(direction, part) for _, part in self.parts]

    def _projection(
        self, statistic: str, where: str, direction: Gradient, results: float, along: Sequence[float] | None = None
    ) -> Projection:
        """``results`` is the variance of the last operations, as far as it is known; ``along`` has the products of the
        direction with the losses' gradients."""
        sizes = zip(self.parts, self._along(direction) if along is None else along, strict=True)
        coherent = COHERENT * self.p.u * sum(weight * abs(size) for (weight, _), size in sizes)
        # Nothing but the roundings of the last operation of each tensor: a part of the variance.
        floor = PROJECTION_LIMIT * math.sqrt(results) + coherent
        return Projection(statistic, where, direction, coherent, floor, self.deviation)

    def conspiracy(self, test: Projection) -> float:
        """The largest deviation that rounding can cause, to first order, if every error is as large and signed as is
        worst."""
        amplitudes = self.program.amplitudes(self.back, test.direction)
        most = worst_case(self.program, self.back, self.forward, self.variances, amplitudes, test.direction, self.p)
        return most + test.coherent

    @property
    def lost(self) -> str:
        """A tensor whose expected error is as large as itself, or nothing: products of two errors count there too."""
        return next((n for n in self.names if 0.0 < _squared_norm(self.truth[n]) <= self.variances.elements.sum(n)), "")

    @functools.cached_property
    def rigorous(self) -> Gradient:
        """The rigorous bound of every element: the running error analysis, which drops no term."""
        net, batch, weights = self.program.net, self.program.batch, self.back.weights
        params = Parameters(net.layout, self.program.params.flat.astype(self.program.dtype))
        targets = {name: head.target for name, head in batch.heads.items()}
        factors = {name: head.weights for name, head in batch.heads.items() if head.weights is not None}
        bounds = gradient_bounds(
            net, params, batch.x, targets, factors or None, flush_to_zero=self.p.flush_to_zero, kinks_at_zero="any"
        )
        alone = len(weights) == 1 and next(iter(weights.values())) == 1.0
        return bounds.per_loss[next(iter(weights))] if alone else bounds.summed

    def alarms(self, gradient: Gradient, truth: Gradient) -> list[tuple[Alarm, Projection | None]]:
        """All statistics beyond their limits; a NaN anywhere is beyond."""
        found: list[tuple[Alarm, Projection | None]] = []
        seen = self._compared(gradient, truth)
        for test in self.tests:
            size = abs(dot(test.direction, seen.difference))
            if size <= test.floor:
                continue
            ratio = ratio_of(size, test.limit)
            if not ratio <= 1.0:
                found.append((Alarm(test.statistic, test.where, ratio), test))
        for name in self.names:
            if not seen.difference[name].size:
                continue
            worst, index = self._element(name, seen)
            if not worst <= 1.0:
                found.append((Alarm("the element", f"{name}{list(index)}", worst), None))
        return found

    def element_ratios(self, name: str, difference: F64) -> F64:
        """The difference of every element over its limit."""
        return _shares(difference, self.variances.elements.whole(name), self._coherent(name))

    def _compared(self, gradient: Gradient, truth: Gradient) -> _Nearest:
        """The difference of two gradients; that of the last pair is kept."""
        held = self._nearest_of
        if held is None or held.gradient is not gradient or held.truth is not truth:
            difference = {
                name: np.subtract(gradient[name], truth[name], out=spare.empty(truth[name].shape))
                for name in self.names
            }
            held = self._nearest_of = _Nearest(gradient, truth, difference)
        return held

    def _element(self, name: str, seen: _Nearest) -> tuple[float, tuple[int, ...]]:
        """The largest share of its limit that an element takes, and where.

        A first look takes the roundings of the last operation alone, a part of the variance: only what is beyond that
        is compared with the whole.
        """
        if name not in seen.elements:
            difference = seen.difference[name]
            most, index, beyond = _first_look(difference, self.variances.elements.own(name))
            if beyond is not None and len(beyond) and difference.ndim == 2:
                rows, columns = np.unravel_index(beyond, difference.shape)
                _, variance = self.variances.elements.some(name, rows, columns)
                ratios = _shares(difference[rows, columns], variance, self._coherent_at(name, (rows, columns)))
                most, at = float(ratios.max()), int(ratios.argmax())
                index = (int(rows[at]), int(columns[at]))
            elif not most <= 1.0:
                ratios = self.element_ratios(name, difference)
                most = float(ratios.max())
                index = tuple(int(i) for i in np.unravel_index(int(ratios.argmax()), ratios.shape))
            seen.elements[name] = (most, index)
        return seen.elements[name]

    def _coherent(self, name: str) -> F64:
        """What the factors that all samples share may do to every element."""
        return self._coherent_at(name, ...)

    def _coherent_at(self, name: str, at: Any) -> F64:
        return np.asarray(COHERENT * self.p.u * sum(weight * np.abs(part[name][at]) for weight, part in self.parts))

    def tensor(self, name: str, gradient: Gradient, truth: Gradient) -> TensorFinding:
        seen = self._compared(gradient, truth)
        g, difference = truth[name], seen.difference[name]
        norm = float(np.linalg.norm(g))
        size = norm if norm > 0.0 else math.nan
        test = next(t for t in self.tests if t.where == name)
        _, index = self._element(name, seen)
        return TensorFinding(
            name=name,
            shape=g.shape,
            actual_error=float(np.linalg.norm(difference)) / size,
            predicted_error=math.sqrt(self.variances.elements.sum(name)) / size,
            scale_error=float(np.vdot(g, difference)) / size**2,
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
        limit += float(self._coherent_at(name, index))
        return ELEMENT_LIMIT * ratio_of(abs(float(difference[index])), limit)


@dataclass(eq=False)
class _Nearest:
    """Two gradients, their difference, and of each tensor the element nearest to its limit."""

    gradient: Gradient
    truth: Gradient
    difference: dict[str, F64]
    elements: dict[str, tuple[float, tuple[int, ...]]] = field(default_factory=dict)


def _first_look(difference: F64, variance: F64) -> tuple[float, tuple[int, ...], npt.NDArray[np.intp] | None]:
    """The largest share that an element takes of its limit by this variance alone, where, and the flat indices of all
    elements beyond that limit: None for more than :data:`FEW`, or where there is a NaN. Block by block in the cache."""
    flat, v = difference.ravel(), variance.ravel()
    square = np.empty(min(BLOCK, flat.size))
    most, at, count = -1.0, 0, 0
    beyond: list[npt.NDArray[np.intp]] = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for start in range(0, flat.size, BLOCK):
            part = flat[start : start + BLOCK]
            some = square[: part.size]
            np.multiply(part, part, out=some)
            some /= v[start : start + BLOCK]
            here = int(some.argmax())  # a NaN counts as the largest
            if np.isnan(some[here]):
                return math.inf, tuple(int(i) for i in np.unravel_index(start + here, difference.shape)), None
            if some[here] > most:
                most, at = float(some[here]), start + here
            if some[here] > ELEMENT_LIMIT**2:
                found = np.flatnonzero(some > ELEMENT_LIMIT**2)
                count += found.size
                if count <= FEW:
                    beyond.append(found + start)
    index = tuple(int(i) for i in np.unravel_index(at, difference.shape))
    if count > FEW:
        return math.inf, index, None
    return math.sqrt(most) / ELEMENT_LIMIT, index, np.concatenate(beyond) if beyond else np.zeros(0, np.intp)


def _shares(difference: F64, variance: F64, coherent: F64) -> F64:
    """Of each element the difference over its limit; NaN is infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        limit = ELEMENT_LIMIT * np.sqrt(variance) + coherent
        ratio = np.where(difference == 0.0, 0.0, np.abs(difference) / limit)
    return np.asarray(np.where(np.isnan(ratio), np.inf, ratio))


def _squared_norm(row: F64) -> float:
    return float(np.vdot(row, row))


def dot(direction: Gradient, gradient: Gradient) -> float:
    """⟨direction, gradient⟩ over the parameters of the direction."""
    return sum(float(np.vdot(row, gradient[name])) for name, row in direction.items())


def ratio_of(value: float, limit: float) -> float:
    """value/limit, with 0/0 = 0."""
    if value == 0.0:
        return 0.0
    return value / limit if limit > 0.0 else math.inf
