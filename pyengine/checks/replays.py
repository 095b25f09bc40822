"""How a hypothesis of the update check is replayed.

Once by the float64 rule (:mod:`pyengine.optimizers`), whose bound says what rounding may account for. And once by a
copy of the framework's own optimizer with the state that it had: it knows every option that the rule does not model,
so its word counts where it is at hand. Its allowance is twice the rule's, as it rounds as well; where there is no rule,
it is how far its own result moves when the gradient moves by its uncertainty, plus twice the roundings of
``OPERATIONS`` elementwise operations on the way from the gradient to the parameter.

A rule is elementwise, so a replay is asked for some elements of the shared layers at a time, and nothing as large as
all parameters is made for it. The framework's optimizer takes its step as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .. import spare
from ..engine import Network
from ..optimizers import State
from ..parameters import Array, Layout, Parameters
from ..witnesses import Clip, Step, Stepper
from .clipping import clipped
from .evidence import BLOCK, Evidence, Some, gather_evidence

Vector = npt.NDArray[np.float64]

Gather = Callable[[Network, Parameters, Array, Mapping[str, Array]], Evidence]
"""What gives the evidence at other parameters or for another batch."""

OPERATIONS = 16
"""No elementwise optimizer of the three frameworks takes more operations from a gradient to a parameter: AdamW with
AMSGrad, the longest, takes 15."""


@dataclass(frozen=True, eq=False)
class Taken:
    """A gradient that a step may have been taken on. ``at`` gives it with its uncertainty at some elements of the
    shared layers, ``all`` at all parameters; ``value`` is all of the gradient alone."""

    at: Callable[[Some], tuple[Vector, Vector]]
    all: Callable[[], tuple[Vector, Vector]]
    value: Callable[[], Vector]

    @classmethod
    def whole(cls, make: Callable[[], tuple[Vector, Vector]]) -> Taken:
        """One that has to be made as a whole, as where norms are clipped; it is made once."""
        made: list[tuple[Vector, Vector]] = []

        def both() -> tuple[Vector, Vector]:
            if not made:
                made.append(make())
            return made[0]

        return cls(lambda some: (both()[0][some], both()[1][some]), both, lambda: both()[0])


@dataclass(frozen=True, eq=False)
class Predicted:
    """Parameters at some elements, by the rule and by the framework's own optimizer, and the allowance; ``state`` is
    what the rule remembers there."""

    ruled: Vector | None
    own: Vector | None
    allowance: Vector
    state: State | None = None


class Replay(Protocol):
    """A hypothesis. ``taken`` is what a single step was taken on, None for several steps."""

    @property
    def name(self) -> str: ...
    @property
    def taken(self) -> Taken | None: ...
    def at(self, some: Some) -> Predicted: ...


class Replayer:
    """Replays gradients from where the step began."""

    def __init__(self, step: Step, evidence: Evidence | None = None, gather: Gather = gather_evidence) -> None:
        self.gather = gather
        # Whether what was applied was seen, so that no hypothesis has to tell it.
        self.decided = False
        # By the losses that have stepped before, in their order.
        self.found: dict[tuple[str, ...], Evidence] = {} if evidence is None else {(): evidence}
        self.step, self.layout, self.unit = step, step.network.layout, step.unit
        self.inside = step.clip if step.clip is not None and step.clip.inside else None
        self.outside = None if self.inside is not None else step.clip
        # Terms that are no losses: the gradient of a step has them too.
        self.added = np.sum([one.gradient.flat for one in step.added.values()], axis=0) if step.added else None

    def before(self, some: Some) -> Vector:
        return np.asarray(self.step.before.flat[some], np.float64)

    def state(self, some: Some) -> State:
        """What the optimizer remembered before the step."""
        held, optimizer = self.step.state, self.step.optimizer
        assert optimizer is not None
        if held is None:
            return optimizer.start(self.before(some))
        slots, errors = (
            {name: np.asarray(slot[some], np.float64) for name, slot in of.items()}
            for of in (held.slots, held.slot_errors)
        )
        return State(held.steps, slots, errors, held.error[some])

    def few(self, some: Some) -> Stepper | None:
        """The framework's own optimizer at a few elements, where it takes each alone."""
        return None if isinstance(some, slice) or self.step.own_at is None else self.step.own_at(some)

    def ruled(self, before: Vector, taken: Taken, state: State, some: Some | None) -> tuple[Vector, State]:
        """A step of the rule, at some elements or (None) at all parameters."""
        optimizer = self.step.optimizer
        assert optimizer is not None
        taken = self.clipped(self.inside, taken)
        g, e = taken.all() if some is None else taken.at(some)
        if self.added is not None:
            added = self.added if some is None else self.added[some]
            g = g + added
            # The added term is computed and added in the working precision: the square, the factor, the sum.
            e = e + self.unit * (3.0 * np.abs(added) + np.abs(g))
        return optimizer.step(before, g, state, unit=self.unit, gradient_error=e)

    def clipped(self, clip: Clip | None, taken: Taken) -> Taken:
        layout, unit = self.layout, self.unit
        if clip is None:
            return taken
        if clip.kind != "value":
            return Taken.whole(lambda: clipped(clip, layout, *taken.all(), unit))
        return Taken(
            lambda some: clipped(clip, layout, *taken.at(some), unit),
            lambda: clipped(clip, layout, *taken.all(), unit),
            lambda: np.clip(taken.value(), -clip.limit, clip.limit),
        )

    def summed(self, weights: Mapping[str, float], at: Evidence | None = None) -> Taken:
        """Σ weight·gradient."""
        evidence = self.found[()] if at is None else at

        def some_of(some: Some) -> tuple[Vector, Vector]:
            parts = [(weight, *evidence.at(loss, some)) for loss, weight in weights.items()]
            total, error = parts[0][0] * parts[0][1], abs(parts[0][0]) * parts[0][2]
            for weight, gradient, spread in parts[1:]:
                total += weight * gradient
                error += abs(weight) * spread
            return total, error

        return Taken(
            some_of,
            lambda: weighted(self.layout, evidence, weights),
            lambda: combined(self.layout, evidence.gradients, weights),
        )

    def of(self, weights: Mapping[str, float], at: Evidence | None = None) -> Taken:
        """Σ weight·gradient, clipped if the user clips."""
        return self.clipped(self.outside, self.summed(weights, at))

    def total(self, weights: Mapping[str, float]) -> Taken:
        """The configured sum: the certified gradient that was applied, if it was, else the sum of the losses' own."""
        certified = self.found[()].total
        if certified is None:
            return self.of(weights)
        flat = certified.flat
        nothing = np.zeros(flat.size)  # of memory that is never touched
        return self.clipped(
            self.outside,
            Taken(lambda some: (flat[some], nothing[some]), lambda: (flat, nothing), lambda: flat),
        )

    def of_loss(self, loss: str, at: Evidence | None = None) -> Taken:
        return self.of({loss: self.step.network.heads[loss].weight}, at)

    def evidence(self, stepped: tuple[str, ...], here: Vector) -> Evidence:
        """The evidence where the steps on these losses led."""
        if stepped not in self.found:
            at = Parameters(self.layout, here.astype(self.step.before.dtype))
            near = self.found[()].moved(at) if self.decided else None
            if near is None:
                near = self.gather(self.step.network, at, self.step.x, self.step.targets)
            self.found[stepped] = near
        return self.found[stepped]


