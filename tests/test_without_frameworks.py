"""A framework that is absent, broken or too old gives one clear sentence; none is imported that nobody brought."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "flax", "equinox", "optax")

ALONE = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FRAMEWORKS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
import numpy as np, pyengine as pe
net = pe.Network(n_in=3, trunk=[pe.Dense(4, "tanh")], heads={{"a": pe.Head([pe.Dense(1)], loss="mse")}})
params, x, t = net.init(seed=0), np.eye(3, dtype="f4"), {{"a": np.ones((3, 1), "f4")}}
assert pe.verify((net, params), x, t)
assert pe.verify_gradients(net, params, x, t, summed=net.summed_gradient(params, x, t))
pe.JaxModel(lambda own, x: x, {{}})
"""


def outcome(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_without_any_framework_everything_that_needs_none_works() -> None:
    outcome(ALONE)


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ("from_torch", "`model` needs torch, which is not installed; expected torch>=2.0. pip install"),
        ("from_jax", "`model` needs JAX, which is not installed; expected jax>=0.5. pip install"),
        ("keras_backend", "`model` needs keras, which is not installed; expected keras>=3 and a backend. pip install"),
    ],
)
def test_an_absent_framework_gives_one_sentence(adapter: str, said: str) -> None:
    code = f"""{ALONE}
import os
os.environ["KERAS_BACKEND"] = "tensorflow"
from pyengine.adapters import {adapter}
try:
    {adapter}.load()
except ModuleNotFoundError as error:
    print(error)
"""
    found = outcome(code)
    assert said in found
    assert len(found.splitlines()) == 1


def test_a_foreign_object_imports_no_framework() -> None:
    code = f"""
import sys, pyengine as pe
try:
    pe.verify(object(), [[1.0]], {{"a": [[1.0]]}})
except TypeError as error:
    print(error)
print([name for name in {FRAMEWORKS!r} if name in sys.modules])
"""
    said, loaded = outcome(code).splitlines()
    assert "`model` is of type object; expected a torch.nn.Module" in said
    assert loaded == "[]"


def test_an_old_torch_is_refused_and_a_broken_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = pytest.importorskip("torch")
    from pyengine.adapters import from_torch

    monkeypatch.setattr(torch, "__version__", "1.13.1")
    with pytest.raises(ImportError, match=r"`model` comes with PyTorch 1\.13\.1; expected torch>=2\.0\."):
        from_torch.load()
    monkeypatch.undo()
    assert from_torch.load() is torch
    code = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise OSError("libtorch.so: cannot open shared object file")
sys.meta_path.insert(0, Broken())
from pyengine.adapters import from_torch
try:
    from_torch.load()
except ImportError as error:
    print(error)
"""
    assert "needs PyTorch, whose import fails (libtorch.so" in outcome(code)
