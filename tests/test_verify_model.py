"""``pe.verify`` on the models that people have: PyTorch modules, the engine itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from refusals import refused
from test_verify_gradients import shared_two

import pyengine as pe
from pyengine.errors import Unsupported

torch = pytest.importorskip("torch")
nn = torch.nn


class Shared(nn.Module):  # type: ignore[misc, name-defined]
    """A trunk with two heads, written as people write it; ``wrong`` plants what they get wrong."""

    def __init__(self, act: Any = None, wrong: str = "", dtype: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(12, 24), nn.Linear(24, 16, bias=False)
        self.act = act if act is not None else nn.ReLU()
        self.digit = nn.Linear(16, 10)
        self.ink = nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.Linear(8, 2))
        self.wrong = wrong
        self.to(dtype or torch.float32)

    def forward(self, x: Any) -> Any:
        h = torch.tanh(self.second(self.act(self.first(x))))
        return {"digit": self.digit(h), "ink": self.ink(h.detach() if self.wrong == "detached" else h)}


LOSSES = {"digit": nn.CrossEntropyLoss(), "ink": nn.MSELoss()}


def batch(dtype: Any = None) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(1)
    x, y = torch.randn(64, 12), torch.randn(64, 2)
    kind = dtype or torch.float32
    return x.to(kind), {"digit": torch.randint(0, 10, (64,)), "ink": y.to(kind)}


@pytest.mark.parametrize(
    "act",
    [nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.2), nn.ELU(), nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.SiLU(),
     nn.GELU(), nn.GELU(approximate="tanh"), nn.Identity()],
    ids=repr,
)  # fmt: skip
def test_torch_module_is_certified(act: Any) -> None:
    report = pe.verify(Shared(act), *batch(), losses=LOSSES, loss_weights={"ink": 0.5})
    assert report.verdict == "CERTIFIED", report
    assert report
    assert report.combination is not None
    assert report.combination.verdict == "summed"
    assert [a.configured for a in report.combination.alpha.values()] == [1.0, 0.5]
    data = json.loads(report.to_json())
    assert len(data["stages"]) > 20
    assert {p["native"] for p in data["parameters"]} >= {"first.weight", "ink.2.bias"}


def test_torch_in_float64_is_certified() -> None:
    report = pe.verify(Shared(dtype=torch.float64), *batch(torch.float64), losses=LOSSES)
    assert report.verdict == "CERTIFIED", report


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (nn.L1Loss(), torch.zeros(64, 2)),
        (nn.HuberLoss(delta=0.3), torch.zeros(64, 2)),
        (nn.SmoothL1Loss(), torch.zeros(64, 2)),
        (nn.BCEWithLogitsLoss(), torch.ones(64, 2)),
        (nn.MSELoss(reduction="sum"), torch.zeros(64, 2)),
    ],
    ids=repr,
)
def test_torch_losses_are_certified(loss: Any, target: Any) -> None:
    x, targets = batch()
    report = pe.verify(Shared(), x, {**targets, "ink": target}, losses={**LOSSES, "ink": loss})
    assert report.verdict == "CERTIFIED", report


class Probable(Shared):
    """With a sigmoid on the second head."""

    def forward(self, x: Any) -> Any:
        found = super().forward(x)
        return {**found, "ink": torch.sigmoid(found["ink"])}


@pytest.mark.parametrize(
    "loss",
    [nn.BCELoss(), nn.BCELoss(reduction="sum"), torch.nn.functional.binary_cross_entropy],
    ids=["object", "sum", "function"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_of_a_sigmoid_are_certified(loss: Any, dtype: Any) -> None:
    x, targets = batch(dtype)
    for target in (torch.rand(64, 2, dtype=dtype), (targets["ink"] > 0.0).to(dtype)):
        report = pe.verify(Probable(dtype=dtype), x, {**targets, "ink": target}, losses={**LOSSES, "ink": loss})
        assert report.verdict == "CERTIFIED", report


def test_saturated_probabilities_are_named_and_judged_by_the_framework_alone() -> None:
    model, (x, targets) = Probable(), batch()
    binary = {**targets, "ink": (targets["ink"] > 0.0).float()}
    losses = {**LOSSES, "ink": nn.BCELoss()}
    with torch.no_grad():
        model.ink[-1].bias[0] = 40.0
    wrong = int((binary["ink"][:, 0] == 0.0).sum())
    report = pe.verify(model, x, binary, losses=losses)
    assert report.verdict == "CONSISTENT", report
    assert f"{wrong} probabilities within rounding of 0 or 1" in report.refusal
    # Right and sure: the gradient is 0 to rounding, and so is what PyTorch makes of it.
    assert pe.verify(model, x, {**binary, "ink": torch.ones(64, 2)}, losses=losses).verdict == "CERTIFIED"


@pytest.mark.parametrize(
    ("model", "dtype", "said"),
    [(Shared(), None, "after linear"), (Probable(dtype=torch.bfloat16), torch.bfloat16, "in bfloat16")],
    ids=["linear", "bfloat16"],
)
def test_probabilities_from_elsewhere_fail(model: Any, dtype: Any, said: str) -> None:
    x, targets = batch(dtype)
    with pytest.raises(ValueError, match=said):
        pe.verify(
            model, x, {**targets, "ink": torch.ones_like(targets["ink"])}, losses={**LOSSES, "ink": nn.BCELoss()},
            mode="staged",
        )  # fmt: skip


def test_the_model_is_left_as_it_was() -> None:
    model = Shared()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pe.verify(model, *batch(), losses=LOSSES)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_outputs_in_a_tuple_take_the_order_of_the_losses() -> None:
    class Pair(Shared):
        def forward(self, x: Any) -> Any:
            return tuple(super().forward(x).values())

    assert pe.verify(Pair(), *batch(), losses=LOSSES).verdict == "CERTIFIED"


def test_a_detached_loss_is_refuted_and_named() -> None:
    report = pe.verify(Shared(wrong="detached"), *batch(), losses=LOSSES)
    assert not report
    assert {how for name, how in report.reach["ink"].items() if name.startswith("trunk.")} == {"detached"}
    assert report.combination is not None
    assert report.combination.verdict == "missing loss"


def test_a_wrong_backward_pass_is_refuted() -> None:
    model = Shared()
    model.second.register_full_backward_hook(lambda _m, given, _out: tuple(g * 1.00001 for g in given))
    report = pe.verify(model, *batch(), losses=LOSSES)
    assert report.verdict in {"REFUTED", "REFUTED_STATISTICAL", "INCONSISTENT"}, report


def test_what_the_engine_does_not_know_is_refused_by_name() -> None:
    x, targets = batch()
    model = Shared(nn.BatchNorm1d(24))
    refused(
        lambda: pe.verify(model, x, targets, losses=LOSSES, mode="staged"),
        Unsupported, "model", "BatchNorm1d at 'act'", "Linear",
    )  # fmt: skip
    refused(lambda: pe.verify(Shared(), x, targets), ValueError, "losses", "missing", "loss object")
    refused(lambda: pe.verify(object(), x, targets), TypeError, "model", "object", "torch.nn.Module")
    refused(lambda: pe.verify(Shared(), x, targets, losses=LOSSES, mode="fast"), ValueError, "mode", "'fast'")  # type: ignore[arg-type]
    other = {"digit": LOSSES["digit"], "colour": LOSSES["ink"]}
    refused(lambda: pe.verify(Shared(), x, {**targets, "colour": x}, losses=other), ValueError, "losses", "colour")


def test_the_engine_itself_is_consistent() -> None:
    given = shared_two()
    report = pe.verify((given.net, given.params), given.x, given.targets)
    assert report.verdict == "CONSISTENT"
    refused(
        lambda: pe.verify((given.net, given.params), given.x, given.targets, mode="staged"),
        ValueError, "mode", "'staged' for the engine",
    )  # fmt: skip
