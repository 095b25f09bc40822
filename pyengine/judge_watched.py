"""From what ``pe.watch`` recorded to a verification."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from .checks.applied import Case, Surgery, applied_reach, explain_gradient
from .checks.clipping import clipped
from .checks.combination import Combination, check_combination
from .checks.diagnosis import Diagnosis, diagnosis
from .checks.evidence import Evidence, bounded_evidence
from .checks.ledger import Ledger, check_ledger
from .checks.replays import Gather, weighted
from .checks.standing import worst
from .checks.update import Update, check_update
from .engine import Network
from .parameters import Array, Parameters
from .report import formula
from .runtime import info
from .verification import Verdict, Verification
from .watching import Arrays, Event, Twin, merged, moving, state_of, stepper_of
from .witnesses import Clip, Log, Step


class Batch(NamedTuple):
    """Inputs, targets and weights of samples, as the engine takes them; ``given`` is how the user gave them."""

    x: Array
    targets: Mapping[str, Array]
    sample_weight: Mapping[str, Array] | None = None
    given: Any = None


PROJECTED = "one step on the projected gradients"


@dataclass(frozen=True, eq=False)
class Watched:
    """The recorded steps and how the loop says that it works.

    ``gather`` finds the losses' gradients at parameters and a batch; ``refusal`` says why not by the engine, if so.
    """

    framework: str
    twin: Twin
    gather: Callable[[Parameters, Batch], Evidence]
    events: Sequence[Event]
    clip: Clip | None
    surgery: Surgery | None
    leftover: Arrays
    trainable: frozenset[str]
    outside: tuple[str, ...] = ()
    log: Mapping[str, float] | None = None
    refusal: str = ""


def judge_watched(
    seen: Watched,
    batch: Batch,
    *,
    micro: Sequence[Batch] = (),
    accumulation: int | None = None,
    previous: Batch | None = None,
) -> Verification:
    """Judge the events as one training step on the batch."""
    said = [diagnosis("changed outside", names=", ".join(seen.outside))] if seen.outside else []
    raw, rested = seen.gather, 0
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        seen = replace(seen, gather=_trained(seen))
        whole = merged(seen.events)
        if whole is None:
            rested = len(seen.events)
            seen = replace(seen, events=moving(seen.events))
            rested -= len(seen.events)
            whole = merged(seen.events)
        if whole is None:
            return _several(seen, batch, said)
        step = _step(seen, whole, batch, seen.leftover, previous)
        evidence = seen.gather(step.before, batch)
        case = Case(
            step=step,
            evidence=evidence,
            micro=[seen.gather(step.before, one) for one in micro],
            sizes=[len(one.x) for one in micro],
            accumulation=accumulation,
            surgery=seen.surgery,
            previous=None if previous is None else seen.gather(step.before, previous),
            held=whole.held,
            given=frozenset(whole.gradient),
            frozen=frozenset(step.native.values()) - seen.trainable,
        )
        combination = _combination(case)
        candidate, found = explain_gradient(case, combination)
        if lost := _not_finite(step, evidence):
            rests = bool((step.after.flat == step.before.flat).all())
            moved = "; it skipped the step" if rests else ""
            candidate, found = None, [diagnosis("not finite", names=", ".join(lost), moved=moved)]
        update = check_update(step, evidence, _gather(seen, batch, previous))
        if candidate is not None and candidate.found is None:
            combination, update = _as_intended(case, combination, update)
        if not update.applied.fits and not lost:
            found.append(diagnosis("wrong step", optimizer=update.optimizer))
        frozen = case.frozen & set(step.native.values())
        reach = applied_reach(replace(case, evidence=raw(step.before, batch)) if frozen else case, candidate)
        ledger = check_ledger(step, evidence)
    report = _verification(seen, step, combination, update, [*said, *found], ledger)
    notes = (f"{rested} calls of the optimizer moved nothing: judged is the one that did.",) if rested else ()
    return replace(report, reach=reach, notes=(*report.notes, *notes))


def _not_finite(step: Step, evidence: Evidence) -> list[str]:
    """The framework's names of what has a NaN or an infinity where the gradients of its losses have none."""
    found = []
    for name, native in step.native.items():
        parts = [one[name] for one in evidence.gradients.values() if name in one]
        if all(np.isfinite(part).all() for part in parts) and not np.isfinite(step.gradient[name]).all():
            found.append(native)
    return found


