"""The self-test: it holds, and it fails when a fault escapes, changes nothing, or when what is right is refused."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyengine import cli
from pyengine.checks.staged import statistics
from pyengine.selftest import campaign, report
from pyengine.selftest.campaign import FAULTS, Outcome, check_correct, plant
from pyengine.selftest.cases import Case, case
from pyengine.selftest.detection import differs
from pyengine.selftest.fault import CHECKS, Fault, finished, scaled

NAMED = {fault.name: fault for fault in FAULTS}


def within(fault: Fault) -> Case:
    return case(fault.case)


def test_a_slice_of_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "selftest.json"
    assert cli.run_selftest(quick=True, json_path=path) == 0
    out = capsys.readouterr().out
    assert out.startswith("HOLDS  ")
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["ok"] is True
    assert data["problems"] == []
    assert len(data["faults"]) > len(FAULTS) // 4
    for fault in data["faults"]:
        assert fault["name"] in out
        assert fault["required"] == {} or any(fault["caught"].values())
    assert [entry.name for entry in tmp_path.iterdir()] == ["selftest.json"]


def test_there_are_many_kinds_and_every_check_has_some() -> None:
    assert len(NAMED) == len(FAULTS)
    required = [fault for fault in FAULTS if fault.must]
    assert len({fault.does for fault in required}) >= 60
    for check in CHECKS:
        names = {check, "staged"} if check.startswith("staged") else {check}
        assert any(names & fault.must.keys() for fault in required)
    # What rounding hides is shown, and is the exception.
    assert len(FAULTS) - len(required) < 5


@pytest.mark.parametrize("start", range(4))
def test_every_planted_fault_changes_numbers(start: int) -> None:
    cases: dict[str, Case] = {}
    for fault in [fault for fault in FAULTS if fault.case not in campaign.SLOW][start::4]:
        here = cases.setdefault(fault.case, case(fault.case))
        evidence = fault.plant(here, fault.size)
        assert differs(evidence, campaign.undisturbed(here, evidence)), fault.name


def test_a_fault_that_changes_nothing_fails() -> None:
    nothing = Fault("nothing", "changes nothing", finished(lambda case, g, size: g), {"staged": 1.0}, "tiny")
    found = plant(nothing, within(nothing))
    assert found.problems[:2] == ("the planted fault changes no number", "escapes staged")


def test_a_fault_that_is_not_caught_fails_the_whole() -> None:
    def one_rounding(case: Case, g: dict[str, Any], size: float) -> dict[str, Any]:
        value = g["trunk.0.weight"].copy()
        value[0, 0] = np.nextafter(value[0, 0], np.float32(np.inf))
        return {**g, "trunk.0.weight": value}

    tiny = Fault("a rounding", "one element moves to the next number", finished(one_rounding), {"staged": 1.0}, "tiny")
    outcome = campaign.run([tiny], quick=True)
    assert not outcome.ok
    assert outcome.problems == ["a rounding: escapes staged"]
    assert report.answer(outcome).startswith("FAILS  ")
    assert "✗ a rounding: escapes staged" in report.plain(outcome)


def test_a_check_that_is_switched_off_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = NAMED["per-loss gradient scaled"]
    assert plant(fault, within(fault), search=False).problems == ()
    monkeypatch.setattr(statistics, "PROJECTED", float("inf"))
    assert "escapes staged A at 3e-07" in plant(fault, within(fault), search=False).problems


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"where": "z['trunk.1']"}, "is seen at summed.dh['trunk.1'] first, not at z['trunk.1']"),
        ({"called": {"combination": "averaged"}}, "is called 'missing loss', not 'averaged'"),
        ({"must": {"reach": 1.0}}, "escapes reach"),
    ],
)
def test_a_fault_in_another_place_or_by_another_name_fails(changes: dict[str, Any], said: str) -> None:
    fault = replace(NAMED["loss missing"], **changes)
    assert said in plant(fault, within(fault)).problems


def test_a_correct_computation_that_is_refused_fails() -> None:
    here = case("tiny")
    assert check_correct(lambda: here).problems == ()
    fault = NAMED["gradient scaled, tiny"]
    broken = case("tiny")
    broken.__dict__["truth"] = fault.plant(here, 1e-3).witnesses
    found = check_correct(lambda: broken)
    assert len(found.problems) == 3
    assert not Outcome((), (found,), 0.0, 0).ok


def test_nothing_planted_is_no_pass() -> None:
    assert not Outcome((), (check_correct(lambda: case("tiny")),), 0.0, 0).ok


def test_the_smallest_size_is_caught_and_a_smaller_one_is_not() -> None:
    fault = NAMED["gradient scaled, tiny"]
    here = within(fault)
    found = plant(fault, here)
    assert found.smallest["staged"] <= fault.must["staged A"]
    for check, size in found.smallest.items():
        for factor, caught in ((1.0, True), (2.0 ** (-20 / 2**campaign.HALVINGS), False)):
            smaller = replace(fault, must={check: size * factor}, called={})
            assert (plant(smaller, here, search=False).problems == ()) == caught, (check, size, factor)


def test_scaling_rounds_once() -> None:
    value = np.array([1.0, 3.0], np.float32)
    assert scaled(value, 1.0 + 2.0**-30).tobytes() == value.tobytes()
    assert scaled(value, 1.0 + 2.0**-23).tobytes() != value.tobytes()


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.run_selftest(quick=True, full=True) == cli.WRONG_USAGE
    assert cli.run_selftest(json_path=tmp_path / "none" / "x.json") == cli.WRONG_USAGE
    err = capsys.readouterr().err
    assert "`--quick` and `--full`" in err
    assert "no folder" in err
    monkeypatch.setattr(campaign, "run", lambda **_: Outcome((), (), 0.0, 0))
    assert cli.run_selftest() == 1


def test_the_table_shows_what_stands_in_brackets() -> None:
    from rich.console import Console

    fault = replace(NAMED["loss missing"], where="[red]")
    outcome = campaign.run([fault], quick=True)
    console = Console(width=400, record=True, file=io.StringIO())
    report.show(outcome, console)
    shown = console.export_text()
    assert shown.startswith("FAILS  ")
    assert "is seen at summed.dh['trunk.1'] first, not at [red]" in shown


def test_it_needs_no_framework() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'jax', 'tensorflow', 'keras', 'ml_dtypes', 'flint', 'jinja2', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "from pyengine.selftest.campaign import FAULTS, plant\n"
        "from pyengine.selftest.cases import case\n"
        "for fault in FAULTS[::9]:\n"
        "    if fault.case in ('tiny', 'small'):\n"
        "        assert plant(fault, case(fault.case), search=False).problems == ()\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
