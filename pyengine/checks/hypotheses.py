"""The hypotheses of the update check: what a training step may have done, each as gradients for the optimizer.

A hypothesis is replayed twice. Once by the float64 rule (:mod:`pyengine.optimizers`), whose bound says what rounding
may account for. And once by a copy of the framework's own optimizer with the state that it had: it knows every option
that the rule does not model, so its word counts where it is at hand. Its allowance is twice the rule's, as it rounds
as well; where there is no rule, it is how far its own result moves when the gradient moves by its uncertainty, plus
twice the roundings of ``OPERATIONS`` elementwise operations on the way from the gradient to the parameter.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..engine import Network
from ..optimizers import State
from ..parameters import Array, Layout, Parameters
from ..witnesses import Step, Stepper
from .clipping import clipped
from .evidence import Evidence, gather_evidence

Vector = npt.NDArray[np.float64]

Gather = Callable[[Network, Parameters, Array, Mapping[str, Array]], Evidence]
"""What gives the evidence at other parameters or for another batch."""

SUM = "one step on the sum"
MEAN = "one step on the mean"
TURN = "one step per loss in turn"
SEPARATE = "one optimizer per loss"
WITHOUT = "one step without a loss"
EXCHANGED = "one step with the weights exchanged"
PREVIOUS = "one step on the previous batch"
ADDED = "one step on this gradient and the one before"
UNCLIPPED = "one step on the sum, not clipped"
EARLY = "one step on the sum of clipped gradients"
STILL = "no step at all"

OPERATIONS = 16
"""No elementwise optimizer of the three frameworks takes more operations from a gradient to a parameter: AdamW with
AMSGrad, the longest, takes 15."""


@dataclass(frozen=True, eq=False)
class Replay:
    """Where a hypothesis leads: parameters by the rule and by the framework's own optimizer, and the allowance.

    ``gradient`` and ``error`` are what a single step was taken on, None for several steps; ``state`` is what the rule
    remembers after it.
    """

    name: str
    ruled: Vector | None
    own: Vector | None
    allowance: Vector
    gradient: Vector | None = None
    error: Vector | None = None
    state: State | None = None


class Replayer:
    """Replays gradients, flat over all parameters, from where the step began."""

    def __init__(self, step: Step, evidence: Evidence | None = None, gather: Gather = gather_evidence) -> None:
        self.gather = gather
        # By the losses that have stepped before, in their order.
        self.found: dict[tuple[str, ...], Evidence] = {} if evidence is None else {(): evidence}
        self.step, self.layout = step, step.network.layout
        self.before = step.before.flat.astype(np.float64)
        self._alone: dict[str, Replay] = {}
        self._steppers: dict[str, Stepper] = {}

    def one(self, name: str, gradient: Vector, error: Vector) -> Replay:
        """One step on one gradient."""
        return self._one(name, gradient, error, None if self.step.own is None else self.step.own())

    def _one(self, name: str, gradient: Vector, error: Vector, stepper: Stepper | None) -> Replay:
        step, unit = self.step, self.step.unit
        ruled = own = after = None
        allowance = np.zeros_like(gradient)
        if step.optimizer is not None:
            inside = step.clip if step.clip is not None and step.clip.inside else None
            g, e = clipped(inside, self.layout, gradient, error, unit)
            state = step.state if step.state is not None else step.optimizer.start(self.before)
            ruled, after = step.optimizer.step(self.before, g, state, unit=unit, gradient_error=e)
            allowance = after.error
        if step.own is not None and stepper is not None:
            own = stepper.step(gradient)
            if step.optimizer is None:
                allowance = self._moved(step.own, own, gradient, error)
        return Replay(name, ruled, own, allowance, gradient, error, after)

    def alone(self, loss: str) -> Replay:
        """One step on one loss. Other hypotheses begin with it or are made of it, so it is kept."""
        if loss not in self._alone:
            stepper = None if self.step.own is None else self.step.own()
            self._alone[loss] = self._one(loss, *self._of(loss, self.found[()]), stepper)
            if stepper is not None:
                self._steppers[loss] = stepper
        return self._alone[loss]

    def _of(self, loss: str, at: Evidence) -> tuple[Vector, Vector]:
        outside = self.step.clip if self.step.clip is not None and not self.step.clip.inside else None
        gradient, error = weighted(self.layout, at, {loss: self.step.network.heads[loss].weight})
        return clipped(outside, self.layout, gradient, error, self.step.unit)

    def _stepped(self, loss: str) -> Stepper | None:
        """The framework's own optimizer after a step on the loss."""
        first = self.alone(loss)
        if self.step.own is None or first.gradient is None:
            return None
        if loss in self._steppers:
            return self._steppers.pop(loss)
        stepper = self.step.own()
        stepper.step(first.gradient)
        return stepper

    def _moved(self, own: Callable[[], Stepper], after: Vector, gradient: Vector, error: Vector) -> Vector:
        up, down, still = (own().step(g) for g in (gradient + error, gradient - error, np.zeros_like(gradient)))
        way = np.abs(after - self.before) + np.abs(still - self.before)
        rounding = 2.0 * self.step.unit * (OPERATIONS * way + np.abs(after))
        return np.asarray(np.maximum(np.abs(up - after), np.abs(down - after)) + rounding)

    def apart(self, name: str, losses: Sequence[str]) -> Replay:
        """One optimizer per loss, all gradients taken at the parameters before."""
        moved = [self.alone(loss) for loss in losses]
        ruled = [r.ruled - self.before for r in moved if r.ruled is not None]
        own = [r.own - self.before for r in moved if r.own is not None]
        return Replay(
            name,
            self.before + np.sum(ruled, axis=0) if ruled else None,
            self.before + np.sum(own, axis=0) if own else None,
            np.sum([r.allowance for r in moved], axis=0),
        )

    def in_turn(self, name: str, order: Sequence[str]) -> Replay:
        """One optimizer, a step for each loss; every gradient is taken where the step before left."""
        step, size = self.step, self.step.trunk_size
        first, stepper = self.alone(order[0]), self._stepped(order[0])
        ruled, state, allowance = first.ruled, first.state, first.allowance
        here = first.own if first.own is not None else first.ruled
        for done, loss in enumerate(order[1:], 1):
            assert here is not None
            gradient, error = self._of(loss, self._evidence(tuple(order[:done]), here))
            if stepper is not None:
                if step.optimizer is None:
                    # To first order each step passes on what came before unchanged.
                    allowance = allowance + self.one(name, gradient, error).allowance
                here = stepper.step(gradient)
            if step.optimizer is not None and state is not None and ruled is not None:
                inside = step.clip if step.clip is not None and step.clip.inside else None
                g, e = clipped(inside, self.layout, gradient, error, step.unit)
                ruled, state = step.optimizer.step(ruled, g, state, unit=step.unit, gradient_error=e)
                allowance = state.error
            if stepper is None:
                here = ruled
        # A head meets its own loss alone; only the trunk tells what the others did.
        cut = np.where(np.arange(self.before.size) < size, allowance, np.inf)
        return Replay(name, None if state is None else ruled, None if stepper is None else here, cut)

    def _evidence(self, stepped: tuple[str, ...], here: Vector) -> Evidence:
        if stepped not in self.found:
            at = Parameters(self.layout, here.astype(self.step.before.dtype))
            self.found[stepped] = self.gather(self.step.network, at, self.step.x, self.step.targets)
        return self.found[stepped]


