"""A slice of the campaign of random dense models (``bench/models``), and its committed results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from models import command

from pyengine.activations import ACTIVATIONS
from pyengine.losses import LOSSES

FOLDER = command.FOLDER
RESULTS: dict[str, Any] = json.loads(command.RESULT.read_text(encoding="utf-8"))


def test_a_slice_of_torch_models_is_certified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    journal = tmp_path / "journal.jsonl"
    assert command.run_seeds("torch", range(200, 212), journal) == 0, capsys.readouterr().out
    records = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    assert [record["verdict"] for record in records] == ["CERTIFIED"] * 12
    # What is there is not computed again.
    assert command.run_seeds("torch", range(200, 212), journal) == 0
    assert "0 models judged" in capsys.readouterr().out


def test_a_slice_of_jax_models_is_certified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One in each manner: two functions, a Flax NNX and an Equinox module; three of them with optax's Huber loss."""
    pytest.importorskip("flax")
    pytest.importorskip("equinox")
    for seed in (9, 10, 11, 16):
        assert command.run_seeds("jax", range(seed, seed + 1), tmp_path / "journal.jsonl") == 0, capsys.readouterr().out


@pytest.mark.slow
def test_a_slice_of_keras_models_is_certified(tmp_path: Path) -> None:
    """One in each manner; in a process of its own, because Keras has one backend a process."""
    pytest.importorskip("keras")
    pytest.importorskip("torch")
    arguments = [sys.executable, str(FOLDER), "run", "keras-torch", "--seeds", "8:12", "--journal", str(tmp_path / "j")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 models judged, 0 not certified" in done.stdout


@pytest.mark.parametrize("framework", sorted(RESULTS))
def test_every_model_of_the_campaign_was_certified(framework: str) -> None:
    found = RESULTS[framework]
    assert found["models"] >= 200
    assert found["verdicts"] == {"CERTIFIED": found["models"]}
    assert set(found["activations"]) == set(ACTIVATIONS)
    # TensorFlow finds the logits behind the probabilities, so none is clipped there.
    clipped = {"clipped_cross_entropy", "clipped_binary_cross_entropy"}
    lacking = dict.fromkeys(("torch", "keras-tensorflow"), clipped)
    assert set(found["losses"]) == set(LOSSES) - lacking.get(framework, set())
