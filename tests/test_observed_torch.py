"""PyTorch modules that the engine does not know: everything that needs only the framework is judged all the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pyengine as pe
from pyengine import digits as packaged

torch = pytest.importorskip("torch")
nn = torch.nn


class Convolutions(nn.Module):  # type: ignore[misc, name-defined]
    """Two convolutions with batch norm, pooling and dropout that is on, and two heads."""

    def __init__(self, change: Callable[[Any], Any] = lambda h: h) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.two, self.drop = nn.Conv2d(8, 16, 3, padding=1), nn.Dropout(0.3)
        self.digit, self.ink = nn.Linear(64, 10), nn.Linear(64, 1)
        self.change = change

    def forward(self, x: Any) -> Any:
        h = nn.functional.max_pool2d(torch.relu(self.norm(self.one(x))), 2)
        h = self.drop(nn.functional.max_pool2d(torch.relu(self.two(h)), 2).flatten(1))
        return {"digit": self.digit(h), "ink": self.ink(self.change(h))}


class Block(nn.Module):  # type: ignore[misc, name-defined]
    """Embeddings, one transformer block with dropout that is on, and two heads in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens = nn.Embedding(17, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.digit, self.ink = nn.Linear(16, 10), nn.Linear(16, 1)
        self.idle = nn.Linear(3, 3)

    def forward(self, x: Any) -> Any:
        h = self.block(self.tokens(x)).mean(1)
        return self.digit(h), self.ink(h)


LOSSES = {"digit": nn.CrossEntropyLoss(), "ink": nn.MSELoss()}
WEIGHTS = {"digit": 1.0, "ink": 0.3}


def digits(batch: int = 48) -> tuple[Any, dict[str, Any]]:
    data = packaged.load()
    x = torch.as_tensor(data.x[:batch]).reshape(batch, 1, 8, 8)
    targets = {"digit": torch.as_tensor(data.digit[:batch]), "ink": torch.as_tensor(data.ink[:batch, :1])}
    return x, targets


def judged(model: Any, x: Any, targets: Any) -> pe.Verification:
    report = pe.verify(model, x, targets, losses=LOSSES, loss_weights=WEIGHTS)
    json.loads(report.to_json())
    assert str(report)
    return report


def test_a_convolutional_network_is_judged_by_its_framework() -> None:
    model = Convolutions()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = judged(model, *digits())
    assert report.verdict == "CONSISTENT", report
    assert report.combination is not None
    assert report.combination.verdict == "summed"
    assert {s.outcome for s in report.slopes} == {"holds"}
    assert report.routes is not None
    assert report.routes.smallest_scale < 1e-5
    assert "Dropout at 'drop'" in report.not_judged["stages"]
    assert report.reach["digit"]["one.weight"] == "reached"
    assert report.reach["digit"]["ink.weight"] == "untouched"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_transformer_block_is_judged_and_its_idle_layer_named() -> None:
    x, targets = digits(24)
    report = judged(Block(), x.reshape(24, 64)[:, ::4].mul(16).round().long().clamp(0, 16), targets)
    assert report.verdict == "CONSISTENT", report
    assert report.combination is not None
    assert report.combination.verdict == "summed"
    assert "no loss reaches idle.weight, idle.bias" in str(report)


def test_a_model_that_is_only_batch_norm_away_from_dense_is_judged() -> None:
    x, targets = digits()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 10))
    report = pe.verify(model, x, targets, losses={"digit": nn.CrossEntropyLoss()})
    assert report.verdict == "CONSISTENT", report
    assert {s.outcome for s in report.slopes} == {"holds"}


class Scaled(torch.autograd.Function):  # type: ignore[misc, name-defined]
    """A wrong backward pass: the gradient comes out 1e-5 too large."""

    @staticmethod
    def forward(_ctx: Any, h: Any) -> Any:
        return h.clone()

    @staticmethod
    def backward(_ctx: Any, *grads: Any) -> Any:
        return grads[0] * 1.00001


def test_a_wrong_backward_pass_is_caught_by_finite_differences() -> None:
    report = judged(Convolutions(Scaled.apply), *digits())
    assert report.verdict == "INCONSISTENT", report
    assert {s.loss for s in report.slopes if s.outcome == "differs"} == {"ink"}
    # The fault lies behind the ink head: its own parameters get the right gradient.
    assert "ink.weight" not in {s.along for s in report.slopes if s.outcome == "differs"}


def test_a_gradient_that_is_stopped_on_its_way_is_named() -> None:
    report = judged(Convolutions(lambda h: h.detach()), *digits())
    assert report.verdict == "INCONSISTENT", report
    assert report.reach["ink"]["one.weight"] == "detached"
    assert report.reach["ink"]["ink.weight"] == "reached"
    assert report.reach["digit"]["ink.weight"] == "untouched"


def test_a_gradient_that_underflows_on_its_way_is_not_called_detached() -> None:
    report = judged(Convolutions(lambda h: h * 1e-30 * 1e-30), *digits())
    assert report.verdict == "CONSISTENT", report
    assert report.reach["ink"]["one.weight"] == "vanished"
    assert report.reach["ink"]["ink.bias"] == "reached"
    assert report.reach["digit"]["ink.weight"] == "untouched"


