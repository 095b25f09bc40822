"""PyTorch's losses with all their options, and the forms in which people write dense layers."""

from __future__ import annotations

import functools
from typing import Any

import pytest

import pyengine as pe
from pyengine.errors import Unsupported

torch = pytest.importorskip("torch")
nn = torch.nn
f = nn.functional

torch.manual_seed(0)
X = torch.randn(64, 3, 4)
CLASSES = torch.randint(0, 4, (64,))
SOME = torch.where(torch.arange(64) % 5 == 0, -100, CLASSES)
VALUES = torch.randn(64, 4)
SHARES = torch.softmax(VALUES, 1)
WEIGHT = torch.tensor([0.2, 1.0, 3.0, 0.7])


class Own(nn.Module):  # type: ignore[misc, name-defined]
    """Parameters of its own, options by position, a flattened input, a dropout that is off."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.kernel, self.offset = nn.Parameter(torch.randn(24, 12) / 4), nn.Parameter(torch.randn(24) / 4)
        self.out = nn.Linear(24, 4)

    def forward(self, x: Any) -> Any:
        h = f.leaky_relu(f.linear(x.flatten(1), self.kernel, self.offset), 0.2)
        return self.out(f.dropout(h, 0.5, False))


def judged(loss: Any, target: Any, **options: Any) -> pe.Verification:
    return pe.verify(Own(), X, {"a": target}, losses={"a": loss}, **options)


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (nn.CrossEntropyLoss(weight=WEIGHT), CLASSES),
        (nn.CrossEntropyLoss(weight=WEIGHT, reduction="sum"), CLASSES),
        (nn.CrossEntropyLoss(weight=WEIGHT), SOME),
        (nn.CrossEntropyLoss(label_smoothing=0.1), SOME),
        (nn.CrossEntropyLoss(label_smoothing=0.1), SHARES),
        (nn.SmoothL1Loss(beta=0.3), VALUES),
        (nn.SmoothL1Loss(beta=0.3, reduction="sum"), VALUES),
        (nn.SmoothL1Loss(beta=0.0), VALUES),
        (f.mse_loss, VALUES),
        (functools.partial(f.huber_loss, delta=0.4), VALUES),
        (functools.partial(f.cross_entropy, weight=WEIGHT, ignore_index=-100), SOME),
        (f.binary_cross_entropy_with_logits, SHARES),
    ],
    ids=["weights", "weights, sum", "weights, ignored", "smoothing, ignored", "smoothing, probabilities", "beta",
         "beta, sum", "beta 0", "mse_loss", "huber_loss", "cross_entropy", "binary"],
)  # fmt: skip
def test_every_loss_with_its_options_is_certified(loss: Any, target: Any) -> None:
    report = judged(loss, target)
    assert report.verdict == "CERTIFIED", report
    assert "(kernel)" in str(report)
    assert report.native == {
        "trunk.0.weight": "kernel", "trunk.0.bias": "offset",
        "heads.a.0.weight": "out.weight", "heads.a.0.bias": "out.bias",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "target", "named"),
    [
        (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), CLASSES, "CrossEntropyLoss with weight"),
        (nn.CrossEntropyLoss(weight=WEIGHT), SHARES, "CrossEntropyLoss with weight"),
        (nn.BCEWithLogitsLoss(pos_weight=WEIGHT), SHARES, "BCEWithLogitsLoss with pos_weight"),
        (nn.PoissonNLLLoss(), SHARES, "PoissonNLLLoss"),
    ],
    ids=["weights and smoothing", "weights of probabilities", "pos_weight", "another"],
)
def test_other_losses_are_refused_by_name_and_judged_all_the_same(loss: Any, target: Any, named: str) -> None:
    report = judged(loss, target)
    assert report.verdict == "CONSISTENT", report
    assert named in report.refusal
    with pytest.raises(Unsupported, match=named):
        judged(loss, target, mode="staged")


def test_a_loss_that_is_not_what_its_options_say_is_refuted() -> None:
    class Halved(nn.CrossEntropyLoss):  # type: ignore[misc, name-defined]
        def forward(self, z: Any, y: Any) -> Any:
            return super().forward(z, y) / 2.0

    # Under its own name it would be another loss; under PyTorch's it is a wrong one.
    Halved.__name__ = "CrossEntropyLoss"
    assert "CrossEntropyLoss" in judged(Halved(weight=WEIGHT), CLASSES).refusal
    wrong = nn.CrossEntropyLoss(weight=WEIGHT)
    wrong.register_forward_hook(lambda _m, _given, value: value * 1.00001)
    report = judged(wrong, CLASSES)
    assert report.verdict in {"REFUTED", "REFUTED_STATISTICAL"}, report


def test_outputs_of_two_inputs_are_not_taken_for_one_trunk() -> None:
    class Two(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, x: Any, y: Any) -> Any:
            return self.a(x), self.b(y)

    losses = {"a": nn.MSELoss(), "b": nn.MSELoss()}
    report = pe.verify(Two(), (VALUES, SHARES), {"a": SHARES, "b": VALUES[:, :1]}, losses=losses)
    assert "different inputs" in report.refusal
    assert report.verdict == "CONSISTENT", report
    assert report.reach == {
        "a": {"a.weight": "reached", "a.bias": "reached", "b.weight": "untouched", "b.bias": "untouched"},
        "b": {"a.weight": "untouched", "a.bias": "untouched", "b.weight": "reached", "b.bias": "reached"},
    }
