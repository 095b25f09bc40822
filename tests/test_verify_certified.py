"""Where every operation is certified, the losses' own gradients decompose what was made of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_verify_model import LOSSES, Shared, batch  # noqa: E402

import pyengine as pe  # noqa: E402
from pyengine.adapters import torch_model  # noqa: E402
from pyengine.adapters.computation import Computation  # noqa: E402
from pyengine.verification import Verification  # noqa: E402
from pyengine.verify_certified import verify_certified  # noqa: E402

WEIGHTS = {"digit": 1.0, "ink": 0.5}


@pytest.fixture(scope="module")
def done() -> Computation:
    torch.manual_seed(0)
    return torch_model.compute(Shared(), *batch(), LOSSES, WEIGHTS)


def judged(done: Computation, **changed: Any) -> Verification:
    assert done.witnesses is not None
    staged = pe.verify_witnesses(done.network, done.params, done.x, done.targets, done.witnesses)
    assert staged.verdict == "CERTIFIED", staged
    return verify_certified(replace(done, **changed), staged)


def test_every_coefficient_lies_in_a_narrow_interval(done: Computation) -> None:
    report = judged(done)
    assert report.verdict == "CERTIFIED", report
    assert report.combination is not None
    for fit in (report.combination.trunk, *report.combination.tensors):
        for loss, a in fit.alpha.items():
            assert a.configured == WEIGHTS[loss]
            assert a.holds(a.configured), fit
            assert not a.holds(a.configured * 1.001), fit


@pytest.mark.parametrize(
    ("gradient", "verdict"),
    [
        (lambda a, b: a + b / 2.0, "summed"),
        (lambda a, b: (a + b / 2.0) * np.float32(1.01), "scaled"),
        (lambda a, b: (a + b / 2.0) / 2.0, "averaged"),
        (lambda a, b: a / 2.0 + b, "weights exchanged"),
        (lambda a, b: a, "missing loss"),
        (lambda a, b: a + b / 2.0 + 0.01 * np.abs(a), "not a combination"),
    ],
)
def test_what_was_made_of_certified_gradients_is_named(done: Computation, gradient: Any, verdict: str) -> None:
    zero = {name: np.zeros_like(array) for name, array in done.summed.items()}
    parts = [{**zero, **one} for one in done.per_loss.values()]
    report = judged(done, summed={name: gradient(*(part[name] for part in parts)) for name in zero})
    assert report.combination is not None
    assert report.combination.verdict == verdict, report
    assert report.verdict == ("CERTIFIED" if verdict == "summed" else "INCONSISTENT")
    assert (verdict in report.answer) == (verdict != "summed")


def test_a_row_a_parameter_tells_how_its_gradient_was_formed(done: Computation) -> None:
    report = judged(done)
    assert [t.name for t in report.tensors] == list(done.network.layout.names)
    assert all(0.0 <= t.ratio <= 1.0 for t in report.tensors)
    assert all(abs(t.scale_error) <= t.detectable_scale for t in report.tensors)
    rows = report.to_dict()["parameters"]
    assert {row["native"] for row in rows} == set(done.native.values())
    assert "of its bound" in str(report)
    assert "trunk.0.weight (first.weight)" in str(report)
    assert len(report.plot().axes[0].get_yticks()) == len(rows)


def test_a_network_that_shares_nothing_has_no_combination_to_tell() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(12, 2))
    x, targets = batch()
    report = pe.verify(model, x, {"ink": targets["ink"]}, losses={"ink": torch.nn.MSELoss()})
    assert report.verdict == "CERTIFIED", report
    assert report.combination is not None
    assert report.combination.verdict == "cannot tell"
    assert "no shared layers" in report.combination.reason
