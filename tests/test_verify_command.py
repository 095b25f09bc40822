"""``pyengine verify`` as a user runs it: files of models and batches, reports, exit codes, errors of one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_cli import run

from pyengine import cli

MAKE = """
import sys, keras, numpy as np
keras.utils.set_random_seed(0)
layers = keras.layers
pixels = keras.Input((6,))
h = layers.Dense(8, "tanh", kernel_regularizer="l2")(pixels)
outputs = {"digit": layers.Dense(3, "softmax", name="digit")(h), "ink": layers.Dense(2, name="ink")(h)}
model = keras.Model(pixels, outputs)
loss = {"digit": "sparse_categorical_crossentropy", "ink": "mse"}
model.compile("adam", loss=loss, loss_weights={"digit": 1.0, "ink": 0.5})
model.train_on_batch(np.ones((4, 6)), {"digit": np.arange(4) % 3, "ink": np.ones((4, 2))})
model.save(sys.argv[1])
"""

# The user's own files: a Keras model whose total is the mean of its losses, and a PyTorch module.
OWN = """
import numpy as np

def halved():
    import keras
    keras.utils.set_random_seed(0)

    class Halved(keras.Model):
        def compute_loss(self, *given, **named):
            return super().compute_loss(*given, **named) / 2

    pixels = keras.Input((6,))
    h = keras.layers.Dense(8, "tanh")(pixels)
    model = Halved(pixels, [keras.layers.Dense(3, "softmax", name="digit")(h), keras.layers.Dense(2, name="ink")(h)])
    model.compile("adam", loss=["sparse_categorical_crossentropy", "mse"])
    return model

def module():
    import torch
    from torch import nn
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3), nn.Linear(5, 1)

        def forward(self, x):
            h = torch.relu(self.trunk(x))
            return {"a": self.a(h), "b": self.b(h)}

    x = torch.randn(12, 6)
    targets = {"a": torch.arange(12) % 3, "b": torch.randn(12, 1)}
    return Two(), x, targets, {"a": nn.CrossEntropyLoss(), "b": nn.MSELoss()}, {"b": 0.5}

def broken():
    raise RuntimeError("my own mistake")

THREE = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved Keras model, a batch for it, a Python file of the user's, and files that are neither."""
    pytest.importorskip("keras")
    pytest.importorskip("torch")
    made = tmp_path_factory.mktemp("files")
    command = [sys.executable, "-c", MAKE, str(made / "model.keras")]
    subprocess.run(command, env={**os.environ, "KERAS_BACKEND": "torch"}, check=True, capture_output=True)
    rng = np.random.default_rng(0)
    x, ink = rng.normal(size=(16, 6)).astype("f4"), rng.normal(size=(16, 2)).astype("f4")
    digit = rng.integers(0, 3, 16)
    batches = {
        "batch": {"x": x, "digit": digit, "ink": ink, "sample_weight.ink": np.linspace(0.0, 1.0, 16, dtype="f4")},
        "wide": {"x": x[:, :5], "digit": digit, "ink": ink},
        "short": {"x": x, "digit": digit[:9], "ink": ink},
        "lacking": {"x": x, "digit": digit},
        "nameless": {"digit": digit, "ink": ink},
        "columns": {"x": x, "digit": digit, "ink": ink[:, :1]},
        "classes": {"x": x, "digit": digit + 1, "ink": ink},
    }
    for name, arrays in batches.items():
        np.savez(made / f"{name}.npz", **arrays)
    (made / "own.py").write_text(OWN, encoding="utf-8")
    (made / "text.keras").write_text("no archive", encoding="utf-8")
    (made / "text.npz").write_text("no archive", encoding="utf-8")
    with zipfile.ZipFile(made / "other.keras", "w") as archive:
        archive.writestr("else.txt", "no model")
    return made


