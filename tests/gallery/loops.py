"""The stage of the gallery in PyTorch: one small model with a shared trunk, a real batch, and how a bug is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import pyengine as pe
from pyengine import demo

torch = pytest.importorskip("torch")
nn = torch.nn

LOSSES = {"digit": nn.CrossEntropyLoss(), "ink": nn.MSELoss()}
WEIGHTS = {"digit": 1.0, "ink": 0.5}


class TwoHeads(nn.Module):  # type: ignore[misc]
    """64 → 12 tanh → 8 relu → digit: 10 | ink: 2."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 8), nn.ReLU())
        self.digit = nn.Linear(8, 10)
        self.ink = nn.Linear(8, 2)

    def forward(self, x: Any) -> dict[str, Any]:
        h = self.trunk(x)
        return {"digit": self.digit(h), "ink": self.ink(h)}


def model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return TwoHeads()


def batch(seed: int = 0, size: int = 24) -> tuple[Any, dict[str, Any]]:
    """Digits with their class and two measures of their ink."""
    x, targets = demo.draw(seed, size)
    return torch.tensor(x), {name: torch.tensor(np.asarray(target)) for name, target in targets.items()}


@dataclass
class World:
    """A fresh model with its batch, for one run of one loop."""

    model: Any = field(default_factory=model)
    losses: Mapping[str, Any] = field(default_factory=lambda: dict(LOSSES))
    data: list[tuple[Any, dict[str, Any]]] = field(default_factory=lambda: [batch(0), batch(1), batch(2)])
    optimizer: Any = None

    @property
    def x(self) -> Any:
        return self.data[0][0]

    @property
    def targets(self) -> dict[str, Any]:
        return self.data[0][1]

    def values(self, x: Any = None, targets: Any = None) -> dict[str, Any]:
        """The unweighted losses."""
        out = self.model(self.x if x is None else x)
        wanted = self.targets if targets is None else targets
        return {name: loss(out[name], wanted[name]) for name, loss in self.losses.items()}

    def total(self, x: Any = None, targets: Any = None) -> Any:
        """The weighted sum of the losses."""
        return sum(WEIGHTS[name] * value for name, value in self.values(x, targets).items())


Loop = Callable[[World], None]


@dataclass(frozen=True)
class Bug:
    """A bug that people had: what it does, where it was reported, what the report calls it, and both loops.

    ``asked`` are further arguments of ``pe.watch``, ``told`` those of ``report``, as functions of the world.
    """

    title: str
    thread: str
    named: str
    wrong: Loop
    right: Loop
    optimizer: Callable[[Any], Any] = lambda world: torch.optim.Adam(world.model.parameters(), lr=1e-2)
    asked: Mapping[str, Any] = field(default_factory=dict)
    told: Callable[[World], dict[str, Any]] = lambda world: {"x": world.x, "targets": world.targets}
    model: Callable[[], Any] = model
    cured: Callable[[Any], Any] | None = None
    framework: str = "PyTorch"


def judged(bug: Bug, loop: Loop, optimizer: Callable[[Any], Any]) -> pe.Verification:
    world = World(bug.model())
    world.optimizer = optimizer(world)
    asked = {"loss_weights": WEIGHTS, **bug.asked}
    with pe.watch(world.model, losses=world.losses, optimizer=world.optimizer, **asked) as seen:
        loop(world)
    return seen.report(**bug.told(world))


def expect_named(bug: Bug) -> None:
    report = judged(bug, bug.wrong, bug.optimizer)
    assert report.verdict == "INCONSISTENT", report
    assert report.diagnoses[0].name == bug.named, report
    assert report.diagnoses[0].sentence in str(report)


def expect_consistent(bug: Bug) -> None:
    report = judged(bug, bug.right, bug.cured or bug.optimizer)
    assert report.verdict == "CONSISTENT", report
    assert not report.diagnoses
