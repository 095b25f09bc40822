"""The staged check certifies whoever computes correctly; test_staged_faults.py plants the faults."""

from __future__ import annotations

import json

import pytest
from problems import problem
from staged_runs import verdict_of

from pyengine.checks.staged.recording import recorded


@pytest.mark.parametrize("seed", range(60))
def test_numpy_witnesses_of_random_networks_are_certified(seed: int, dtype: str) -> None:
    given = problem(seed, dtype)
    report = verdict_of(given, recorded(*given))
    assert report, str(report)
    assert report.verdict == "CERTIFIED"


def test_report_speaks_json_and_text() -> None:
    given = problem(5, "float32")
    report = verdict_of(given, recorded(*given))
    held = json.loads(report.to_json())
    assert held["ok"] is True
    assert held["verdict"] == "CERTIFIED"
    assert len(held["stages"]) == len(report.stages) > 10
    assert {"name", "kind", "ratio", "argmax", "statistics", "limit", "scale", "replays"} <= held["stages"][0].keys()
    assert str(report).startswith("CERTIFIED: All ")
    report.raise_for_failure()