def _trained(seen: Watched) -> Callable[[Parameters, Batch], Evidence]:
    """The losses' gradients with zeros for frozen parameters: nobody is to apply anything there."""
    frozen = [name for name, native in seen.twin.native.items() if native not in seen.trainable]
    if not frozen:
        return seen.gather

    def without(given: Mapping[str, Parameters]) -> dict[str, Parameters]:
        parts = {loss: Parameters(one.layout, one.flat.copy()) for loss, one in given.items()}
        for one in parts.values():
            for name in frozen:
                if name in one:
                    one[name][...] = 0.0
        return parts

    def gather(at: Parameters, batch: Batch) -> Evidence:
        found = seen.gather(at, batch)
        return replace(
            found,
            gradients=without(found.gradients),
            spread=without(found.spread),
            engine_32=without(found.engine_32),
            quick=None,
        )

    return gather


def by_engine(net: Network) -> Callable[[Parameters, Batch], Evidence]:
    """The engine's gradients with rigorous bounds."""
    return lambda at, batch: bounded_evidence(net, at, batch.x, batch.targets, batch.sample_weight)


def _gather(seen: Watched, *batches: Batch | None) -> Gather:
    """Evidence for the update check: the weights of samples belong to their batch."""
    known = {id(batch.x): batch for batch in batches if batch is not None}
    return lambda _, at, x, targets: seen.gather(at, known.get(id(x), Batch(x, targets)))


def _step(
    seen: Watched, event: Event, batch: Batch, leftover: Mapping[str, Array], previous: Batch | None = None
) -> Step:
    twin = seen.twin
    left = twin.parameters(leftover, np.float64) if leftover else None
    return Step(
        framework=seen.framework,
        call="watch",
        network=twin.network,
        x=batch.x,
        targets=dict(batch.targets),
        before=twin.parameters(event.before),
        after=twin.parameters(event.after),
        gradient=twin.parameters(event.gradient, np.float64),
        gradient_source="what the optimizer was given",
        gradient_roundings=0,
        optimizer=event.rule,
        native=twin.native,
        objective={name: head.loss.name for name, head in twin.network.heads.items()},
        state=state_of(event, twin),
        own=stepper_of(event, twin),
        own_name=event.name,
        leftover=left if left is not None and left.flat.any() else None,
        previous=None if previous is None else (previous.x, previous.targets),
        clip=seen.clip if seen.clip is not None else event.clip,
        log=None if seen.log is None else Log(seen.log["loss"], {name: seen.log[name] for name in twin.network.heads}),
    )


def _combination(case: Case) -> Combination:
    """The least-squares combination; where clipping to a norm was declared, of the gradient as it was before."""
    step, clip = case.step, case.step.clip
    if clip is None or clip.inside or clip.kind != "global_norm":
        return check_combination(step, case.evidence)
    total, error = case.of(case.weights)
    norm = float(np.linalg.norm(total))
    factor = min(1.0, clip.limit / (norm + clip.plus))
    # The factor has the roundings of a norm, and moves with the uncertainty of the gradient.
    roundings = math.ceil(total.size / 2.0 + 4.0 + float(np.linalg.norm(error)) / max(norm, math.ulp(0.0)) / step.unit)
    before = Parameters(step.gradient.layout, step.gradient.flat / factor)
    return check_combination(replace(step, gradient=before, gradient_roundings=roundings), case.evidence)


def _as_intended(case: Case, combination: Combination, update: Update) -> tuple[Combination, Update]:
    """Where surgery was declared and done, the gradient is no plain sum and must not be one."""
    if case.surgery is None:
        return combination, update
    combination = replace(
        combination,
        verdict="projected",
        reason="the per-loss gradients were projected as PCGrad does",
        standing="within",
    )
    if update.applied.fits:
        reason = "the optimizer's step is right for the projected gradients"
        update = replace(update, rule=PROJECTED, reason=reason, standing="within", coincide=())
    return combination, update


