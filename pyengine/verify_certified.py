"""What is left to judge where every operation of a framework is certified: what it does with the losses' gradients.

The framework's own per-loss gradients are right then, and their rounding spread is known. They decompose the gradient
of the total, or the one that a training step applied, and they are what the step's hypotheses are replayed from.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .adapters.computation import Computation
from .arrays import put
from .batch import checked_batch
from .checks.assumptions import BLACK_BOX
from .checks.blackbox.certified import CertifiedProgram
from .checks.blackbox.variances import ForwardVariances
from .checks.combination import check_combination, nothing_shared
from .checks.routes import touch
from .checks.staged.gaps import Filled
from .checks.staged.gradients import certified_tensors
from .checks.witnessed import QUIET, witnessed_evidence
from .parameters import Parameters
from .progress import say
from .rounding import precision
from .verification import Verification
from .verify_arrays import logit_warnings
from .verify_step import judged_step, shows_gradient
from .witnesses import Step

if TYPE_CHECKING:
    from .verify_staged import StagedReport


def verify_certified(done: Computation, staged: StagedReport) -> Verification:
    """The verification of a computation whose ``staged`` report is certified; with a step, of what it applied."""
    net = done.network
    step = None
    if done.step is not None:
        say("the training step")
        step = done.step()
    say("what was applied")
    kind = done.params.dtype
    batch = checked_batch(done.x, done.targets, done.sample_weight, n_in=net.n_in, heads=net.heads, dtype=kind)
    assert done.witnesses is not None
    with np.errstate(**QUIET):
        filled = Filled(net, done.witnesses)
        program = CertifiedProgram(net, done.params, batch, done.witnesses, filled, done.per_loss)
        forward = ForwardVariances(program, precision(kind, flush_to_zero=done.flush_to_zero))
    gather = functools.partial(witnessed_evidence, sample_weight=done.sample_weight, flush_to_zero=done.flush_to_zero)
    evidence = gather(net, done.params, done.x, done.targets, losses=done.losses, forward=forward)
    if step is not None and _applied_as_certified(step, done):
        evidence = replace(evidence, total=step.gradient)
    combination = None  # that of the step, if it shows one
    if step is None or not shows_gradient(step):
        combination = check_combination(_total(done), evidence) if net.trunk_layers else nothing_shared(net)
    report = Verification(
        "CERTIFIED",
        f"{done.framework}: {staged.answer}",
        combination=combination,
        # No operation is wrong: a gradient that is zero is zero, and none is cut off.
        reach={loss: {n: touch(one.get(n)) for n in net.layout.names} for loss, one in done.per_loss.items()},
        environment={**staged.environment, **done.versions},
        staged=staged,
        tensors=certified_tensors(staged.stages, net.layout.shapes),
        native=done.native,
        warnings=logit_warnings(program, forward),
        assumptions=BLACK_BOX,
        notes=done.notes,
    )
    if combination is not None and combination.standing == "beyond":
        said = f"the gradient of the total is: {combination.verdict}, {combination.reason}"
        report = replace(report, verdict="INCONSISTENT", answer=f"{done.framework}: {said}.")
    return report if step is None else judged_step(report, step, evidence, gather)


def _applied_as_certified(step: Step, done: Computation) -> bool:
    """Whether the gradient that was applied is, bit for bit, the certified one of the total."""
    return step.observed and all(np.array_equal(step.gradient[name], array) for name, array in done.summed.items())


def _total(done: Computation) -> Step:
    """The gradient of the total as what was applied; no parameter moves."""
    net = done.network
    gradient = Parameters(net.layout, np.zeros(net.layout.size))
    for name, array in done.summed.items():
        put(gradient[name], array)
    return Step(
        framework=done.framework,
        call="the gradient of the total",
        network=net,
        x=done.x,
        targets=done.targets,
        before=done.params,
        after=done.params,
        gradient=gradient,
        gradient_source="differentiation of the total",
        gradient_roundings=0,
        optimizer=None,
        native=done.native,
        objective={name: head.loss.name for name, head in net.heads.items()},
        observed=False,
    )
