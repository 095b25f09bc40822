"""Every report says in JSON what a report has to say, and of what it does not say, why."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import pyengine as pe
from pyengine import demo

NET = pe.Network(n_in=3, trunk=[pe.Dense(4, "tanh")], heads={"a": pe.Head([pe.Dense(1)], loss="mse")})
PARAMS, X, TARGETS = NET.init(seed=0), np.eye(3, dtype="f4"), {"a": np.ones((3, 1), "f4")}
GRADIENT = NET.summed_gradient(PARAMS, X, TARGETS)


def torch_report(middle: str) -> Any:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Tanh() if middle == "Tanh" else torch.nn.LayerNorm(4)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), layer, torch.nn.Linear(4, 1))
    return pe.verify(model, X, TARGETS, losses={"a": torch.nn.MSELoss()})


def update() -> Any:
    after = NET.parameters(PARAMS)
    after.flat[:] -= np.float32(0.1) * GRADIENT.flat
    return pe.explain_update(NET, PARAMS, after, X, TARGETS, optimizer=pe.SGD(0.1))


REPORTS = {
    "a dense model": lambda: torch_report("Tanh"),
    "its stages": lambda: torch_report("Tanh").staged,
    "another model": lambda: torch_report("LayerNorm"),
    "the engine": lambda: pe.verify((NET, PARAMS), X, TARGETS),
    "gradients": lambda: pe.verify_gradients(NET, PARAMS, X, TARGETS, summed=GRADIENT),
    "an update": update,
    "a step": lambda: demo.run("builtin"),
}
KEYS = ("schema_version", "verdict", "ok", "combination", "update", "ledger", "reach", "stages", "parameters",
        "environment", "not_judged")  # fmt: skip


@pytest.mark.parametrize("name", REPORTS)
def test_every_report_has_the_keys_and_says_what_is_missing(name: str) -> None:
    data = json.loads(REPORTS[name]().to_json())
    assert not set(KEYS) - set(data)
    assert data["ok"] is True
    assert {"pyengine"} <= set(data["environment"])
    for check in ("combination", "update", "ledger", "reach", "stages", "parameters"):
        assert bool(data[check]) != (check in data["not_judged"]), check
    if data["combination"]:
        assert {"verdict", "alpha", "cosine"} <= set(data["combination"])
        assert all({"value", "low", "high", "configured"} <= set(a) for a in data["combination"]["alpha"].values())
    if data["update"]:
        assert "verdict" in data["update"]
        assert all({"name", "misfit"} <= set(hypothesis) for hypothesis in data["update"]["hypotheses"])
