"""The update: which rule leads from the parameters before the step to those after it?

Every hypothesis is replayed at the shared layers, from the engine's own gradients: by the float64 rule and, where it is
at hand, by a copy of the framework's own optimizer (:mod:`pyengine.checks.replays`):

* *one step on the sum*: one step with Σ w_k·g_k; *on the mean*: with Σ w_k·g_k / K; *without a loss*: with one of the
  terms left out; *with the weights exchanged*;
* *one step per loss in turn*, in every order (of up to three losses): a step with w_k·g_k for each loss, one optimizer,
  each gradient taken at the parameters that the step before left;
* *one optimizer per loss*: K optimizers with a state each, all gradients taken at the parameters before;
* *on the previous batch*, and *on this gradient and the one before*, where these are known;
* where gradients are clipped: *not clipped*, and *clipped before the sum*;
* *no step at all*: the parameters as they were, with the allowance of the step on the sum.

Its misfit is the largest |observed - predicted| / allowance over all elements. The allowance is what rounding may
account for: the gradient's rounding spread carried through the rule, the rule's own roundings, and the rounding of the
new parameter. Where a gradient is itself at rounding level its sign is uncertain, Adam's first step may go either way,
and the allowance there is as large as the step: such elements testify for no one. Where that is so of every element, no
step at all fits beside the sum, and the verdict is *cannot tell*: what moved the weights cannot be seen. Only where the
sum was seen to be applied and the optimizer itself does not move, as at a rate of 0, is that all there is to see.

A hypothesis fits if its misfit is at most 1. One that misses at one element does not fit, whatever the others say:
where there are many elements, :data:`LOOK` of them, drawn at random from the last shared layer, are asked first, and a
hypothesis refuted there is asked no further; its misfit and its counts are those of what was looked at. What may
fit is always asked at every element, and so is every hypothesis where none fits. Where one fits, the step on the
gradient that was seen to be applied, which is no hypothesis, is replayed at those elements alone.

Two that fit *coincide* for this optimizer and batch: as plain SGD cannot tell one optimizer from several, nor Adam's
first step a gradient from its double. Where the gradient that was applied was seen, it decides between them. Where none
fits, :func:`pyengine.checks.standing.standing` decides, with the misfit of *no step at all* as the size: if the best
misfit is nearer to 1 than to that size, the verdict is *cannot tell*. Otherwise it is *one step on another gradient*,
if the gradient that was seen to be applied does lead to the observed parameters, and *none of these* if not even that
does.

Where the gradient that was applied is, bit for bit, the certified one of the total, *the sum* is that gradient, and no
spread has to be allowed for it. Where the gradient that was seen to be applied is the sum, and its step fits, the rule
is decided: one call of the optimizer took it. The steps in turn then tell only whether one could have mistaken them for
it, and the gradients at the parameters between them are taken from the engine in the working precision, with the spread
that they had before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..optimizers import SGD
from ..progress import say
from ..witnesses import Step
from .evidence import BLOCK, Evidence, Some, gather_evidence
from .hypotheses import (
    ADDED,
    EARLY,
    EXCHANGED,
    MEAN,
    PREVIOUS,
    SEPARATE,
    STILL,
    SUM,
    TURN,
    UNCLIPPED,
    WITHOUT,
    hypotheses,
)
from .replays import Gather, OneStep, Replay, Replayer, Taken
from .standing import Standing, standing

Vector = npt.NDArray[np.float64]

OTHER = "one step on another gradient"
NONE = "none of these"

LOOK = 512
"""How many elements a hypothesis is asked for first,"""

MANY = 16 * LOOK
"""where there are more than these."""


@dataclass(frozen=True)
class Hypothesis:
    """A rule and how badly it misses: ``outside`` of the ``elements`` that were compared lie beyond their allowance.

    ``misfit`` is by the framework's own optimizer where that could be copied, else by the float64 rule; ``ruled`` is by
    the float64 rule, None without one; ``own`` tells which of them ``misfit`` is.
    """

    name: str
    misfit: float
    outside: int
    elements: int
    own: bool = False
    ruled: float | None = None

    @property
    def fits(self) -> bool:
        return self.misfit <= 1.0


@dataclass(frozen=True)
class Update:
    """The finding.

    ``applied`` replays the step on the gradient that the framework was seen to apply: it tells whether the optimizer's
    own arithmetic is as described, whatever the gradient was. ``coincide`` names the hypotheses that lead to the same
    parameters as ``rule``. ``uncertain`` counts the elements whose summed gradient is at rounding level.
    """

    rule: str
    reason: str
    standing: Standing
    optimizer: str
    hypotheses: tuple[Hypothesis, ...]
    applied: Hypothesis
    unmoved: float
    uncertain: int
    coincide: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """One word or two for the rule: ``"summed"``, ``"averaged"``, ``"in turn"``, ``"one optimizer per loss"``, …"""
        return " or ".join(_VERDICTS.get(name.partition(":")[0], name) for name in self.rule.split(" or "))


_VERDICTS = {
    SUM: "summed",
    MEAN: "averaged",
    TURN: "in turn",
    WITHOUT: "missing loss",
    EXCHANGED: "weights exchanged",
    PREVIOUS: "previous batch",
    ADDED: "accumulated",
    UNCLIPPED: "not clipped",
    EARLY: "clipped before the sum",
    STILL: "no step",
    OTHER: "another gradient",
}


def check_update(step: Step, evidence: Evidence, gather: Gather = gather_evidence) -> Update:
    """Replay every hypothesis at the shared layers and see which one leads to the observed parameters.

    ``gather`` makes the evidence at other parameters and for other batches, as ``evidence`` was made.
    """
    replayer = Replayer(step, evidence, gather)
    replays, parts, look = hypotheses(replayer), _parts(step.trunk_size), _look(step)
    summed, applied = replays[0], _applied(step)
    assert summed.taken is not None
    seen = OneStep(Replayer(step), "the gradient that was applied", applied)
    (by_sum,) = _compared(step, [summed], parts)
    # What was applied bit for bit need not be compared with it.
    same = evidence.total is not None
    replayer.decided = by_sum.fits and (same or _is_seen(step, summed, applied, parts))
    found = [by_sum]
    for number, replay in enumerate(replays[1:], 1):
        say("hypotheses", number, len(replays))
        found.append(_looked_at(step, replay, look, parts))
    if any(h.fits for h in found):
        (by_seen,) = _compared(step, [seen], parts if look is None else [look])
    else:
        *others, by_seen = _compared(step, [*replays[1:], seen], parts)
        found = [by_sum, *others]
    unmoved = found[-1]
    consistent = [
        f.name
        for f, replay in zip(found, replays, strict=True)
        if f.fits and (replayer.decided if replay is summed else _is_seen(step, replay, applied, parts))
    ]
    strange, uncertain = (False, 0) if same else _beside(step, summed.taken, applied, parts)
    resting = by_sum.fits and unmoved.fits and _rests(step, summed, parts)
    rule, reason, verdict = _judge(step, found, by_seen, unmoved.misfit, consistent, strange, resting)
    fitting = tuple(h.name for h in found if h.fits and h.name != rule)
    described = repr(step.optimizer) if step.optimizer is not None else step.own_name
    return Update(
        rule,
        reason,
        verdict,
        described,
        tuple(found),
        by_seen,
        unmoved.misfit,
        uncertain,
        fitting if rule in {h.name for h in found} else (),
    )


def _parts(size: int) -> list[Some]:
    """The elements of the shared layers, some at a time."""
    return [slice(start, min(start + BLOCK, size)) for start in range(0, max(size, 1), BLOCK)]


def _applied(step: Step) -> Taken:
    """The gradient that was applied, with the roundings between it and what could be read."""
    flat, roundings = step.gradient.flat, step.gradient_roundings * step.unit

    def at(some: Some) -> tuple[Vector, Vector]:
        gradient = np.asarray(flat[some], np.float64)
        return gradient, roundings * np.abs(gradient)

    everything = slice(None)
    return Taken(at, lambda: at(everything), lambda: at(everything)[0])


def _beside(step: Step, summed: Taken, applied: Taken, parts: Sequence[Some]) -> tuple[bool, int]:
    """Whether the gradient that was applied is seen to be another than the sum; how many elements of the sum are at
    rounding level."""
    apart = allowed = size = 0.0
    uncertain = 0
    for part in parts:
        (gradient, roundings), (total, error) = applied.at(part), summed.at(part)
        apart += _square(gradient - total)
        allowed += _square(error + roundings)
        size += _square(gradient)
        uncertain += int(np.count_nonzero((np.abs(total) <= error) & (error > 0.0)))
    far = standing(math.sqrt(apart), math.sqrt(allowed), math.sqrt(size)) == "beyond"
    return step.observed and far, uncertain


def _square(vector: Vector) -> float:
    return float(np.vdot(vector, vector))


def _is_seen(step: Step, replay: Replay, applied: Taken, parts: Sequence[Some]) -> bool:
    """Whether the hypothesis takes its step on the gradient that was seen to be applied."""
    if not step.observed or replay.taken is None:
        return False
    for part in parts:
        (gradient, roundings), (total, error) = applied.at(part), replay.taken.at(part)
        if not (np.abs(gradient - total) <= error + roundings).all():
            return False
    return True


def _rests(step: Step, replay: Replay, parts: Sequence[Some]) -> bool:
    """Whether the optimizer itself moves nothing, as while it accumulates or at a rate of 0, and nothing moved."""
    for part in parts:
        before, led = step.before.flat[part], replay.at(part)
        for place in (led.ruled, led.own, step.after.flat[part]):
            if place is not None and not (place == before).all():
                return False
    return True


def _look(step: Step) -> Some | None:
    """The elements that are asked first, the same for all hypotheses; None where there are few. They are those of the
    last shared layer where it has enough: what steps in turn need of them takes the least time."""
    size, last = step.trunk_size, step.network.trunk_layers[-1].name
    if size <= MANY:
        return None
    begin = step.network.layout.offsets[f"{last}.weight"]
    return np.unique(np.random.default_rng(0).integers(begin if size - begin >= LOOK else 0, size, size=LOOK))


def _looked_at(step: Step, replay: Replay, look: Some | None, parts: Sequence[Some]) -> Hypothesis:
    """The hypothesis at some elements, or at all if it is not refuted there."""
    if look is not None:
        (found,) = _compared(step, [replay], [look])
        if not found.fits:
            return found
    return _compared(step, [replay], parts)[0]


def _compared(step: Step, replays: Sequence[Replay], parts: Sequence[Some]) -> list[Hypothesis]:
    """The misfits over these parts; what replays share is formed once a part."""
    seen = [(_Misfit(), _Misfit()) for _ in replays]
    for part in parts:
        after = np.asarray(step.after.flat[part], np.float64)
        for replay, (ruled, own) in zip(replays, seen, strict=True):
            led = replay.at(part)
            ruled.add(after, led.ruled, led.allowance)
            # Copy and original both lie within the rule's allowance of the rule, so within twice that of one another.
            own.add(after, led.own, led.allowance if led.ruled is None else 2.0 * led.allowance)
    found = []
    for replay, (ruled, own) in zip(replays, seen, strict=True):
        best = own if own.known else ruled
        misfit, outside = (best.worst, best.outside) if best.known else (math.inf, best.elements)
        by_rule = ruled.worst if ruled.known else None
        found.append(Hypothesis(replay.name, misfit, outside, best.elements, own.known, by_rule))
    return found


class _Misfit:
    """The largest |observed - predicted|/allowance, and how many are beyond 1; a NaN is."""

    def __init__(self) -> None:
        self.worst, self.outside, self.elements, self.known = 0.0, 0, 0, False

    def add(self, observed: Vector, predicted: Vector | None, allowance: Vector) -> None:
        self.elements += observed.size
        if predicted is None:
            return
        self.known = True
        difference = np.abs(observed - predicted)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(difference == 0.0, 0.0, difference / allowance)
        self.worst = float(np.maximum(self.worst, np.max(ratio, initial=0.0)))
        self.outside += int(np.count_nonzero(~(ratio <= 1.0)))


def _judge(
    step: Step,
    found: Sequence[Hypothesis],
    seen: Hypothesis,
    unmoved: float,
    consistent: Sequence[str],
    strange: bool,
    resting: bool,
) -> tuple[str, str, Standing]:
    fitting = [h.name for h in found if h.fits]
    if SUM in fitting and STILL in fitting and SUM in consistent and resting:
        return SUM, "the gradient that was applied was the sum, and the optimizer moves nothing in this step", "within"
    if SUM in fitting and STILL in fitting:
        return "cannot tell", f"{SUM} fits, but so does {STILL}: rounding may account for all that moved", "between"
    if SUM in fitting:
        others = [name for name in fitting if name != SUM]
        if _linear(step):
            others = [name for name in others if name != SEPARATE]
        if len(step.network.heads) == 1:
            others = []
        if not others:
            reason = "no other rule fits"
            if SEPARATE in fitting:
                reason = f"for SGD, {SEPARATE} is the same step mathematically"
            return SUM, reason, "within"
        if SUM in consistent:
            same = (
                "is the same gradient here" if set(others) & set(consistent) else "would lead to the same weights here"
            )
            return SUM, f"the gradient that was applied was the sum; {' and '.join(others)} {same}", "within"
        if step.observed and len(consistent) == 1:
            return consistent[0], "the gradient that was applied tells it from one step on the sum", "beyond"
        return "cannot tell", f"{SUM} fits, but so does {' and '.join(others)}", "between"
    if fitting:
        named = list(consistent) or fitting
        return " or ".join(named), "one step on the sum does not fit", "beyond"
    best = min(found, key=lambda h: h.misfit)
    if seen.fits and strange:
        return OTHER, "the optimizer's step is right for the gradient that it was given", "beyond"
    if standing(best.misfit, 1.0, unmoved) == "between":
        return "cannot tell", f"{best.name} comes nearest, but misses by {best.misfit:.3g} allowances", "between"
    if seen.fits and step.observed:
        return OTHER, "the optimizer's step is right for the gradient that it was given", "beyond"
    return NONE, f"the nearest, {best.name}, misses by {best.misfit:.3g} allowances", "beyond"


def _linear(step: Step) -> bool:
    """SGD is linear in the gradient, with momentum too: steps of several optimizers add up to the step of one."""
    return isinstance(step.optimizer, SGD) and step.clip is None