def _several(seen: Watched, batch: Batch, said: list[Diagnosis]) -> Verification:
    """Parameters were stepped more than once: what was each step taken on?"""
    events, first, last = seen.events, seen.events[0], seen.events[-1]
    net = seen.twin.network
    start = seen.gather(seen.twin.parameters(first.before), batch)
    labels, found, left = [], [], seen.leftover
    for event in events:
        step = _step(seen, event, batch, left)
        here = seen.gather(step.before, batch)
        labels.append(_label(step, here, start))
        if labels[-1] == "":
            case = Case(step=step, evidence=here, held=event.held, given=frozenset(event.gradient),
                        frozen=frozenset(step.native.values()) - seen.trainable)  # fmt: skip
            found += [d for d in explain_gradient(case, check_combination(step, here))[1] if d not in found]
        left = event.gradient
    optimizers = list(dict.fromkeys(event.optimizer for event in events))
    names = ", ".join(f"{event.name} {event.optimizer + 1}" for event in events)
    if len(optimizers) > 1:
        found.insert(0, diagnosis("several optimizers", count=len(optimizers), names=names))
    elif len(set(labels)) == len(labels) and set(labels) <= set(net.heads):
        found.insert(0, diagnosis("losses in turn", count=len(events), order=", ".join(labels)))
    else:
        found.insert(0, diagnosis("stepped twice", count=len(events)))
    step = replace(
        _step(seen, first, batch, {}), after=seen.twin.parameters(last.after), observed=False, clip=seen.clip
    )
    return _verification(seen, step, None, check_update(step, start, _gather(seen, batch)), [*said, *found])


def _label(step: Step, *evidences: Evidence) -> str:
    """``"sum"``, or the loss whose weighted gradient the step was taken on; empty if neither."""
    layout, size = step.network.layout, step.trunk_size
    applied = step.gradient.flat[:size]
    weights = {name: head.weight for name, head in step.network.heads.items()}
    for evidence in evidences:
        for label, chosen in {"sum": weights, **{name: {name: w} for name, w in weights.items()}}.items():
            g, e = weighted(layout, evidence, chosen)
            g, e = clipped(step.clip, layout, g, e, step.unit) if step.clip and not step.clip.inside else (g, e)
            if bool((np.abs(applied - g[:size]) <= e[:size]).all()):
                return label
    return ""


def _verification(
    seen: Watched,
    step: Step,
    combination: Combination | None,
    update: Update,
    found: list[Diagnosis],
    ledger: Ledger | None = None,
) -> Verification:
    findings = [finding for finding in (combination, update, ledger) if finding is not None]
    standings = [finding.standing for finding in findings]
    who = seen.framework
    if found or worst(standings) == "beyond":
        verdict: Verdict = "INCONSISTENT"
        answer = " ".join(d.sentence for d in found) or f"{update.rule}: {update.reason}."
        if ledger is not None and ledger.standing == "beyond":
            answer += f" The reported losses are not those of the batch: {ledger.verdict}."
    elif worst(standings) == "between":
        verdict = "INCONCLUSIVE"
        doubts = [f.reason for f in (combination, update) if f is not None and f.standing == "between"]
        doubts += ["the reported losses"] if ledger is not None and ledger.standing == "between" else []
        answer = f"Cannot tell: {'; '.join(doubts)}."
    else:
        verdict = "CONSISTENT"
        weights = formula({name: head.weight for name, head in step.network.heads.items()})
        how = "projected as PCGrad does, " if seen.surgery is not None else ""
        how += "clipped, " if step.clip is not None else ""
        answer = f"The optimizer got {weights}, {how}and took one step on it."
    return Verification(
        verdict,
        f"{who}: {answer}",
        combination=combination,
        update=update,
        environment={
            "pyengine": f"{info()['version']} ({info()['isa']}, threads: {info()['threads']})",
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        native=step.native,
        diagnoses=tuple(found),
        ledger=ledger,
        refusal=seen.refusal,
        not_judged={"stages": f"the engine did not take part: {seen.refusal}"} if seen.refusal else {},
    )
