"""A slice of the fuzz campaign, and the machinery around it: the journal, the counts, the committed tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz import command, journal, summary, threads
from fuzz.networks import drawn
from fuzz.routes import ROUTES, Run
from fuzz.verdicts import alarms, judged
from problems import Problem

SLICE = {"numpy": (1, 2, 5, 11), "torch": (1, 2, 5, 11), "tensorflow": (1, 2, 5), "jax": (1, 2)}
"""Seeds of small networks: JAX compiles each of them."""


@pytest.mark.parametrize(("framework", "seed"), [(name, seed) for name, seeds in SLICE.items() for seed in seeds])
def test_random_correct_networks_raise_no_alarm(framework: str, seed: int) -> None:
    pytest.importorskip(framework)
    record = judged(ROUTES[framework], drawn(seed), seed)
    assert alarms(record) == [], record
    assert 0.0 < record["staged"]["R"] <= 1.0


NUMPY = ROUTES["numpy"]


def faulty(given: Problem, number: int) -> Run:
    """NumPy, with the gradient of one layer a hundred-thousandth too large."""
    run = NUMPY.run(given, number)
    one = run.witnesses.summed
    assert one is not None
    name = given.net.layout.names[0]
    gradient = {**one.gradient, name: one.gradient[name] * np.float32(1 + 1e-5)}
    return Run(run.mode, replace(run.witnesses, summed=replace(one, gradient=gradient)), (run.gradients[0], gradient))


def test_a_fault_raises_the_alarms_of_both_checks() -> None:
    record = judged(replace(NUMPY, run=faulty), drawn(5), 5)
    assert len(alarms(record)) == 2, record
    assert any("summed.gradient" in name for name in record["staged"]["failures"])
    assert "summed" in record["blackbox"]["reasons"]


def test_an_interrupted_campaign_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "journal.jsonl"
    arguments = ["run", "numpy", "--journal", str(path), "--seeds"]
    assert command.main([*arguments, "1:3"]) == 0
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text(f"{lines[0]}\n{lines[1][:40]}", encoding="utf-8")
    assert command.main([*arguments, "1:3"]) == 0
    assert "1 networks judged" in capsys.readouterr().out
    assert [record["case"] for record in journal.read(path)] == ["1", "2"]
    counts = summary.counted(journal.newest(path).values())["random"]["numpy"]
    assert (counts["networks"], counts["seeds"], counts["false_alarms"]) == (2, "1-2", {})


def test_a_case_that_alarmed_is_run_again_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    arguments = ["run", "numpy", "--journal", str(path), "--seeds", "5:6"]
    with monkeypatch.context() as patch:
        patch.setitem(ROUTES, "numpy", replace(NUMPY, run=faulty))
        assert command.main(arguments) == 1
    assert summary.counted(journal.newest(path).values())["random"]["numpy"]["false_alarms"].keys() == {
        f"5, {threads.running('numpy')} threads"
    }
    assert command.main([*arguments, "--again"]) == 0
    assert summary.counted(journal.newest(path).values())["random"]["numpy"]["false_alarms"] == {}


@pytest.mark.parametrize("arguments", [["--threads", "3"], ["--threads=3"]])
def test_the_number_of_threads_reaches_every_framework(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in threads.VARIABLES:
        monkeypatch.setenv(name, "7")
    threads.limit(["bench/fuzz", "run", "jax", *arguments, "--seeds", "1:2"])
    assert {os.environ[name] for name in threads.VARIABLES} == {"3"}
    assert [threads.running(name) for name in ("numpy", "jax", "tensorflow")] == [3, 3, 3]


def test_pytorch_computes_on_the_one_thread_of_a_campaign_that_names_none() -> None:
    pytest.importorskip("torch")
    tell = "import sys; sys.path.insert(0, sys.argv[1]); from fuzz.threads import limit, running; limit(sys.argv)"
    command = [sys.executable, "-c", f"{tell}; import torch; print(running('torch'))", str(summary.FOLDER.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


def test_one_network_on_two_numbers_of_threads_counts_as_two(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    record = {"framework": "numpy", "case": "1"}
    for count in (1, 2, 2):
        journal.append(path, {**record, "threads": count})
    assert [one["threads"] for one in journal.newest(path).values()] == [1, 2]


def test_another_number_of_threads_than_asked_for_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "journal.jsonl"
    asked = threads.running("numpy") + 1
    arguments = ["run", "numpy", "--journal", str(path), "--seeds", "1:2", "--threads", str(asked)]
    assert command.main(arguments) == 2
    assert f"not on {asked}" in capsys.readouterr().err
    assert not path.exists()


def test_the_readme_shows_the_committed_campaign() -> None:
    result: dict[str, Any] = json.loads(summary.RESULT.read_text(encoding="utf-8"))
    text = summary.README.read_text(encoding="utf-8")
    assert summary.readme(result, text) == text


def test_the_committed_campaign_has_every_framework_and_no_alarm() -> None:
    result = json.loads(summary.RESULT.read_text(encoding="utf-8"))
    for part in ("random", "adversarial"):
        assert set(result[part]) == set(ROUTES)
        for counts in result[part].values():
            assert counts["staged"]["R"]["max"] <= 1.0
            assert counts["false_alarms"] == {}