def weighted(layout: Layout, evidence: Evidence, weights: dict[str, float]) -> tuple[Vector, Vector]:
    """Σ weight·gradient over all parameters, and its uncertainty, flat."""
    total, error = Parameters(layout, np.zeros(layout.size)), Parameters(layout, np.zeros(layout.size))
    for loss, weight in weights.items():
        for name, gradient in evidence.gradients[loss].items():
            total[name][...] += weight * gradient
            error[name][...] += abs(weight) * evidence.spread[loss][name]
    return np.asarray(total.flat, np.float64), np.asarray(error.flat, np.float64)


def hypotheses(step: Step, evidence: Evidence, gather: Gather = gather_evidence) -> Iterator[Replay]:
    """Every hypothesis that applies to the step, the sum first."""
    replay, layout = Replayer(step, evidence, gather), step.network.layout
    weights = {name: head.weight for name, head in step.network.heads.items()}
    names, k = list(weights), len(weights)
    outside = step.clip if step.clip is not None and not step.clip.inside else None

    def of(coefficients: dict[str, float], *, at: Evidence = evidence) -> tuple[Vector, Vector]:
        return clipped(outside, layout, *weighted(layout, at, coefficients), step.unit)

    summed = replay.one(SUM, *of(weights))
    yield summed
    yield replay.one(MEAN, *of({name: weight / k for name, weight in weights.items()}))
    if k > 1:
        orders = list(itertools.permutations(names)) if k <= 3 else [tuple(names), tuple(reversed(names))]
        for order in orders:
            yield replay.in_turn(f"{TURN}: {', '.join(order)}", order)
        yield replay.apart(SEPARATE, names)
        for name in names:
            left = {n: w for n, w in weights.items() if n != name}
            said = f"{WITHOUT}: {name}"
            yield replace(replay.alone(*left), name=said) if len(left) == 1 else replay.one(said, *of(left))
        seen = [tuple(weights.values())]
        for exchanged in itertools.permutations(weights.values()) if k <= 3 else ():
            if exchanged not in seen:
                seen.append(exchanged)
                yield replay.one(EXCHANGED, *of(dict(zip(names, exchanged, strict=True))))
    if step.previous is not None:
        before = gather(step.network, step.before, step.previous[0], step.previous[1])
        yield replay.one(PREVIOUS, *of(weights, at=before))
    if step.leftover is not None:
        plain, error = weighted(layout, evidence, weights)
        both = step.leftover.flat.astype(np.float64) + plain
        yield replay.one(ADDED, *clipped(outside, layout, both, error + step.unit * np.abs(both), step.unit))
    if outside is not None:
        yield replay.one(UNCLIPPED, *weighted(layout, evidence, weights))
        if k > 1:
            parts = [replay.alone(name) for name in names]
            gradients = [r.gradient for r in parts if r.gradient is not None]
            errors = [r.error for r in parts if r.error is not None]
            yield replay.one(EARLY, np.sum(gradients, axis=0), np.sum(errors, axis=0))
    start = replay.before
    yield Replay(
        STILL, None if summed.ruled is None else start, None if summed.own is None else start, summed.allowance
    )
