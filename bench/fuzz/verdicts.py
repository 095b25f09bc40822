"""One network by one framework, judged: the record that a campaign keeps."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from problems import Problem

import pyengine as pe
from pyengine.checks.staged.statistics import REPLAYED, limit

from .networks import described
from .routes import Route

Record = dict[str, Any]
ALARMS = {"REFUTED", "REFUTED_STATISTICAL", "INCONSISTENT"}


def model() -> str:
    """Which rounding model and which checks judged: the first digits of the SHA-256 of their sources."""
    package = Path(pe.__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*(package / "rounding").rglob("*.py"), *(package / "checks").rglob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def judged(route: Route, given: Problem, number: int) -> Record:
    """Both checks on what the framework computes."""
    net, params, x, targets, sample_weight = given
    start = time.perf_counter()
    run = route.run(given, number)
    computed = time.perf_counter()
    staged = pe.verify_witnesses(
        net, params, x, targets, run.witnesses, sample_weight, flush_to_zero=route.flush_to_zero, seed=number
    )
    certified = time.perf_counter()
    per_loss, summed = run.gradients
    final = pe.verify_gradients(
        net, params, x, targets, sample_weight,
        per_loss=per_loss, summed=summed, flush_to_zero=route.flush_to_zero, seed=number,
    )  # fmt: skip
    done = time.perf_counter()
    return {
        "mode": run.mode,
        "network": described(net),
        "batch": len(x),
        "parameters": params.flat.size,
        "staged": _staged(staged),
        "blackbox": _blackbox(final, number),
        "seconds": [round(computed - start, 3), round(certified - computed, 3), round(done - certified, 3)],
    }


def alarms(record: Record) -> list[str]:
    """The false alarms in a record of a correct network."""
    found = [f"staged {record['staged']['verdict']}"] if record["staged"]["verdict"] != "CERTIFIED" else []
    return found + ([f"black-box {record['blackbox']['verdict']}"] if record["blackbox"]["verdict"] in ALARMS else [])


def _staged(report: pe.StagedReport) -> Record:
    worst = max(report.stages, key=lambda stage: stage.ratio)
    entry, sums = 0.0, 0.0
    replayed: dict[str, float] = {}
    for stage in report.stages:
        if stage.statistics is None:
            continue
        for name, value in stage.statistics.items().items():
            share = value / limit(name, stage.entries)
            if name == "entry":
                entry = max(entry, share)
            else:
                sums = max(sums, share)
            if name in stage.replays:
                most = REPLAYED * stage.replays[name]
                replayed[f"{stage.name} {name}"] = value / most if most > 0.0 else float("inf")
    return {
        "verdict": report.verdict,
        "stages": len(report.stages),
        "R": worst.ratio,
        "R_at": worst.name,
        "entry": entry,
        "sums": sums,
        "replayed": replayed,
        "failures": {stage.name: stage.reason for stage in report.staged.failures},
    }


def _blackbox(report: Any, number: int) -> Record:
    tensors = [tensor for finding in report.findings for tensor in finding.tensors]
    return {
        "verdict": report.verdict,
        "gradients": len(report.findings),
        # The limits of all tensors cost as much as the check: every tenth network has them.
        "scale": None if number % 10 else max((_scale_share(tensor) for tensor in tensors), default=0.0),
        "element": max((t.worst_deviation for t in tensors), default=0.0),
        "replayed": [finding.name for finding in report.findings if finding.replayed],
        "flips": sum(len(finding.flips) for finding in report.findings),
        "reasons": {f.name: f.reason for f in report.findings if f.verdict != "CONSISTENT"},
        "combination": None if report.combination is None else report.combination.verdict,
    }


def _scale_share(tensor: Any) -> float:
    return abs(tensor.scale_error) / tensor.detectable_scale if tensor.detectable_scale > 0.0 else 0.0
