"""The hypotheses of the update check: what a training step may have done, each as gradients for the optimizer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..parameters import Array, Parameters
from .evidence import Some
from .replays import Alone, Apart, InTurn, OneStep, Predicted, Renamed, Replay, Replayer, Taken

Vector = npt.NDArray[np.float64]

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


class Still:
    """No step at all, with the allowance of the step on the sum."""

    name, taken = STILL, None

    def __init__(self, replayer: Replayer, summed: OneStep) -> None:
        self.replayer, self.summed = replayer, summed

    def at(self, some: Some) -> Predicted:
        start, beside = self.replayer.before(some), self.summed.at(some)
        return Predicted(
            None if beside.ruled is None else start, None if beside.own is None else start, beside.allowance
        )  # fmt: skip


def hypotheses(replay: Replayer) -> list[Replay]:
    """Every hypothesis that applies to the step, the sum first and no step at all last."""
    step, alone = replay.step, Alone(replay)
    weights = {name: head.weight for name, head in step.network.heads.items()}
    names, k = list(weights), len(weights)
    summed = OneStep(replay, SUM, replay.total(weights))
    found: list[Replay] = [summed]

    def add(name: str, taken: Taken) -> None:
        found.append(OneStep(replay, name, taken))

    add(MEAN, replay.of({name: weight / k for name, weight in weights.items()}))
    if k > 1:
        orders = list(itertools.permutations(names)) if k <= 3 else [tuple(names), tuple(reversed(names))]
        found += [InTurn(alone, f"{TURN}: {', '.join(order)}", order) for order in orders]
        found.append(Apart(alone, SEPARATE, names))
        for name in names:
            left = {n: w for n, w in weights.items() if n != name}
            said = f"{WITHOUT}: {name}"
            if len(left) == 1:
                found.append(Renamed(said, alone[next(iter(left))]))
            else:
                add(said, replay.of(left))
        seen = [tuple(weights.values())]
        for exchanged in itertools.permutations(weights.values()) if k <= 3 else ():
            if exchanged not in seen:
                seen.append(exchanged)
                add(EXCHANGED, replay.of(dict(zip(names, exchanged, strict=True))))
    if step.previous is not None:
        before = replay.gather(step.network, step.before, step.previous[0], step.previous[1])
        add(PREVIOUS, replay.of(weights, before))
    if step.leftover is not None:
        add(ADDED, replay.clipped(replay.outside, _beside(step.leftover, replay.summed(weights), step.unit)))
    if replay.outside is not None:
        add(UNCLIPPED, replay.summed(weights))
        if k > 1:
            add(EARLY, _together([alone[name].taken for name in names]))
    found.append(Still(replay, summed))
    return found


def _beside(leftover: Parameters, plain: Taken, unit: float) -> Taken:
    """A gradient added to what lay in the buffers before."""

    def both(left: Array, gradient: Vector, error: Vector) -> tuple[Vector, Vector]:
        total = left.astype(np.float64) + gradient
        return total, error + unit * np.abs(total)

    return Taken(
        lambda some: both(leftover.flat[some], *plain.at(some)),
        lambda: both(leftover.flat, *plain.all()),
        lambda: leftover.flat.astype(np.float64) + plain.value(),
    )


def _together(parts: Sequence[Taken]) -> Taken:
    """The sum of gradients, each as it is."""

    def added(given: Sequence[tuple[Vector, Vector]]) -> tuple[Vector, Vector]:
        return np.sum([g for g, _ in given], axis=0), np.sum([e for _, e in given], axis=0)

    return Taken(
        lambda some: added([part.at(some) for part in parts]),
        lambda: added([part.all() for part in parts]),
        lambda: np.sum([part.value() for part in parts], axis=0),
    )
