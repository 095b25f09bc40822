"""The staged check certifies whoever computes correctly; test_staged_faults.py plants the faults."""

from __future__ import annotations

import json

import pytest
from problems import problem
from staged_runs import deep, everyday, jax_witnesses, torch_witnesses, verdict_of

from pyengine.checks.staged.recording import recorded


@pytest.mark.parametrize("seed", range(60))
def test_numpy_witnesses_of_random_networks_are_certified(seed: int, dtype: str) -> None:
    given = problem(seed, dtype)
    report = verdict_of(given, recorded(*given))
    assert report, str(report)
    assert report.verdict == "CERTIFIED"


@pytest.mark.parametrize("seed", range(30))
def test_numpy_and_torch_witnesses_of_deep_networks_are_certified(seed: int, dtype: str) -> None:
    given = deep(seed, dtype)
    for witnesses in (recorded(*given), torch_witnesses(given)):
        report = verdict_of(given, witnesses)
        assert report.verdict == "CERTIFIED", report.answer


@pytest.mark.parametrize("seed", range(60))
def test_torch_witnesses_of_random_networks_are_certified(seed: int, dtype: str) -> None:
    given = problem(seed, dtype)
    report = verdict_of(given, torch_witnesses(given))
    assert report.verdict == "CERTIFIED", report.answer


@pytest.mark.parametrize("seed", range(0, 60, 6))
def test_jax_witnesses_of_random_networks_are_certified(seed: int, dtype: str) -> None:
    given = deep(seed // 6, dtype, widest=20) if seed % 12 else problem(seed // 6, dtype)
    report = verdict_of(given, jax_witnesses(given), flush_to_zero=True)
    assert report.verdict == "CERTIFIED", report.answer


def test_numpy_and_torch_witnesses_of_large_layers_are_certified() -> None:
    given = everyday("medium")
    for witnesses in (recorded(*given), torch_witnesses(given)):
        report = verdict_of(given, witnesses)
        assert report.verdict == "CERTIFIED", report.answer


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


@pytest.mark.parametrize("size", ["tiny", "medium"])
def test_report_has_the_evidence_of_every_stage(size: str) -> None:
    given = everyday(size)
    held = json.loads(verdict_of(given, recorded(*given), flush_to_zero=True).to_json())
    assert held["assumptions"]
    statistical = [stage for stage in held["stages"] if stage["statistics"] is not None]
    assert len(statistical) > len(held["stages"]) / 2
    for stage in statistical:
        assert set(stage["statistics"]) == {"entry", "whole", "row", "column", "signs"}
        assert stage["flush_to_zero"] is True
        assert stage["detectable_scale"] == 12.0 * stage["scale"]["deviation"] > 0.0
        # V is an envelope: what a correct stage does lies below it, and not by orders of magnitude.
        assert 0.0 < stage["actual_error"] < stage["expected_error"] < 1000.0 * stage["actual_error"], stage["name"]
        assert stage["kappa"] == stage["expected_error"] / 2.0**-24
