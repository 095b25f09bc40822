"""Faults of what surrounds the gradient: the reported losses, and the step that the optimizer takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..optimizers import SGD, Adam, Rule
from ..parameters import Array, Parameters
from ..witnesses import Log
from .cases import Case
from .fault import Evidence, Fault

RATE = 0.05


def reported(case: Case, change: Callable[[float, dict[str, float], float], Log] | None = None, size: float = 1) -> Log:
    """The log of a framework: float32 losses, and a total of them that is float32 too."""
    engine = case.net.gradients(*case.arguments[1:])
    losses = {name: float(np.float32(value)) for name, value in engine.losses.items()}
    total = float(np.float32(sum(head.weight * losses[name] for name, head in case.net.heads.items())))
    return Log(total, losses) if change is None else change(total, losses, size)


def _log(change: Callable[[float, dict[str, float], float], Log]) -> Any:
    return lambda case, size: Evidence(log=reported(case, change, size))


def moved(case: Case, rule: Rule, gradients: list[Array], *, states: int = 1) -> Parameters:
    """The parameters after steps on these gradients, one after the other; with several states, all from the start."""
    before = case.params.flat.astype(np.float64)
    if states > 1:
        steps = [rule.step(before, g, rule.start(before))[0] - before for g in gradients]
        return Parameters(case.net.layout, (before + np.sum(steps, axis=0)).astype(case.params.dtype))
    here, state = before, rule.start(before)
    for g in gradients:
        here, state = rule.step(here, g, state)
    return Parameters(case.net.layout, here.astype(case.params.dtype))


def total(case: Case, params: Parameters | None = None, only: str | None = None) -> Array:
    """Σ weight·gradient as the engine has it, or its part of one loss, as one vector in float64."""
    found = case.net.gradients(case.params if params is None else params, *case.arguments[2:])
    out = Parameters(case.net.layout, np.zeros(case.net.layout.size))
    for name, head in case.net.heads.items():
        if only in (None, name):
            for key, value in found.per_loss[name].items():
                out[key][...] += head.weight * value.astype(np.float64)
    return out.flat


def _step(rule: Rule, after: Callable[[Case, float], Parameters]) -> Any:
    """What was configured, and what was done."""
    return lambda case, size: Evidence(after=after(case, size), optimizer=rule)


def _in_turn(case: Case, size: float) -> Parameters:
    rule: Rule = Adam(RATE)
    here = case.params.flat.astype(np.float64)
    state = rule.start(here)
    for name in case.net.heads:
        params = Parameters(case.net.layout, here.astype(case.params.dtype))
        here, state = rule.step(here, total(case, params, only=name), state)
    return Parameters(case.net.layout, here.astype(case.params.dtype))


def _separate(case: Case, size: float) -> Parameters:
    return moved(case, Adam(RATE), [total(case, only=name) for name in case.net.heads], states=2)


def _uncorrected(case: Case, size: float) -> Parameters:
    """Adam without its bias correction."""
    g = total(case)
    step = RATE * 0.1 * g / (np.sqrt(0.001 * g * g) + 1e-7)
    return Parameters(case.net.layout, (case.params.flat - step).astype(case.params.dtype))


def _decayed(case: Case, size: float) -> Parameters:
    return moved(case, SGD(RATE), [total(case) + size * case.params.flat])


ADAM, PLAIN = Adam(RATE), SGD(RATE)

FAULTS = [
    Fault("hidden regularizer", "the reported total holds a term of ε times the rest",
          _log(lambda t, l, s: Log(t * (1.0 + s), l)), {"ledger": 1e-3}, "tiny", True,
          called={"ledger": "unexplained rest"}),
    Fault("total without weights", "the reported total adds the losses without their weights",
          _log(lambda t, l, s: Log(sum(l.values()), l)), {"ledger": 1.0}, "tiny",
          called={"ledger": "unexplained rest"}),
    Fault("loss missing in the total", "the reported total lacks a loss", _log(lambda t, l, s: Log(l["a"], l)),
          {"ledger": 1.0}, "tiny", called={"ledger": "unexplained rest"}),
    Fault("weighted losses reported", "a loss is reported with its weight",
          _log(lambda t, l, s: Log(t, {**l, "b": 0.5 * l["b"]})), {"ledger": 1.0}, "tiny",
          called={"ledger": "another loss"}),
    Fault("loss of another scale", "a reported loss is off by ε", _log(lambda t, l, s: Log(t, {**l, "a": l["a"] * (1 + s)})),
          {"ledger": 1e-2}, "tiny", True, called={"ledger": "another loss"}),
    Fault("running mean", "the losses are means over this batch and an earlier one",
          _log(lambda t, l, s: Log(1.1 * t, {n: 1.1 * v for n, v in l.items()})), {"ledger": 1.0}, "tiny",
          called={"ledger": "another loss"}),
    Fault("steps in turn", "Adam takes one step per loss, each at the weights that the last one left",
          _step(ADAM, _in_turn), {"update": 1.0}, "tiny", called={"update": "in turn"}),
    Fault("one optimizer per loss", "an Adam with a state of its own for every loss", _step(ADAM, _separate),
          {"update": 1.0}, "tiny", called={"update": "one optimizer per loss"}),
    Fault("step on the mean", "the step is taken on the mean of the losses",
          _step(PLAIN, lambda c, s: moved(c, PLAIN, [total(c) / 2.0])), {"update": 1.0}, "tiny",
          called={"update": "averaged"}),
    Fault("step without a loss", "the step is taken on one loss alone",
          _step(PLAIN, lambda c, s: moved(c, PLAIN, [total(c, only="a")])), {"update": 1.0}, "tiny"),
    Fault("step twice", "the step is taken twice", _step(PLAIN, lambda c, s: moved(c, PLAIN, [2.0 * total(c)])),
          {"update": 1.0}, "tiny"),
    Fault("learning rate", "the learning rate is off by ε",
          _step(PLAIN, lambda c, s: moved(c, SGD(RATE * (1.0 + s)), [total(c)])), {"update": 1e-1}, "tiny", True),
    Fault("epsilon of another framework", "Adam's epsilon stands where another framework has it",
          _step(Adam(RATE, epsilon=1e-2), lambda c, s: moved(c, Adam(RATE, epsilon=1e-2, style="torch"), [total(c)])),
          {"update": 1.0}, "tiny"),
    Fault("no bias correction", "Adam's moments are used as they are", _step(ADAM, _uncorrected), {"update": 1.0},
          "tiny"),
    Fault("decay in the step", "the step decays the weights by ε", _step(PLAIN, _decayed), {"update": 1e-1}, "tiny",
          True),
    Fault("no step", "the parameters stay", _step(ADAM, lambda c, s: c.net.parameters(c.params)), {"update": 1.0},
          "tiny"),
]  # fmt: skip


def honest(case: Case) -> list[Evidence]:
    """Logs and steps without a fault."""
    rules: list[Any] = [ADAM, PLAIN, Adam(RATE, style="torch"), replace(ADAM, beta_1=0.5)]
    steps = [Evidence(after=moved(case, rule, [total(case)]), optimizer=rule) for rule in rules]
    return [Evidence(log=reported(case)), *steps]
