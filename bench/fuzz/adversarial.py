"""Correct computations on data that breaks statistics: constant, repeated, tiny, huge, saturated, deep, at the kink."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from problems import Problem
from staged_runs import everyday

import pyengine as pe


def zero_init(given: Problem) -> Problem:
    return given._replace(params=given.net.parameters({name: 0 * value for name, value in given.params.items()}))


def constant_batch(given: Problem) -> Problem:
    same = {name: np.repeat(target[:1], len(target), axis=0) for name, target in given.targets.items()}
    return given._replace(x=np.full_like(given.x, 0.3), targets=same)


def repeated_samples(given: Problem) -> Problem:
    some = np.arange(len(given.x)) % 3
    return given._replace(x=given.x[some], targets={name: target[some] for name, target in given.targets.items()})


def repeated_features(given: Problem) -> Problem:
    return given._replace(x=np.repeat(given.x[:, :1], given.x.shape[1], axis=1))


def repeated_units(given: Problem) -> Problem:
    return _trunk_weights(given, lambda value: np.repeat(value[:1], len(value), axis=0))


def constant_weights(given: Problem) -> Problem:
    return _all_weights(given, lambda value: np.full_like(value, 0.7 / value.shape[1]))


def positive(given: Problem) -> Problem:
    params = {name: np.abs(value) for name, value in given.params.items()}
    return given._replace(params=given.net.parameters(params), x=np.abs(given.x))


def rank_one(given: Problem) -> Problem:
    return _all_weights(given, lambda value: np.outer(value[:, 0], value[0]))


def huge_logits(given: Problem) -> Problem:
    grown = {
        name: value * value.dtype.type(1e6) if name.startswith(("heads.a", "heads.digit")) else value
        for name, value in given.params.items()
    }
    return given._replace(params=given.net.parameters(grown))


def trained(given: Problem) -> Problem:
    """Gradient descent until the classes are nearly right, so that gradients cancel."""
    params = given.net.parameters(given.params)
    for _ in range(200):
        gradient = given.net.summed_gradient(params, given.x, given.targets)
        params.flat[:] -= params.dtype.type(0.05) * gradient.flat
    assert np.isfinite(params.flat).all()
    return given._replace(params=params)


def scaled_inputs(factor: float) -> Callable[[Problem], Problem]:
    return lambda given: given._replace(x=given.x * given.x.dtype.type(factor))


def _all_weights(given: Problem, changed: Callable[[Any], Any]) -> Problem:
    params = {name: value if value.ndim == 1 else changed(value) for name, value in given.params.items()}
    return given._replace(params=given.net.parameters(params))


def _trunk_weights(given: Problem, changed: Callable[[Any], Any]) -> Problem:
    params = {name: changed(value) if name.startswith("trunk") else value for name, value in given.params.items()}
    return given._replace(params=given.net.parameters(params))


DATA: dict[str, Callable[[Problem], Problem]] = {
    "zero init": zero_init,
    "constant batch": constant_batch,
    "repeated samples": repeated_samples,
    "repeated features": repeated_features,
    "repeated units": repeated_units,
    "constant weights": constant_weights,
    "positive": positive,
    "rank one": rank_one,
    "inputs of 1e-38": scaled_inputs(1e-38),
    "inputs of 1e-20": scaled_inputs(1e-20),
    "inputs of 1e6": scaled_inputs(1e6),
    "logits of 1e6": huge_logits,
    "trained": trained,
}
"""What may be done to any network with an everyday batch."""


def shaped(
    n_in: int, trunk: list[pe.Dense], classes: int, batch: int, *, activation: str = "relu", seed: int = 5
) -> Problem:
    """A network with a cross-entropy over ``classes`` and a mean squared error."""
    heads = {
        "a": pe.Head([pe.Dense(classes)], "softmax_cross_entropy"),
        "b": pe.Head([pe.Dense(16, activation), pe.Dense(2)], "mse", weight=0.5),
    }
    net = pe.Network(n_in, trunk, heads)
    rng = np.random.default_rng(seed)
    params = net.init(seed)
    params.flat[:] += 0.02 * rng.standard_normal(params.flat.size).astype("float32")
    targets = {"a": rng.integers(0, classes, batch), "b": rng.standard_normal((batch, 2)).astype("float32")}
    return Problem(net, params, rng.standard_normal((batch, n_in)).astype("float32"), targets)


def ten_thousand_classes() -> Problem:
    return shaped(32, [pe.Dense(64, "relu")], 10_000, 32)


def a_batch_of_8192() -> Problem:
    return shaped(16, [pe.Dense(32, "tanh"), pe.Dense(32, "relu")], 10, 8192)


def a_constant_batch_of_8192() -> Problem:
    return constant_batch(a_batch_of_8192())


def twenty_layers() -> Problem:
    return shaped(32, [pe.Dense(32, kind) for kind in ("relu", "tanh", "gelu", "silu") for _ in range(5)], 10, 64)


SHAPES: dict[str, Callable[[], Problem]] = {
    "10 000 classes": ten_thousand_classes,
    "batch of 8192": a_batch_of_8192,
    "constant batch of 8192": a_constant_batch_of_8192,
    "depth 20": twenty_layers,
    "depth 20, relu": lambda: shaped(32, [pe.Dense(32, "relu")] * 20, 10, 64),
}
"""Extreme shapes."""

CASES: dict[str, Callable[[], Problem]] = {
    **{
        f"{case}, {size}, {activation}": (
            lambda size=size, activation=activation, change=change: change(everyday(size, activation=activation))
        )
        for case, change in DATA.items()
        for size, activation in (("tiny", "relu"), ("small", "relu"), ("small", "tanh"))
    },
    **SHAPES,
}
"""All cases by name, each in float32."""
