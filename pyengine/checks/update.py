"""The update: which rule leads from the parameters before the step to those after it?

Every hypothesis is replayed in float64 at the shared layers, from the engine's own gradients:

* *one step on the sum*: one step with Σ w_k·g_k;
* *one step on the mean*: one step with Σ w_k·g_k / K;
* *one step per loss in turn*, in every order (of up to three losses): a step with w_k·g_k for each loss, one optimizer,
  each gradient taken at the parameters that the step before left;
* *one optimizer per loss*: K optimizers with a state each, all gradients taken at the parameters before.

Its misfit is the largest |observed - predicted| / allowance over all elements. The allowance is what rounding may
account for: the gradient's rounding spread carried through the rule, the rule's own float32 roundings
(:mod:`pyengine.optimizers`), and the rounding of the new parameter. Where a gradient is itself at rounding level its
sign is uncertain, Adam's first step may go either way, and the allowance there is as large as the step: such elements
testify for no one.

A hypothesis fits if its misfit is at most 1. Where none does, :func:`pyengine.checks.standing.standing` decides, with
the misfit of *no step at all* as the size: if the best misfit is nearer to 1 than to that size, the verdict is *cannot
tell*. Otherwise it is *one step on another gradient*, if the gradient that was seen to be applied does lead to the
observed parameters, and *none of these* if not even that does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..optimizers import SGD
from ..parameters import Parameters
from ..witnesses import Step
from .evidence import Evidence, gather_evidence
from .standing import Standing, standing

Vector = npt.NDArray[np.float64]

SUM = "one step on the sum"
MEAN = "one step on the mean"
TURN = "one step per loss in turn"
SEPARATE = "one optimizer per loss"
OTHER = "one step on another gradient"
NONE = "none of these"


@dataclass(frozen=True)
class Hypothesis:
    """A rule and how badly it misses: ``outside`` of ``elements`` elements lie beyond their allowance."""

    name: str
    misfit: float
    outside: int
    elements: int

    @property
    def fits(self) -> bool:
        return self.misfit <= 1.0


@dataclass(frozen=True)
class Update:
    """The finding.

    ``applied`` replays the step on the gradient that the framework was seen to apply: it tells whether the optimizer's
    own arithmetic is as described, whatever the gradient was. ``uncertain`` counts the elements whose summed gradient
    is at rounding level.
    """

    rule: str
    reason: str
    standing: Standing
    optimizer: str
    hypotheses: tuple[Hypothesis, ...]
    applied: Hypothesis
    unmoved: float
    uncertain: int

    @property
    def verdict(self) -> str:
        """One word or two for the rule: ``"summed"``, ``"averaged"``, ``"in turn"``, ``"one optimizer per loss"``, …"""
        return " or ".join(_VERDICTS.get(name.partition(":")[0], name) for name in self.rule.split(" or "))


_VERDICTS = {SUM: "summed", MEAN: "averaged", TURN: "in turn", OTHER: "another gradient"}


def check_update(step: Step, evidence: Evidence) -> Update:
    """Replay every hypothesis at the shared layers and see which one leads to the observed parameters."""
    size = step.trunk_size
    before, after = step.before.flat[:size].astype(np.float64), step.after.flat[:size].astype(np.float64)
    weights = np.array([head.weight for head in step.network.heads.values()])
    jacobian, spread = evidence.trunk(size), evidence.trunk_spread(size)
    total, total_spread = weights @ jacobian, np.abs(weights) @ spread
    k = len(weights)

    def once(gradient: Vector, error: Vector) -> tuple[Vector, Vector]:
        predicted, state = step.optimizer.step(
            before, gradient, step.optimizer.start(before), unit=step.unit, gradient_error=error
        )
        return predicted, state.error

    def separately() -> tuple[Vector, Vector]:
        moved = [once(w * g, abs(w) * s) for w, g, s in zip(weights, jacobian, spread, strict=True)]
        return before + sum(p - before for p, _ in moved), np.sum([error for _, error in moved], axis=0)

    replays: dict[str, Callable[[], tuple[Vector, Vector]]] = {
        SUM: lambda: once(total, total_spread),
        MEAN: lambda: once(total / k, total_spread / k),
    }
    if k > 1:
        names = list(step.network.heads)
        orders = list(itertools.permutations(names)) if k <= 3 else [tuple(names), tuple(reversed(names))]
        for order in orders:
            replays[f"{TURN}: {', '.join(order)}"] = lambda order=order: _in_turn(step, order)  # type: ignore[misc]
        replays[SEPARATE] = separately
    hypotheses = tuple(_compare(name, after, *replay()) for name, replay in replays.items())
    applied = step.gradient.flat[:size]
    seen = _compare(
        "the gradient that was applied", after, *once(applied, step.gradient_roundings * step.unit * np.abs(applied))
    )
    unmoved = _compare("no step", after, before, np.abs(once(total, total_spread)[1])).misfit
    verdict, reason, found = _judge(step, hypotheses, seen, unmoved)
    uncertain = int(np.count_nonzero((np.abs(total) <= total_spread) & (total_spread > 0.0)))
    return Update(verdict, reason, found, repr(step.optimizer), hypotheses, seen, unmoved, uncertain)


def _in_turn(step: Step, order: Sequence[str]) -> tuple[Vector, Vector]:
    size, layout = step.trunk_size, step.network.layout
    moved = step.before.flat.astype(np.float64)
    # The trunk meets every loss; a head meets its own only, so its part is stepped when its turn comes.
    state = step.optimizer.start(moved[:size])
    for name in order:
        here = Parameters(layout, moved.astype(step.before.dtype))
        evidence = gather_evidence(step.network, here, step.x, step.targets)
        weight = step.network.heads[name].weight
        moved[:size], state = step.optimizer.step(
            moved[:size],
            weight * evidence.gradients[name].flat[:size],
            state,
            unit=step.unit,
            gradient_error=abs(weight) * evidence.spread[name].flat[:size],
        )
    return moved[:size], state.error


def _compare(name: str, observed: Vector, predicted: Vector, allowance: Vector) -> Hypothesis:
    difference = np.abs(observed - predicted)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(difference == 0.0, 0.0, difference / allowance)
    return Hypothesis(name, float(np.max(ratio, initial=0.0)), int(np.count_nonzero(~(ratio <= 1.0))), int(ratio.size))


def _judge(step: Step, hypotheses: Sequence[Hypothesis], seen: Hypothesis, unmoved: float) -> tuple[str, str, Standing]:
    fitting = [h.name for h in hypotheses if h.fits]
    if SUM in fitting:
        others = [name for name in fitting if name != SUM]
        if _coincide(step):
            others = [name for name in others if name != SEPARATE]
        if len(step.network.heads) == 1:
            others = []
        if not others:
            reason = "no other rule fits"
            if SEPARATE in fitting:
                reason = f"for SGD, {SEPARATE} is the same step mathematically"
            return SUM, reason, "within"
        return "cannot tell", f"{SUM} fits, but so does {' and '.join(others)}", "between"
    if fitting:
        return " or ".join(fitting), "one step on the sum does not fit", "beyond"
    best = min(hypotheses, key=lambda h: h.misfit)
    if standing(best.misfit, 1.0, unmoved) == "between":
        return "cannot tell", f"{best.name} comes nearest, but misses by {best.misfit:.3g} allowances", "between"
    if seen.fits:
        return OTHER, "the optimizer's step is right for the gradient that it was given", "beyond"
    return NONE, f"the nearest, {best.name}, misses by {best.misfit:.3g} allowances", "beyond"


def _coincide(step: Step) -> bool:
    """SGD is linear in the gradient, with momentum too: steps of several optimizers add up to the step of one."""
    return isinstance(step.optimizer, SGD)
