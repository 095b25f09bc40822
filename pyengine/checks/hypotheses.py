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
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..engine import Network
from ..parameters import Array, Layout, Parameters
from ..witnesses import Step
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

    ``gradient`` and ``error`` are what a single step was taken on, None for several steps.
    """

    name: str
    ruled: Vector | None
    own: Vector | None
    allowance: Vector
    gradient: Vector | None = None
    error: Vector | None = None


class Replayer:
    """Replays gradients, flat over all parameters, from where the step began."""

    def __init__(self, step: Step, evidence: Evidence | None = None, gather: Gather = gather_evidence) -> None:
        self.gather = gather
        # By the losses that have stepped before, in their order.
        self.found: dict[tuple[str, ...], Evidence] = {} if evidence is None else {(): evidence}
        self.step, self.layout = step, step.network.layout
        self.before = step.before.flat.astype(np.float64)

    def one(self, name: str, gradient: Vector, error: Vector) -> Replay:
        """One step on one gradient."""
        step, unit = self.step, self.step.unit
        ruled = own = None
        allowance = np.zeros_like(gradient)
        if step.optimizer is not None:
            inside = step.clip if step.clip is not None and step.clip.inside else None
            g, e = clipped(inside, self.layout, gradient, error, unit)
            state = step.state if step.state is not None else step.optimizer.start(self.before)
            ruled, after = step.optimizer.step(self.before, g, state, unit=unit, gradient_error=e)
            allowance = after.error
        if step.own is not None:
            own = step.own().step(gradient)
            if step.optimizer is None:
                allowance = self._moved(step.own, own, gradient, error)
        return Replay(name, ruled, own, allowance, gradient, error)

    def _moved(self, own: Callable[[], object], after: Vector, gradient: Vector, error: Vector) -> Vector:
        up, down, still = (
            own().step(g)  # type: ignore[attr-defined]
            for g in (gradient + error, gradient - error, np.zeros_like(gradient))
        )
        way = np.abs(after - self.before) + np.abs(still - self.before)
        rounding = 2.0 * self.step.unit * (OPERATIONS * way + np.abs(after))
        return np.asarray(np.maximum(np.abs(up - after), np.abs(down - after)) + rounding)

    def apart(self, name: str, gradients: Sequence[tuple[Vector, Vector]]) -> Replay:
        """One optimizer per gradient, all gradients taken at the parameters before."""
        moved = [self.one(name, g, e) for g, e in gradients]
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
        state = None
        if step.optimizer is not None:
            state = step.state if step.state is not None else step.optimizer.start(self.before)
        stepper = None if step.own is None else step.own()
        ruled, here, allowance = self.before, self.before, np.zeros_like(self.before)
        for done, loss in enumerate(order):
            seen = self._evidence(tuple(order[:done]), here)
            gradient, error = weighted(self.layout, seen, {loss: step.network.heads[loss].weight})
            if step.clip is not None and not step.clip.inside:
                gradient, error = clipped(step.clip, self.layout, gradient, error, step.unit)
            if stepper is not None:
                if step.optimizer is None:
                    # To first order each step passes on what came before unchanged.
                    allowance = allowance + self.one(name, gradient, error).allowance
                here = stepper.step(gradient)
            if step.optimizer is not None and state is not None:
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
        yield replay.apart(SEPARATE, [of({name: weight}) for name, weight in weights.items()])
        for name in names:
            yield replay.one(f"{WITHOUT}: {name}", *of({n: w for n, w in weights.items() if n != name}))
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
            parts = [of({name: weight}) for name, weight in weights.items()]
            yield replay.one(EARLY, np.sum([g for g, _ in parts], axis=0), np.sum([e for _, e in parts], axis=0))
    start = replay.before
    yield Replay(
        STILL, None if summed.ruled is None else start, None if summed.own is None else start, summed.allowance
    )
