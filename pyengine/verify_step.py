"""A training step that a framework took, judged beside its gradients: ledger, applied combination, update."""

from __future__ import annotations

from dataclasses import replace

from .checks.combination import check_combination
from .checks.evidence import Evidence
from .checks.ledger import check_ledger
from .checks.replays import Gather
from .checks.standing import Standing, worst
from .checks.update import check_update
from .report import formula
from .verification import Verdict, Verification
from .witnesses import Step


def shows_gradient(step: Step) -> bool:
    """Whether there is a gradient at shared layers whose combination can be judged."""
    return bool(step.network.trunk_layers) and (step.observed or bool(step.gradient.flat.any()))


def judged_step(report: Verification, step: Step, evidence: Evidence, gather: Gather) -> Verification:
    """The report with what the step shows. A step that does other than the losses call for makes it INCONSISTENT.

    ``gather`` makes the evidence at other parameters, as ``evidence`` was made.
    """
    ledger = check_ledger(step, evidence)
    found: list[tuple[Standing, str]] = []
    if ledger is not None:
        found.append((ledger.standing, f"the ledger of the total is not balanced ({ledger.verdict})"))
    combination, update = report.combination, None
    if step.network.trunk_layers:
        if shows_gradient(step):
            combination = check_combination(step, evidence)
            found.append(
                (combination.standing, f"the applied gradient is: {combination.verdict}, {combination.reason}")
            )
        update = check_update(step, evidence, gather)
        found.append((update.standing, f"the weights moved by {update.rule}: {update.reason}"))
    notes = (*report.notes, *step.notes)
    report = replace(report, ledger=ledger, combination=combination, update=update, notes=notes)
    gravest = worst([standing for standing, _ in found])
    if gravest == "within" or not report.ok:
        return report
    said = "; ".join(words for standing, words in found if standing != "within")
    verdict: Verdict = "INCONSISTENT" if gravest == "beyond" else "INCONCLUSIVE"
    weights = {name: head.weight for name, head in step.network.heads.items()}
    start = "did not apply" if gravest == "beyond" else "cannot be said to have applied"
    return replace(report, verdict=verdict, answer=f"{step.framework}: {step.call} {start} {formula(weights)}: {said}.")
