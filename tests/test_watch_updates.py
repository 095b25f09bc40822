"""Steps on models that the engine does not know are named by replaying them with the framework's own gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pyengine as pe

torch = pytest.importorskip("torch")
nn = torch.nn

WEIGHTS = {"class": 1.0, "value": 0.5}


class Convolutions(nn.Module):
    """A small CNN with pooling; with batch norm between, and dropout, if asked."""

    def __init__(self, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        between = [nn.BatchNorm2d(6)] if norm else []
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 6, 3), *between, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.Dropout(dropout),
            nn.GELU(), nn.Flatten(),
        )  # fmt: skip
        self.a, self.b = nn.Linear(8, 4), nn.Linear(8, 1)

    def forward(self, x: Any) -> dict[str, Any]:
        h = self.trunk(x)
        return {"class": self.a(h), "value": self.b(h)}


class Transformer(nn.Module):
    """Embedding, one block of attention, a head for each token's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.a, self.b = nn.Linear(8, 4), nn.Linear(8, 1)

    def forward(self, x: Any) -> dict[str, Any]:
        h = self.block(self.embedding(x)).mean(dim=1)
        return {"class": self.a(h), "value": self.b(h)}


LOSSES = {"class": nn.CrossEntropyLoss(), "value": nn.MSELoss()}


def batch(kind: str) -> tuple[Any, dict[str, Any]]:
    x = torch.randint(0, 20, (16, 6)) if kind == "transformer" else torch.randn(16, 1, 8, 8)
    return x, {"class": torch.randint(0, 4, (16,)), "value": torch.randn(16, 1)}


def model(kind: str) -> nn.Module:
    return {"cnn": Convolutions, "norm": lambda: Convolutions(norm=True), "transformer": Transformer}[kind]()


def watched(kind: str, how: str, optimizer: Callable[..., Any], own: nn.Module | None = None) -> Any:
    """Three honest steps, then one that is watched."""
    torch.manual_seed(0)
    given = model(kind) if own is None else own
    (x, targets), opt = batch(kind), optimizer(given.parameters())

    def terms() -> Iterator[Any]:
        outputs = given(x)
        return (WEIGHTS[name] * loss(outputs[name], targets[name]) for name, loss in LOSSES.items())

    def stepped(*totals: Any) -> None:
        for total in totals:
            opt.zero_grad()
            total().backward()
            opt.step()

    for _ in range(3):
        stepped(lambda: sum(terms()))
    with pe.watch(given, LOSSES, opt, WEIGHTS) as seen:
        if how == "in turn":
            stepped(lambda: next(terms()), lambda: list(terms())[1])
        else:
            stepped(
                {
                    "summed": lambda: sum(terms()),
                    "averaged": lambda: sum(terms()) / 2,
                    "missing loss": lambda: next(terms()),
                    "doubled": lambda: 2 * sum(terms()),
                }[how]
            )
    return seen.report(x, targets)


def adam(parameters: Any) -> Any:
    return torch.optim.Adam(parameters, lr=1e-2)


def decayed(parameters: Any) -> Any:
    """Options that no float64 rule of the package models."""
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1, amsgrad=True)


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True)


@pytest.mark.parametrize("kind", ["cnn", "norm", "transformer"])
@pytest.mark.parametrize("optimizer", [adam, decayed, sgd])
def test_a_step_on_the_sum_is_named_summed(kind: str, optimizer: Callable[..., Any]) -> None:
    report = watched(kind, "summed", optimizer)
    assert report.verdict == "CONSISTENT"
    assert report.update.verdict == "summed"


@pytest.mark.parametrize("kind", ["cnn", "norm", "transformer"])
@pytest.mark.parametrize("how", ["averaged", "in turn", "missing loss"])
@pytest.mark.parametrize("optimizer", [adam, sgd])
def test_another_step_is_named(kind: str, how: str, optimizer: Callable[..., Any]) -> None:
    report = watched(kind, how, optimizer)
    assert report.verdict == "INCONSISTENT"
    assert report.update.verdict == how


def test_a_gradient_twice_as_large_is_no_hypothesis_but_another_gradient() -> None:
    report = watched("cnn", "doubled", adam)
    assert report.verdict == "INCONSISTENT"
    assert report.update.verdict == "another gradient"


def test_the_misfit_of_a_loss_that_weighs_little_too_much_is_beyond_one() -> None:
    """What two routes measure must tell a weight that is off by a part in a thousand."""
    torch.manual_seed(0)
    given, (x, targets) = Convolutions(), batch("cnn")
    opt = sgd(given.parameters())
    with pe.watch(given, LOSSES, opt, WEIGHTS) as seen:
        outputs = given(x)
        (LOSSES["class"](outputs["class"], targets["class"])
         + 0.5 * 1.001 * LOSSES["value"](outputs["value"], targets["value"])).backward()  # fmt: skip
        opt.step()
    report = seen.report(x, targets)
    assert report.verdict != "CONSISTENT"
    assert report.update.hypotheses[0].misfit > 1.0


def test_dropout_that_is_off_is_replayed() -> None:
    assert watched("cnn", "summed", adam, Convolutions(dropout=0.5).eval()).update.verdict == "summed"


def test_the_batch_before_is_named_where_it_is_known() -> None:
    torch.manual_seed(0)
    given = Convolutions()
    old, new = batch("cnn"), batch("cnn")
    opt = adam(given.parameters())
    with pe.watch(given, LOSSES, opt, WEIGHTS) as seen:
        outputs = given(old[0])
        sum(WEIGHTS[n] * loss(outputs[n], old[1][n]) for n, loss in LOSSES.items()).backward()
        opt.step()
    assert seen.report(*new, previous=old).update.verdict == "previous batch"
    assert seen.report(*old).update.verdict == "summed"


@pytest.mark.parametrize("clipping", [True, False])
def test_clipping_that_is_declared_is_replayed_and_missed(clipping: bool) -> None:
    torch.manual_seed(0)
    given, (x, targets) = Convolutions(), batch("cnn")
    opt = sgd(given.parameters())
    with pe.watch(given, LOSSES, opt, WEIGHTS, clip_norm=0.1) as seen:
        outputs = given(x)
        sum(WEIGHTS[n] * loss(outputs[n], targets[n]) for n, loss in LOSSES.items()).backward()
        if clipping:
            nn.utils.clip_grad_norm_(given.parameters(), 0.1)
        opt.step()
    report = seen.report(x, targets)
    assert report.update.verdict == ("summed" if clipping else "not clipped")
    assert report.verdict == ("CONSISTENT" if clipping else "INCONSISTENT")


def test_reports_as_json_have_the_update_and_say_what_was_not_judged() -> None:
    data = watched("cnn", "averaged", adam).to_dict()
    assert data["update"]["verdict"] == "averaged"