class OneStep:
    """One step on one gradient. With ``kept`` the framework's optimizer can go on from there."""

    def __init__(self, replayer: Replayer, name: str, taken: Taken, *, kept: bool = False) -> None:
        self.replayer, self.name, self.taken, self.kept = replayer, name, taken, kept
        self._last: tuple[Some, Predicted] | None = None
        self._stepper: Stepper | None = None

    def at(self, some: Some) -> Predicted:
        if self._last is None or self._last[0] is not some:
            self._last = (some, self._at(some))
        return self._last[1]

    def _at(self, some: Some) -> Predicted:
        replayer = self.replayer
        own = self._own_at(some)
        if replayer.step.optimizer is None:
            before = replayer.before(some)
            return Predicted(None, own, np.zeros_like(before) if self.moved is None else self.moved[some])
        ruled, state = replayer.ruled(replayer.before(some), self.taken, replayer.state(some), some)
        return Predicted(ruled, own, state.error, state)

    def _own_at(self, some: Some) -> Vector | None:
        few = None if "own" in vars(self) else self.replayer.few(some)
        if few is not None:
            return np.asarray(few.step(self.taken.at(some)[0]), np.float64)
        return None if self.own is None else np.asarray(self.own[some], np.float64)

    @cached_property
    def own(self) -> Array | None:
        """All parameters after the step of the framework's own optimizer."""
        if self.replayer.step.own is None:
            return None
        stepper = self.replayer.step.own()
        after = stepper.step(self.taken.value())
        self._stepper = stepper if self.kept else None
        return after

    @cached_property
    def moved(self) -> Vector | None:
        """The allowance of all parameters where there is no rule."""
        if self.replayer.step.own is None or self.own is None:
            return None
        before, after, make = (
            self.replayer.before(slice(None)),
            np.asarray(self.own, np.float64),
            self.replayer.step.own,
        )
        gradient, error = self.taken.all()
        up, down, still = (make().step(g) for g in (gradient + error, gradient - error, np.zeros_like(gradient)))
        way = np.abs(after - before) + np.abs(still - before)
        rounding = 2.0 * self.replayer.unit * (OPERATIONS * way + np.abs(after))
        return np.asarray(np.maximum(np.abs(up - after), np.abs(down - after)) + rounding)

    def stepper(self) -> Stepper | None:
        """The framework's own optimizer after this step, for one to go on with."""
        if self.replayer.step.own is None or self.own is None:
            return None
        found, self._stepper = self._stepper, None
        if found is None:
            found = self.replayer.step.own()
            found.step(self.taken.value())
        return found

    def ruled(self) -> tuple[Vector, State]:
        """All parameters by the rule, and what it remembers."""
        everything = slice(None)
        return self.replayer.ruled(
            self.replayer.before(everything), self.taken, self.replayer.state(everything), None
        )  # fmt: skip


