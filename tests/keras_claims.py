"""Runs a file of claims about Keras once a backend, in a process of its own, and keeps what came of it.

Workers of one test run share the result: the first to come runs the process, the others wait for its file.
"""

from __future__ import annotations

import ast
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BACKENDS = ("tensorflow", "jax", "torch")


def claims_of(script: str) -> list[str]:
    """The names of the functions under ``@claim`` in a file beside this one, without importing it."""
    tree = ast.parse(Path(__file__).with_name(script).read_text(encoding="utf-8"))
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any(ast.unparse(d) == "claim" for d in node.decorator_list)
    ]


def outcome(factory: pytest.TempPathFactory, script: str, backend: str) -> dict[str, str]:
    """Claim -> the traceback of its failure, or nothing."""
    for module in ("keras", backend):
        pytest.importorskip(module)
    shared = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    path = shared / f"{script}-{backend}.json"
    with (shared / f"{script}-{backend}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            # The tests' interpreters do not search the folder of their script (conftest.py); one file imports another.
            here = str(Path(__file__).parent)
            environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": here}
            done = subprocess.run(
                [sys.executable, str(Path(__file__).with_name(script)), str(path)],
                capture_output=True, text=True, env=environment, check=False, timeout=600,
            )  # fmt: skip
            if not path.exists():
                path.write_text(json.dumps({"": done.stderr[-4000:]}), encoding="utf-8")
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    assert "" not in found, found[""]
    return found
