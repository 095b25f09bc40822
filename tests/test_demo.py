"""The demo's question, asked of real frameworks: correct steps pass, loops with a planted fault are named."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pyengine import demo
from pyengine.adapters import from_keras, from_torch
from pyengine.checks.update import EXCHANGED, MEAN, OTHER, SEPARATE, SUM, TURN, WITHOUT
from pyengine.judge import judge
from pyengine.report import Report

WEIGHTS = demo.WEIGHTS
BATCH = 32

needs_keras = pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="Keras is not installed")
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


@pytest.mark.parametrize(
    "framework",
    [pytest.param("keras", marks=needs_keras), pytest.param("torch", marks=needs_torch), "builtin"],
)
@pytest.mark.parametrize("seed", [0, 7])
def test_one_step_is_one_step_on_the_weighted_sum(framework: Any, seed: int) -> None:
    report = demo.run(framework, seed=seed, batch=BATCH)
    assert report.verdict == "CONSISTENT", str(report)
    assert report.answer.startswith("Yes.")
    assert (report.combination.verdict, report.update.rule) == ("summed", SUM)
    assert report.update.applied.fits
    assert report.ledger is not None
    assert report.ledger.verdict == "balanced"
    assert report.reproduce == f"pyengine demo --framework {framework} --seed {seed} --batch {BATCH}"


def test_missing_frameworks_are_named_and_the_engine_steps_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any) -> Any:
        raise ModuleNotFoundError("No module named 'nowhere'")

    monkeypatch.setitem(demo.ROUTES, "keras", absent)
    monkeypatch.setitem(demo.ROUTES, "torch", absent)
    report = demo.run("auto", batch=8)
    assert report.subject.framework == "the built-in engine"
    assert any(note.startswith("Keras could not be used") for note in report.subject.notes)
    assert report.ok


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"framework": "theano"}, "framework"),
        ({"batch": 0}, "batch"),
        ({"batch": 1798}, "batch"),
        ({"seed": -1}, "seed"),
    ],
)
def test_demo_with_wrong_arguments_fails(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"`{named}`"):
        demo.run(**{"framework": "builtin", **arguments})


# ------------------------------------------------------------------------------------------------- faults in PyTorch


def torch_loop(fault: Callable[[Any, dict[str, Any], Callable[[], dict[str, Any]]], None]) -> Report:
    """Judge a training step in which ``fault(optimizer, parameters, losses)`` does what it likes."""
    torch = from_torch.load()
    x, targets = demo.draw(0, BATCH)
    model = demo.torch_model(0)
    losses = {"digit": torch.nn.CrossEntropyLoss(), "ink": torch.nn.MSELoss()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    wanted = {name: torch.from_numpy(target) for name, target in targets.items()}

    def terms() -> dict[str, Any]:
        shared = model.trunk(torch.from_numpy(x))
        return {name: losses[name](model.heads[name](shared), wanted[name]) for name in losses}

    def step() -> None:
        fault(optimizer, dict(model.named_parameters()), terms)

    return judge(
        from_torch.observe_step(
            model, x, targets, losses=losses, loss_weights=WEIGHTS, optimizer=optimizer, step=step, call="a custom loop"
        )
    )


def torch_total(combine: Callable[[dict[str, Any]], Any]) -> Report:
    def fault(optimizer: Any, _: dict[str, Any], terms: Callable[[], dict[str, Any]]) -> None:
        optimizer.zero_grad()
        combine(terms()).backward()
        optimizer.step()

    return torch_loop(fault)


@needs_torch
@pytest.mark.parametrize(
    ("combine", "combination", "update"),
    [
        (lambda t: (t["digit"] + 0.5 * t["ink"]) / 2, "averaged", MEAN),
        (lambda t: t["digit"], "missing loss", f"{WITHOUT}: ink"),
        (lambda t: 0.5 * t["digit"] + t["ink"], "weights exchanged", EXCHANGED),
        (lambda t: (t["digit"] + 0.5 * t["ink"]) / 32, "scaled", OTHER),
    ],
    ids=["mean", "missing", "exchanged", "scaled"],
)
def test_torch_with_a_wrong_total_is_named(combine: Any, combination: str, update: str) -> None:
    report = torch_total(combine)
    assert (report.verdict, report.combination.verdict, report.update.rule) == ("INCONSISTENT", combination, update)
    assert report.answer.startswith("No.")


@needs_torch
def test_torch_with_weight_decay_in_the_loss_is_not_a_combination() -> None:
    def fault(optimizer: Any, parameters: dict[str, Any], terms: Callable[[], dict[str, Any]]) -> None:
        optimizer.zero_grad()
        found = terms()
        penalty = sum((p * p).sum() for p in parameters.values())
        (found["digit"] + 0.5 * found["ink"] + 0.01 * penalty).backward()
        optimizer.step()

    report = torch_loop(fault)
    assert (report.verdict, report.combination.verdict) == ("INCONSISTENT", "not a combination")


@needs_torch
@pytest.mark.parametrize("order", [("digit", "ink"), ("ink", "digit")])
def test_torch_stepping_per_loss_in_turn_is_named(order: tuple[str, str]) -> None:
    def fault(optimizer: Any, _: dict[str, Any], terms: Callable[[], dict[str, Any]]) -> None:
        for name in order:
            optimizer.zero_grad()
            (WEIGHTS[name] * terms()[name]).backward()
            optimizer.step()

    report = torch_loop(fault)
    assert (report.verdict, report.update.rule) == ("INCONSISTENT", f"{TURN}: {', '.join(order)}")


@needs_torch
def test_torch_with_one_optimizer_per_loss_is_named() -> None:
    def fault(_: Any, parameters: dict[str, Any], terms: Callable[[], dict[str, Any]]) -> None:
        torch = from_torch.load()
        found = terms()
        gradients = {
            name: torch.autograd.grad(
                WEIGHTS[name] * loss, list(parameters.values()), retain_graph=True, allow_unused=True
            )
            for name, loss in found.items()
        }
        for own in gradients.values():
            for parameter, gradient in zip(parameters.values(), own, strict=True):
                parameter.grad = gradient
            torch.optim.Adam(parameters.values(), lr=1e-3).step()
        for i, parameter in enumerate(parameters.values()):
            parameter.grad = sum(own[i] for own in gradients.values() if own[i] is not None)

    report = torch_loop(fault)
    assert (report.combination.verdict, report.update.rule) == ("summed", SEPARATE)
    assert report.verdict == "INCONSISTENT"


# --------------------------------------------------------------------------------------------------- faults in Keras


def keras_loop(fault: Callable[[Any, Callable[[Callable[[dict[str, Any]], Any]], None]], None]) -> Report:
    """Judge a step in which ``fault(model, descend)`` descends on totals of its own making, by TensorFlow's tape."""
    keras = from_keras.load()
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the custom loop is written for TensorFlow's tape")
    tensorflow = pytest.importorskip("tensorflow")
    x, targets = demo.draw(0, BATCH)
    model = demo.keras_model(0)
    model.optimizer.build(model.trainable_variables)
    wanted = {"digit": np.eye(10, dtype=np.float32)[targets["digit"]], "ink": targets["ink"]}

    def descend(combine: Callable[[dict[str, Any]], Any]) -> None:
        with tensorflow.GradientTape() as tape:
            digit, ink = model(x, training=True)
            terms = {
                "digit": keras.losses.CategoricalCrossentropy()(wanted["digit"], digit),
                "ink": keras.losses.MeanSquaredError()(wanted["ink"], ink),
            }
            total = combine(terms)
        gradients = tape.gradient(total, model.trainable_variables)
        pairs = zip(gradients, model.trainable_variables, strict=True)
        model.optimizer.apply_gradients([pair for pair in pairs if pair[0] is not None])

    return judge(from_keras.observe_step(model, x, targets, step=lambda: fault(model, descend), call="a custom loop"))


