"""The update: which rule leads from the parameters before the step to those after it?

Every hypothesis is replayed at the shared layers, from the engine's own gradients: by the float64 rule and, where it is
at hand, by a copy of the framework's own optimizer (:mod:`pyengine.checks.hypotheses`):

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

A hypothesis fits if its misfit is at most 1. Two that fit *coincide* for this optimizer and batch: as plain SGD cannot
tell one optimizer from several, nor Adam's first step a gradient from its double. Where the gradient that was applied
was seen, it decides between them. Where none fits, :func:`pyengine.checks.standing.standing` decides, with the misfit
of *no step at all* as the size: if the best misfit is nearer to 1 than to that size, the verdict is *cannot tell*.
Otherwise it is *one step on another gradient*, if the gradient that was seen to be applied does lead to the observed
parameters, and *none of these* if not even that does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..optimizers import SGD
from ..witnesses import Step
from .evidence import Evidence, gather_evidence
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
    Gather,
    Replay,
    Replayer,
    hypotheses,
)
from .standing import Standing, standing

Vector = npt.NDArray[np.float64]

OTHER = "one step on another gradient"
NONE = "none of these"


@dataclass(frozen=True)
class Hypothesis:
    """A rule and how badly it misses: ``outside`` of ``elements`` elements lie beyond their allowance.

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
    trunk = slice(0, step.trunk_size)
    after = step.after.flat[trunk].astype(np.float64)
    replays = list(hypotheses(step, evidence, gather))
    found = tuple(_compare(replay, after, trunk) for replay in replays)
    applied = step.gradient.flat.astype(np.float64)
    roundings = step.gradient_roundings * step.unit * np.abs(applied)
    seen = _compare(Replayer(step).one("the gradient that was applied", applied, roundings), after, trunk)
    total, error = replays[0].gradient, replays[0].error
    assert total is not None
    assert error is not None
    unmoved = next(h.misfit for h in found if h.name == STILL)
    consistent = [
        f.name for f, replay in zip(found, replays, strict=True) if f.fits and _is_seen(step, replay, roundings, trunk)
    ]
    apart, allowed = float(np.linalg.norm((applied - total)[trunk])), float(np.linalg.norm((error + roundings)[trunk]))
    strange = step.observed and standing(apart, allowed, float(np.linalg.norm(applied[trunk]))) == "beyond"
    rule, reason, verdict = _judge(step, found, seen, unmoved, consistent, strange, _rests(replays[0], step, trunk))
    fitting = tuple(h.name for h in found if h.fits and h.name != rule)
    uncertain = int(np.count_nonzero((np.abs(total[trunk]) <= error[trunk]) & (error[trunk] > 0.0)))
    described = repr(step.optimizer) if step.optimizer is not None else step.own_name
    return Update(
        rule,
        reason,
        verdict,
        described,
        found,
        seen,
        unmoved,
        uncertain,
        fitting if rule in {h.name for h in found} else (),
    )


def _is_seen(step: Step, replay: Replay, roundings: Vector, trunk: slice) -> bool:
    """Whether the hypothesis takes its step on the gradient that was seen to be applied."""
    if not step.observed or replay.gradient is None or replay.error is None:
        return False
    apart = np.abs(step.gradient.flat[trunk] - replay.gradient[trunk])
    return bool((apart <= (replay.error + roundings)[trunk]).all())


def _rests(replay: Replay, step: Step, trunk: slice) -> bool:
    """Whether the optimizer itself moves nothing, as while it accumulates or at a rate of 0, and nothing moved."""
    before = step.before.flat[trunk].astype(np.float64)
    led = [moved[trunk] for moved in (replay.ruled, replay.own) if moved is not None]
    return all(bool((place == before).all()) for place in (*led, step.after.flat[trunk]))


def _compare(replay: Replay, observed: Vector, trunk: slice) -> Hypothesis:
    allowance = replay.allowance[trunk]
    ruled = None if replay.ruled is None else _misfit(observed, replay.ruled[trunk], allowance)
    # Copy and original both lie within the rule's allowance of the rule, so within twice that of one another.
    between = allowance if replay.ruled is None else 2.0 * allowance
    own = None if replay.own is None else _misfit(observed, replay.own[trunk], between)
    misfit, outside = own or ruled or (np.inf, observed.size)
    return Hypothesis(replay.name, misfit, outside, observed.size, own is not None, None if ruled is None else ruled[0])


def _misfit(observed: Vector, predicted: Vector, allowance: Vector) -> tuple[float, int]:
    difference = np.abs(observed - predicted)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(difference == 0.0, 0.0, difference / allowance)
    return float(np.max(ratio, initial=0.0)), int(np.count_nonzero(~(ratio <= 1.0)))


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
