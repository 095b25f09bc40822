"""Which checks catch what was planted, and what they call it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..adapters.builtin import observe_step
from ..checks.evidence import gather_evidence
from ..checks.ledger import check_ledger
from ..checks.reach import faults
from ..verify_arrays import explain_update, verify_gradients
from ..verify_staged import verify_witnesses
from .cases import Case
from .fault import CHECKS, Check, Evidence

STAGED: tuple[Check, ...] = ("staged R", "staged P", "staged A")


@dataclass(frozen=True)
class Detection:
    """``caught`` maps every check that ran to whether it objects; ``first`` is the stage that the staged check names;
    ``called`` holds the words of the other checks."""

    caught: Mapping[Check, bool]
    first: str = ""
    called: Mapping[str, str] = field(default_factory=dict)
    verdicts: Mapping[str, str] = field(default_factory=dict)

    def by(self, check: str) -> bool:
        """Whether a check objects; ``"staged"`` stands for any of its three tests."""
        names: Iterable[Check] = STAGED if check == "staged" else [c for c in CHECKS if c == check]
        return any(self.caught.get(name, False) for name in names)


def detect(case: Case, evidence: Evidence, *, only: str | None = None) -> Detection:
    """Run all checks that the evidence allows, or ``only`` one of them."""
    caught: dict[Check, bool] = {}
    called: dict[str, str] = {}
    verdicts: dict[str, str] = {}
    first = ""

    def wanted(*names: str) -> bool:
        return only is None or only in names

    held = evidence.witnesses
    if held is not None and wanted("staged", *STAGED):
        staged = verify_witnesses(case.net, case.params, case.x, case.targets, held, case.sample_weight, seed=case.seed)
        failures = staged.staged.failures
        caught["staged R"] = any(not stage.ratio <= 1.0 for stage in failures)
        caught["staged P"] = any("entry" in stage.unexplained for stage in failures)
        caught["staged A"] = any(set(stage.unexplained) - {"entry"} for stage in failures)
        first = failures[0].name if failures else ""
        verdicts["staged"] = staged.verdict
    if held is not None and held.summed is not None and wanted("black-box", "combination", "reach"):
        per_loss = {name: one.gradient for name, one in held.per_loss.items()}
        truth = case.truth.summed
        assert truth is not None
        # A search asks often; where the sum is right, the fault is in a per-loss gradient.
        same = all(np.array_equal(value, truth.gradient[name]) for name, value in held.summed.gradient.items())
        report = verify_gradients(
            *case.arguments,
            per_loss=per_loss if only is None or same else None,
            summed=held.summed.gradient,
            seed=case.seed,
        )
        caught["black-box"] = report.verdict == "INCONSISTENT"
        verdicts["black-box"] = report.verdict
        caught["reach"] = bool(faults(report.reach))
        found = report.combination
        assert found is not None
        caught["combination"] = found.verdict not in ("summed", "cannot tell")
        called["combination"], called["suspect"] = found.verdict, found.reason
        verdicts["combination"] = found.verdict
    if evidence.log is not None and wanted("ledger"):
        step = replace(observe_step(case.net, case.params, case.x, case.targets), log=evidence.log)
        ledger = check_ledger(step, gather_evidence(case.net, case.params, case.x, case.targets))
        assert ledger is not None
        caught["ledger"] = ledger.verdict not in ("balanced", "cannot tell")
        called["ledger"] = verdicts["ledger"] = ledger.verdict
    if evidence.after is not None and wanted("update"):
        told = explain_update(case.net, case.params, evidence.after, case.x, case.targets, evidence.optimizer)
        assert told.update is not None
        caught["update"] = told.verdict == "INCONSISTENT"
        called["update"], verdicts["update"] = told.update.verdict, told.verdict
    return Detection(caught, first, called, verdicts)


def differs(one: Evidence, other: Evidence) -> bool:
    """Whether any number of the two differs, to the last bit."""
    return _numbers(one) != _numbers(other)


def _numbers(evidence: Evidence) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    if (held := evidence.witnesses) is not None:
        forward = {"z": held.z, "h": held.h}
        passes = {
            f"{of}.{part}": getattr(one, part) for of, one in held.passes.items() for part in ("dh", "dz", "gradient")
        }
        for path, arrays in {**forward, **passes}.items():
            found.update({f"{path}.{name}": np.ascontiguousarray(array).tobytes() for name, array in arrays.items()})
    if evidence.log is not None:
        found["log"] = repr(evidence.log).encode()
    if evidence.after is not None:
        found["after"] = evidence.after.flat.tobytes()
    return found
