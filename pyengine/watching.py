"""What ``pe.watch`` saw: every step of every optimizer, and their judgement as one training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .engine import Network
from .optimizers import Rule, State
from .parameters import Array, Parameters
from .witnesses import Clip, Stepper

Arrays = dict[str, Array]
Vector = npt.NDArray[np.float64]


class Own(Protocol):
    """A copy of a framework's optimizer, over parameters by their native names."""

    def step(self, gradients: Mapping[str, Array]) -> Arrays:
        """Take one step; return the parameters that it holds, after it."""
        ...


@dataclass(frozen=True, eq=False)
class Event:
    """One step of one optimizer, in the framework's own names and shapes.

    ``gradient`` has what the optimizer was given, for the parameters that got any; ``held`` names all that it holds.
    ``own`` makes copies of the optimizer as it was before. ``slots`` is what the rule remembered: slot -> arrays.
    """

    optimizer: int
    name: str
    before: Arrays
    after: Arrays
    gradient: Arrays
    held: frozenset[str]
    rule: Rule | None = None
    steps: int = 0
    slots: dict[str, Arrays] = field(default_factory=dict)
    own: Callable[[], Own] | None = None
    clip: Clip | None = None
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Twin:
    """A model as the engine knows it: canonical parameter name -> native name, and which are stored transposed."""

    network: Network
    native: dict[str, str]
    transposed: frozenset[str] = frozenset()

    def parameters(self, arrays: Mapping[str, Array], dtype: Any = None) -> Parameters:
        """Native arrays under canonical names, in one vector; zeros for what is absent."""
        layout = self.network.layout
        kind = np.dtype(dtype if dtype is not None else next(iter(arrays.values())).dtype)
        found = Parameters(layout, np.zeros(layout.size, kind))
        for name, native in self.native.items():
            if native in arrays:
                array = np.asarray(arrays[native])
                found[name][...] = array.T if name in self.transposed else array
        return found

    def arrays(self, flat: Vector, dtype: Any) -> Arrays:
        """The reverse of :meth:`parameters`."""
        given = Parameters(self.network.layout, np.ascontiguousarray(flat, dtype=dtype))
        return {
            native: np.ascontiguousarray(given[name].T if name in self.transposed else given[name])
            for name, native in self.native.items()
        }


class CopiedOptimizer:
    """The framework's own optimizer as a :class:`~pyengine.witnesses.Stepper` over the flat canonical vector."""

    def __init__(self, own: Own, event: Event, twin: Twin) -> None:
        self.own, self.event, self.twin = own, event, twin
        self.here = dict(event.before)

    def step(self, gradient: Vector) -> Vector:
        dtype = next(iter(self.event.before.values())).dtype
        arrays = self.twin.arrays(gradient, dtype)
        # What got no gradient is left out, as it was; what the engine does not know keeps the gradient that it got.
        given = {name: arrays.get(name, seen) for name, seen in self.event.gradient.items()}
        self.here |= self.own.step(given)
        return self.twin.parameters(self.here).flat.astype(np.float64)


def stepper_of(event: Event, twin: Twin) -> Callable[[], Stepper] | None:
    """Copies of the event's optimizer for the update check."""
    if event.own is None:
        return None
    make = event.own
    return lambda: CopiedOptimizer(make(), event, twin)


def state_of(event: Event, twin: Twin) -> State | None:
    """What the float64 rule remembers; None where it was fresh."""
    if event.rule is None or not event.steps:
        return None
    fresh = event.rule.start(np.zeros(twin.network.layout.size))
    slots = {name: twin.parameters(event.slots[name], np.float64).flat for name in fresh.slots if name in event.slots}
    return State(event.steps, {**fresh.slots, **slots}, fresh.slot_errors, fresh.error)


def moving(events: Sequence[Event]) -> Sequence[Event]:
    """Without the calls before a step in which an optimizer moved nothing, as ``optax.MultiSteps`` while it
    accumulates; where none moved, the last."""
    moved = [e for e in events if any((e.after[name] != value).any() for name, value in e.before.items())]
    return moved or events[-1:]


def merged(events: Sequence[Event]) -> Event | None:
    """Several optimizers with a share of the parameters each, as one step; None where a parameter was stepped twice."""
    stepped = [name for event in events for name in event.gradient]
    if len(stepped) != len(set(stepped)):
        return None
    if len(events) == 1:
        return events[0]
    first = events[0]
    owns = [event.own for event in events]

    def together() -> Own:
        return _Several([(event, own()) for event, own in zip(events, owns, strict=True) if own is not None])

    same = all(event.rule == first.rule and event.steps == first.steps for event in events)
    slots: dict[str, Arrays] = {}
    for event in events:
        for slot, arrays in event.slots.items():
            slots.setdefault(slot, {}).update(arrays)
    return Event(
        optimizer=first.optimizer,
        name=" + ".join(dict.fromkeys(event.name for event in events)),
        before=first.before,
        after=events[-1].after,
        gradient={name: array for event in events for name, array in event.gradient.items()},
        held=frozenset().union(*(event.held for event in events)),
        rule=first.rule if same else None,
        steps=first.steps if same else 0,
        slots=slots if same else {},
        own=together if all(own is not None for own in owns) else None,
        clip=first.clip if all(event.clip == first.clip for event in events) else None,
        scale=first.scale,
    )


class _Several:
    def __init__(self, parts: list[tuple[Event, Own]]) -> None:
        self.parts = parts

    def step(self, gradients: Mapping[str, Array]) -> Arrays:
        moved: Arrays = {}
        for event, own in self.parts:
            moved |= own.step({name: array for name, array in gradients.items() if name in event.held})
        return moved