def test_a_clipped_gradient_cannot_be_compared() -> None:
    model = Convolutions()
    model.one.weight.register_hook(lambda g: g / g.norm())
    report = judged(model, *digits())
    assert report.verdict == "INCONCLUSIVE", report
    assert "not linear" in report.answer
    assert "one.weight" in report.answer


def test_randomness_that_no_seed_controls_is_reported() -> None:
    noise = np.random.default_rng(0)
    report = judged(Convolutions(lambda h: h * float(noise.uniform(0.9, 1.1))), *digits())
    assert "differ" in report.not_judged["differences"]
    assert not report.slopes


def test_a_loss_that_is_not_known_is_judged_without_the_engine() -> None:
    x, targets = digits()
    model = nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 1))

    def quartic(z: Any, y: Any) -> Any:
        return ((z - y) ** 4).mean()

    report = pe.verify(model, x.reshape(48, 64), {"ink": targets["ink"]}, losses={"ink": quartic})
    assert report.verdict == "CONSISTENT", report
    assert "quartic" in report.refusal
    with pytest.raises(ValueError, match="quartic"):
        pe.verify(model, x.reshape(48, 64), {"ink": targets["ink"]}, losses={"ink": quartic}, mode="staged")
    with pytest.raises(ValueError, match=r"returns shape \(48, 1\)"):
        pe.verify(model, x.reshape(48, 64), {"ink": targets["ink"]}, losses={"ink": nn.MSELoss(reduction="none")})


def test_a_float32_inside_is_no_float64_and_the_check_says_so() -> None:
    report = judged(Convolutions(lambda h: h.float().to(h.dtype)), *digits())
    assert report.verdict == "CONSISTENT", report
    assert {s.outcome for s in report.slopes if s.loss == "ink"} == {"cannot tell"}
    assert {s.outcome for s in report.slopes if s.loss == "digit"} == {"holds"}
    assert "the slope of ink cannot be measured" in report.not_judged["differences"]


class Spectral(nn.Module):  # type: ignore[misc]
    """A trunk under spectral norm, which estimates singular vectors in every training pass."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.factor = factor
        self.trunk = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(64, 16))
        self.digit, self.ink = nn.Linear(16, 10), nn.Linear(16, 1)

    def forward(self, x: Any) -> Any:
        h = torch.relu(self.trunk(x.flatten(1)))
        # The value of h, with a gradient that is wrong by a factor.
        h = h.detach() + self.factor * (h - h.detach())
        return self.digit(h), self.ink(h)


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "CONSISTENT"), (1.001, "INCONSISTENT")])
def test_what_spectral_norm_estimates_is_held_where_slopes_are_measured(factor: float, verdict: str) -> None:
    report = judged(Spectral(factor), *digits())
    assert report.verdict == verdict, report
    assert {slope.outcome for slope in report.slopes if slope.along == "random signs"} == {
        "holds" if factor == 1.0 else "differs"
    }


@pytest.mark.parametrize("which", [0, 1])
def test_a_step_under_spectral_norm_is_judged_with_the_estimates_of_its_pass(which: int) -> None:
    model, (x, targets) = Spectral(), digits()
    losses = {"digit": nn.CrossEntropyLoss(), "ink": nn.MSELoss()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pe.watch(model, losses=losses, optimizer=optimizer) as seen:
        for weight in (1.0, 1.0 + which):
            optimizer.zero_grad()
            digit, ink = model(x)
            (losses["digit"](digit, targets["digit"]) + weight * losses["ink"](ink, targets["ink"])).backward()
            optimizer.step()
    assert seen.report(x, targets, step=0).verdict == "CONSISTENT"
    assert seen.report(x, targets, step=1).verdict == ("INCONSISTENT" if which else "CONSISTENT")


@pytest.mark.parametrize("kind", ["activations", "weights", "inside a function"])
def test_a_bfloat16_inside_makes_plateaus_and_no_false_alarm(kind: str) -> None:
    class Cast(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.trunk, self.norm = nn.Linear(64, 16), nn.LayerNorm(16)
            self.digit, self.ink = nn.Linear(16, 10), nn.Linear(16, 1)

        def forward(self, x: Any) -> Any:
            h = torch.relu(self.norm(self.trunk(x.flatten(1))))
            if kind == "activations":
                h = h.bfloat16().to(x.dtype)
            if kind == "inside a function":
                h = torch.utils.checkpoint.checkpoint(
                    lambda h: (2.0 * h.bfloat16()).to(x.dtype), h, use_reentrant=False
                )
            if kind != "weights":
                return self.digit(h), self.ink(h)

            def narrow(layer: Any) -> Any:
                own = h.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16()
                return torch.nn.functional.linear(*own).to(x.dtype)

            return narrow(self.digit), narrow(self.ink)

    report = judged(Cast(), *digits())
    assert report.verdict == "CONSISTENT", report
    assert "computes in bfloat16" in report.unjudged["differences"]