@needs_keras
@pytest.mark.parametrize(
    ("combine", "combination", "update"),
    [
        (lambda t: t["digit"] + 0.5 * t["ink"], "summed", SUM),
        (lambda t: (t["digit"] + 0.5 * t["ink"]) / 2, "averaged", MEAN),
        (lambda t: t["digit"] + 0.0 * t["ink"], "missing loss", f"{WITHOUT}: ink"),
        (lambda t: 0.5 * t["digit"] + t["ink"], "weights exchanged", EXCHANGED),
    ],
    ids=["sum", "mean", "missing", "exchanged"],
)
def test_keras_custom_total_is_named(combine: Any, combination: str, update: str) -> None:
    report = keras_loop(lambda _, descend: descend(combine))
    assert (report.combination.verdict, report.update.rule) == (combination, update)
    assert report.ok == (combination == "summed")


@needs_keras
@pytest.mark.parametrize("order", [("digit", "ink"), ("ink", "digit")])
def test_keras_stepping_per_loss_in_turn_is_named(order: tuple[str, str]) -> None:
    def fault(_: Any, descend: Callable[[Any], None]) -> None:
        for name in order:
            descend(lambda terms, name=name: WEIGHTS[name] * terms[name])

    report = keras_loop(fault)
    assert report.verdict == "INCONSISTENT"
    assert report.combination.verdict == "not a combination"
    assert report.update.rule == f"{TURN}: {', '.join(order)}"
    assert any("2 steps" in note for note in report.subject.notes)
