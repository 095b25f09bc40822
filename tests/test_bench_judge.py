"""The comparison with other judges: they accept the truth, object to plain faults, and the tables are rendered."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyengine.selftest.campaign import FAULTS
from pyengine.selftest.cases import case
from pyengine.selftest.fault import Evidence, ran

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "bench/judge"
NAMED = {fault.name: fault for fault in FAULTS}


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(ROOT / "bench"), *sys.path])
    return lambda name: importlib.import_module(f"judge.{name}")


def test_who_compares_accepts_the_truth_and_objects_to_a_wrong_sign(judge: Any) -> None:
    matrix = judge("matrix")
    here = judge("reduced").reduced(case("small"), "float32")
    truth = matrix.exact(here.arguments)
    names = set(judge("peers").COMPARING)
    right = matrix.comparing(here, Evidence(here.truth), truth)
    wrong = matrix.comparing(here, NAMED["sign"].plant(here, 1.0), truth)
    assert names <= right.keys()
    assert not any(right.values())
    assert all(wrong[name] for name in (*names, "staged R", "staged", "black-box"))


@pytest.mark.parametrize("name", ["gradcheck float64", "gradcheck fast", "check_grads float64", "check_grads float32"])
def test_who_differentiates_accepts_the_truth_and_objects_to_a_wrong_sign(judge: Any, name: str) -> None:
    peers, reduced, matrix = judge("peers"), judge("reduced"), judge("matrix")
    dtype, check = peers.DIFFERENTIATING[name]
    here = reduced.reduced(case("tiny"), dtype)
    assert here.params.dtype == dtype
    for plant, accepted in ((lambda c: ran(c, c.run()), True), (lambda c: NAMED["sign"].plant(c, 1.0), False)):
        assert check(matrix.program(here, plant), here.params.flat.copy()) is accepted


def test_a_program_gives_its_own_total_and_gradient_at_any_parameters(judge: Any) -> None:
    here = judge("reduced").reduced(case("tiny"), "float64")
    run = judge("matrix").program(here, lambda c: ran(c, c.run()))
    moved = here.params.flat + 0.125
    total, gradient = run(moved)
    exact = here.net.gradients(here.net.parameters(judge("reduced").at(here, moved).params), *here.arguments[2:])
    # Both are float64 sums of some hundred terms; they differ by roundings of them.
    room = float(np.finfo("float64").eps) * 1000.0
    assert abs(total - exact.total_loss) <= room * exact.total_loss
    assert np.abs(gradient - exact.summed.flat).max() <= room * np.abs(exact.summed.flat).max()


def test_the_tables_are_those_of_the_committed_results(judge: Any) -> None:
    table = judge("table")
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    result = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    assert text == table.placed(text, table.readme(result)), "run: python bench/judge --render"
    assert result["every"] == 1
    assert {one["fault"] for one in result["detection"]} <= NAMED.keys()
    # What the README of the project says of the checks holds in what was measured.
    for rows in ("unmodified", "false_alarms", "small_unmodified", "small_false_alarms"):
        assert result[rows]
        assert not any(one["refused"]["staged"] or one["refused"]["black-box"] for one in result[rows])


def test_a_cell_says_from_which_size_on_a_fault_is_caught(judge: Any) -> None:
    table = judge("table")

    def rows(*caught: bool) -> list[dict[str, Any]]:
        sizes = (1e-2, 1e-4, 1e-6)
        return [{"size": s, "caught": {"x": c}} for s, c in zip(sizes, caught, strict=True)]

    assert table._cell(rows(True, True, False), "x") == "0.0001"
    assert table._cell(rows(True, False, True), "x") == "○"
    assert table._cell(rows(False, False, False), "x") == "·"
    assert table._cell([{"size": None, "caught": {"x": True}}], "x") == "●"