class Alone(dict[str, OneStep]):
    """One step on each loss. Other hypotheses begin with it or are made of it, so it is kept."""

    def __init__(self, replayer: Replayer) -> None:
        self.replayer = replayer

    def __missing__(self, loss: str) -> OneStep:
        self[loss] = OneStep(self.replayer, loss, self.replayer.of_loss(loss), kept=True)
        return self[loss]


class Renamed:
    """A replay under another name."""

    def __init__(self, name: str, replay: Replay) -> None:
        self.name, self.taken, self.at = name, replay.taken, replay.at


class Apart:
    """One optimizer per loss, all gradients taken at the parameters before."""

    taken = None

    def __init__(self, alone: Alone, name: str, losses: Sequence[str]) -> None:
        self.alone, self.name, self.losses = alone, name, losses

    def at(self, some: Some) -> Predicted:
        before, moved = self.alone.replayer.before(some), [self.alone[loss].at(some) for loss in self.losses]
        ruled = [r.ruled - before for r in moved if r.ruled is not None]
        own = [r.own - before for r in moved if r.own is not None]
        return Predicted(
            before + np.sum(ruled, axis=0) if ruled else None,
            before + np.sum(own, axis=0) if own else None,
            np.sum([r.allowance for r in moved], axis=0),
        )


class InTurn:
    """One optimizer, a step for each loss; every gradient is taken where the step before left."""

    taken = None

    def __init__(self, alone: Alone, name: str, order: Sequence[str]) -> None:
        self.alone, self.name, self.order = alone, name, order

    def at(self, some: Some) -> Predicted:
        replayer, found = self.alone.replayer, self.alone[self.order[0]].at(some)
        ruled, state, allowance = found.ruled, found.state, found.allowance
        for later in self._later:
            if ruled is not None and state is not None:
                ruled, state = replayer.ruled(ruled, later.taken, state, some)
                allowance = state.error
            elif later.moved is not None:
                # To first order each step passes on what came before unchanged.
                allowance = allowance + later.moved[some]
        return Predicted(ruled, self._own_at(some), allowance)

    def _own_at(self, some: Some) -> Vector | None:
        few = self.alone.replayer.few(some)
        if few is None:
            return None if self._own is None else np.asarray(self._own[some], np.float64)
        steps = [self.alone[self.order[0]], *self._later]
        return np.asarray([few.step(one.taken.at(some)[0]) for one in steps][-1], np.float64)

    @cached_property
    def _later(self) -> list[OneStep]:
        """The steps after the first."""
        return self._path[0]

    @cached_property
    def _own(self) -> Array | None:
        """Where the framework's own optimizer ends."""
        later, stepper = self._path
        if stepper is None:
            return None
        return stepper.step(later[-1].taken.value()) if later else self.alone[self.order[0]].own

    @cached_property
    def _path(self) -> tuple[list[OneStep], Stepper | None]:
        """The steps after the first, and the framework's own optimizer before the last of them."""
        replayer, first = self.alone.replayer, self.alone[self.order[0]]
        stepper, state = first.stepper(), None
        here: Array | None = first.own
        if stepper is None:
            here, state = first.ruled()
        later: list[OneStep] = []
        for done, loss in enumerate(self.order[1:], 1):
            assert here is not None
            taken = replayer.of_loss(loss, replayer.evidence(tuple(self.order[:done]), here))
            later.append(OneStep(replayer, self.name, taken))
            if done + 1 == len(self.order):
                break
            if stepper is not None:
                here = stepper.step(taken.value())
            elif state is not None:
                here, state = replayer.ruled(np.asarray(here, np.float64), taken, state, None)
        return later, stepper


def weighted(layout: Layout, evidence: Evidence, weights: Mapping[str, float]) -> tuple[Vector, Vector]:
    """Σ weight·gradient over all parameters, and its uncertainty, flat."""
    sizes = {loss: abs(weight) for loss, weight in weights.items()}
    return combined(layout, evidence.gradients, weights), combined(layout, evidence.spread, sizes)


def combined(layout: Layout, of: Mapping[str, Parameters], weights: Mapping[str, float]) -> Vector:
    """Σ weight·(what each loss has at its parameters), flat over all."""
    total = spare.empty(layout.size)
    total[...] = 0.0
    some = np.empty(min(BLOCK, layout.size))
    for loss, weight in weights.items():
        part = of[loss]
        for name in part.layout.names:
            start, given = layout.offsets[name], part[name].reshape(-1)
            for begin in range(0, given.size, BLOCK):
                end = min(begin + BLOCK, given.size)
                here = total[start + begin : start + end]
                here += np.multiply(given[begin:end], weight, out=some[: end - begin])
    return total
