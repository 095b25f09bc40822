"""The report answers first, prints the same letters everywhere, and says the same in JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from reports import consistent, inconclusive, refuted

import pyengine as pe
from pyengine.render.terminal import plain
from pyengine.report import Report

GOLDEN = Path(__file__).parent / "golden"
REPORTS = [consistent, refuted, inconclusive]


@pytest.mark.parametrize("make", REPORTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("width", [80, 120])
def test_terminal_output_is_the_golden_one(make: Callable[[], Report], width: int) -> None:
    """After a change that is meant, write the new text over the golden file and read the difference."""
    golden = (GOLDEN / f"report_{make.__name__}_{width}.txt").read_text(encoding="utf-8")
    assert plain(make(), width) + "\n" == golden


@pytest.mark.parametrize("make", REPORTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(make: Callable[[], Report], width: int) -> None:
    assert all(len(line) <= width for line in plain(make(), width).splitlines())


def test_answer_comes_first() -> None:
    assert plain(consistent()).startswith("CONSISTENT  Yes. At the shared layers Keras applied the weighted sum")
    assert plain(refuted()).startswith("INCONSISTENT  No. At the shared layers Keras did not apply 1·∇digit + 0.5·∇ink")
    assert plain(inconclusive()).startswith("INCONCLUSIVE  Cannot tell whether Keras applied 1·∇digit + 0.5·∇ink")


def test_truth_of_a_report_is_its_verdict() -> None:
    assert consistent()
    assert not refuted()
    assert not inconclusive()


def test_consistent_report_raises_nothing() -> None:
    consistent().raise_for_failure()


@pytest.mark.parametrize("make", [refuted, inconclusive], ids=lambda make: make.__name__)
def test_report_that_does_not_hold_raises(make: Callable[[], Report]) -> None:
    with pytest.raises(pe.GradientMismatch, match=make().verdict):
        make().raise_for_failure()


@pytest.mark.parametrize("part", ["combination", "update", "ledger"])
@pytest.mark.parametrize(("standing", "verdict"), [("between", "INCONCLUSIVE"), ("beyond", "INCONSISTENT")])
def test_every_check_can_spoil_the_verdict(part: str, standing: str, verdict: str) -> None:
    report = consistent()
    spoiled = replace(report, **{part: replace(getattr(report, part), standing=standing)})
    assert spoiled.verdict == verdict


@pytest.mark.parametrize("agreement", [1.5, float("nan")])
def test_routes_that_disagree_make_it_inconclusive(agreement: float) -> None:
    report = replace(consistent(), agreement=agreement)
    assert report.verdict == "INCONCLUSIVE"
    assert "NumPy reference disagree" in report.answer


def test_json_has_the_promised_keys() -> None:
    data = json.loads(consistent().to_json())
    assert data["schema_version"] == 1
    assert (data["verdict"], data["ok"]) == ("CONSISTENT", True)
    assert data["combination"]["verdict"] == "summed"
    assert set(data["combination"]["alpha"]["ink"]) == {"value", "low", "high", "configured"}
    assert data["combination"]["cosine"][0][1] == consistent().combination.cosine[0][1]
    assert {"name", "misfit"} <= set(data["update"]["hypotheses"][0])
    assert (data["update"]["verdict"], data["update"]["rule"]) == ("summed", "one step on the sum")
    assert data["ledger"]["terms"][0]["name"] == "digit"
    assert data["environment"]["keras"] == "3"


def test_json_holds_no_number_that_json_lacks() -> None:
    text = inconclusive().to_json()
    data = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert data["combination"]["alpha"]["digit"]["low"] is None
    assert data["ledger"] is None


def test_report_prints_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyengine.render.terminal", None)
    lines = str(consistent()).splitlines()
    assert lines[0].startswith("CONSISTENT: Yes.")
    assert any(line.startswith("one step on the sum: fits") for line in lines)
