"""pe.watch on models that the engine does not know: judged by their own framework's gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from refusals import refused

import pyengine as pe
from pyengine import demo

torch = pytest.importorskip("torch")
nn = torch.nn

LOSSES = {"digit": nn.CrossEntropyLoss(), "ink": nn.MSELoss()}
WEIGHTS = {"digit": 1.0, "ink": 0.5}


class Convolutions(nn.Module):  # type: ignore[misc]
    """A convolution, batch norm in training mode, attention over the pixels, two heads."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.attention, self.drop = nn.MultiheadAttention(8, 2, batch_first=True), nn.Dropout(dropout)
        self.digit, self.ink = nn.Linear(8, 10), nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        h = torch.relu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        h = self.drop(h + self.attention(h, h, h, need_weights=False)[0]).mean(1)
        return {"digit": self.digit(h), "ink": self.ink(h)}


def model(dropout: float = 0.0) -> Any:
    torch.manual_seed(3)
    return Convolutions(dropout)


def batch(seed: int = 0, size: int = 16) -> tuple[Any, dict[str, Any]]:
    x, targets = demo.draw(seed, size)
    return torch.tensor(x).reshape(-1, 1, 8, 8), {n: torch.tensor(np.asarray(t)) for n, t in targets.items()}


def values(m: Any, x: Any, targets: Any) -> dict[str, Any]:
    out = m(x)
    return {name: loss(out[name], targets[name]) for name, loss in LOSSES.items()}


def watched(step: Any, optimizer: Any = None, **asked: Any) -> tuple[pe.watch, Any]:
    m = model()
    opt = torch.optim.Adam(m.parameters(), lr=1e-2) if optimizer is None else optimizer(m)
    with pe.watch(m, LOSSES, opt, WEIGHTS, **asked) as seen:
        step(m, opt)
    return seen, m


def descend(m: Any, opt: Any, digit: float = 1.0, ink: float = 0.5) -> None:
    opt.zero_grad()
    found = values(m, *batch())
    (digit * found["digit"] + ink * found["ink"]).backward()
    opt.step()


def test_right_step_is_consistent_and_its_reach_and_ledger_are_filled() -> None:
    m = model()
    before = {name: float(value.detach()) for name, value in values(m, *batch()).items()}
    seen, _ = watched(descend)
    log = {"loss": before["digit"] + 0.5 * before["ink"], **before}
    report = seen.report(*batch(), log=log)
    assert report.verdict == "CONSISTENT", report
    assert (report.combination.verdict, report.update.verdict) == ("summed", "summed"), report
    assert report.ledger.verdict == "balanced", report
    assert report.reach["digit"]["trunk.conv.weight"] == "reached"
    assert report.reach["digit"]["heads.ink.ink.weight"] == "untouched"
    assert report.native["trunk.norm.weight"] == "norm.weight"
    assert "engine did not take part" in report.not_judged["stages"]
    wrong = seen.report(*batch(), log={**log, "loss": before["digit"] + before["ink"]})
    assert wrong.ledger.verdict == "unexplained rest", wrong
    assert wrong.verdict == "INCONSISTENT"


@pytest.mark.parametrize("factor", [1.001, 1.25])
def test_planted_factor_on_the_shared_parameters_is_no_pass_and_a_large_one_is_named(factor: float) -> None:
    def scaled(m: Any, opt: Any) -> None:
        opt.zero_grad()
        found = values(m, *batch())
        (found["digit"] + 0.5 * found["ink"]).backward()
        for p in (*m.conv.parameters(), *m.norm.parameters(), *m.attention.parameters()):
            p.grad *= factor
        opt.step()

    report = watched(scaled)[0].report(*batch())
    assert report.verdict in ("INCONSISTENT", "INCONCLUSIVE"), report
    if factor > 1.01:
        assert report.diagnoses[0].name == "scaled", report
        assert round(report.combination.factor, 3) == factor


@pytest.mark.parametrize(
    ("weights", "name"),
    [((0.5, 1.0), "weights exchanged"), ((0.5, 0.25), "averaged"), ((1.0, 0.0), "missing loss")],
    ids=["exchanged", "averaged", "missing"],
)
def test_wrong_totals_are_named(weights: tuple[float, float], name: str) -> None:
    report = watched(lambda m, opt: descend(m, opt, *weights))[0].report(*batch())
    assert report.diagnoses[0].name == name, report
    if name == "missing loss":
        assert report.reach["ink"]["trunk.conv.weight"] == "detached", report


def test_window_of_micro_batches_keeps_their_own_statistics() -> None:
    parts = [batch(0, 12), batch(1, 12)]

    def window(divide: float) -> Any:
        def step(m: Any, opt: Any) -> None:
            opt.zero_grad()
            for x, targets in parts:
                found = values(m, x, targets)
                ((found["digit"] + 0.5 * found["ink"]) / divide).backward()
            opt.step()

        return step

    told = ([x for x, _ in parts], [targets for _, targets in parts])
    assert watched(window(2.0))[0].report(*told).verdict == "CONSISTENT"
    assert watched(window(1.0))[0].report(*told).diagnoses[0].name == "accumulation not divided"


def test_clipping_and_a_wrong_step_are_judged() -> None:
    def clipped(m: Any, opt: Any) -> None:
        opt.zero_grad()
        found = values(m, *batch())
        (found["digit"] + 0.5 * found["ink"]).backward()
        nn.utils.clip_grad_norm_(m.parameters(), 0.1)
        opt.step()

    assert watched(clipped, clip_norm=0.1)[0].report(*batch()).verdict == "CONSISTENT"
    assert watched(descend, clip_norm=0.1)[0].report(*batch()).diagnoses[0].name == "not clipped"

    def moving(m: Any) -> Any:
        def farther(*_: Any) -> None:
            with torch.no_grad():
                m.conv.weight *= 1.001

        opt = torch.optim.Adam(m.parameters(), lr=1e-2)
        opt.register_step_post_hook(farther)
        return opt

    assert "wrong step" in {d.name for d in watched(descend, moving)[0].report(*batch()).diagnoses}


def test_model_that_draws_at_random_fails() -> None:
    m = model(0.5)
    opt = torch.optim.Adam(m.parameters())
    with pe.watch(m, LOSSES, opt, WEIGHTS) as seen:
        descend(m, opt)
    refused(lambda: seen.report(*batch()), ValueError, "model", "draws at random")


def test_log_without_a_loss_fails() -> None:
    seen, _ = watched(descend)
    refused(lambda: seen.report(*batch(), log={"loss": 1.0}), ValueError, "log", "digit")