def verify(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In the folder, on Keras' PyTorch backend."""
    return run("verify", *arguments, cwd=folder, environment={"KERAS_BACKEND": "torch"})


@pytest.mark.slow
def test_a_keras_file_is_certified_and_its_report_written(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    paths = [tmp_path / "report.json", tmp_path / "report.html"]
    done = verify(folder, "model.keras", "--data", "batch.npz", "--json", str(paths[0]), "--html", str(paths[1]))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("CERTIFIED  Keras: ")
    data = json.loads(paths[0].read_text(encoding="utf-8"))
    assert (data["verdict"], data["combination"]["verdict"], data["update"]["verdict"]) == (
        "CERTIFIED",
        "summed",
        "summed",
    )
    assert [term["name"] for term in data["ledger"]["terms"]] == ["digit", "ink", "regularizers"]
    assert "CERTIFIED" in paths[1].read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_model_that_halves_its_total_exits_with_one(folder: Path) -> None:
    done = verify(folder, "own.py:halved", "--data", "batch.npz")
    assert (done.returncode, done.stderr) == (cli.EXIT_CODES["INCONSISTENT"], "")
    assert done.stdout.startswith("INCONSISTENT  Keras: ")
    assert "averaged" in done.stdout


@pytest.mark.slow
def test_a_torch_module_of_a_python_file_is_certified(folder: Path) -> None:
    done = verify(folder, "own.py:module")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("CERTIFIED  PyTorch: ")


@pytest.mark.slow
def test_a_mistake_in_the_file_of_the_user_is_shown_where_it_is(folder: Path) -> None:
    done = verify(folder, "own.py:broken")
    assert done.returncode == cli.WRONG_USAGE
    assert "own.py" in done.stderr
    assert "my own mistake" in done.stderr


REFUSED = [
    (("nowhere.keras", "batch.npz"), "`model` is nowhere.keras, which does not exist"),
    (("text.keras", "batch.npz"), "`model` is text.keras, which is no Keras archive"),
    (("other.keras", "batch.npz"), "`model` is other.keras, which is no Keras archive"),
    (("own.py", ""), "`model` is own.py without a function"),
    (("own.py:nothing", ""), "has no function 'nothing'"),
    (("own.py:THREE", ""), "has no function 'THREE'"),
    (("nowhere.py:module", ""), "`model` is in nowhere.py, which does not exist"),
    (("nowhere:module", ""), "`model` is in nowhere, which cannot be found"),
    (("own.py:module", "batch.npz"), "`data` is batch.npz; expected none"),
    (("own.py:module", "", "wild"), "`mode` is 'wild'"),
    (("own.py:module", "", "auto", "no/where.html"), "There is no folder no"),
    (("model.keras", ""), "`data` is missing"),
    (("model.keras", "nowhere.npz"), "`data` is nowhere.npz, which does not exist"),
    (("model.keras", "text.npz"), "`data` is text.npz, which is no .npz file"),
    (("model.keras", "nameless.npz"), "`data` has digit, ink; expected x"),
    (("model.keras", "short.npz"), "9 of digit"),
    (("model.keras", "lacking.npz"), "`targets` lacks ink"),
    (("model.keras", "wide.npz"), "`x` has shape (16, 5); expected (batch, 6)"),
    (("model.keras", "columns.npz"), "`targets['ink']` has shape (16, 1); expected (16, 2)"),
    (("model.keras", "classes.npz"), "`targets['digit']` has classes from 1 to 3; expected 0 to 2"),
]

IN_TURN = """
import json, sys
from pathlib import Path
from pyengine import cli
for model, data, *more in json.loads(sys.argv[1]):
    mode, html = [*more, *("auto", "")[len(more):]]
    code = cli.run_verify(model, Path(data) if data else None, mode, html_path=Path(html) if html else None)
    print(code, flush=True)
"""


@pytest.mark.slow
def test_what_is_no_model_and_what_does_not_fit_it_fails(folder: Path) -> None:
    """All in one process: what takes its time are the frameworks, not the refusals."""
    asked = json.dumps([arguments for arguments, _ in REFUSED])
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN, asked], cwd=folder, capture_output=True, text=True, check=True,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )  # fmt: skip
    assert done.stdout.split() == [str(cli.WRONG_USAGE)] * len(REFUSED), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(REFUSED), done.stderr
    for line, (_, said) in zip(lines, REFUSED, strict=True):
        assert said in line, line
