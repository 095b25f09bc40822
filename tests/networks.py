"""Small networks for comparing routes: every activation with every loss and reduction, and the extremes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import pyengine as pe
from pyengine.activations import ACTIVATIONS
from pyengine.losses import LOSSES, REDUCTIONS

Array = npt.NDArray[Any]
Weights = dict[str, Array]


@dataclass(frozen=True)
class Problem:
    """A network with a batch, every loss with sample weights or none."""

    net: pe.Network
    params: pe.Parameters
    x: Array
    targets: dict[str, Array]
    sample_weight: Weights | None

    @property
    def arguments(self) -> tuple[pe.Network, pe.Parameters, Array, dict[str, Array], Weights | None]:
        """What ``gradients`` of every route takes."""
        return self.net, self.params, self.x, self.targets, self.sample_weight


def problem(
    net: pe.Network, dtype: str = "float64", batch: int = 3, seed: int = 0, weighted: bool = True, classes: bool = False
) -> Problem:
    """Random parameters with biases, a random batch, and targets that fit the losses: classes or probabilities."""
    rng = np.random.default_rng(seed)
    params = net.init(seed, dtype)
    params.flat[:] += rng.normal(scale=0.3, size=params.flat.size).astype(dtype)
    targets, weights = {}, {}
    for name, head in net.heads.items():
        shape = (batch, head.layers[-1].n_out)
        if head.loss.target_kind == "values":
            targets[name] = rng.normal(size=shape).astype(dtype)
        elif classes and head.loss.target_kind == "classes":
            targets[name] = rng.integers(0, shape[1], batch)
        else:
            targets[name] = rng.uniform(size=shape).astype(dtype)
        # In float32, so that routes in either dtype are given the same numbers.
        weights[name] = rng.uniform(0.2, 2.0, batch).astype(np.float32)
    return Problem(
        net, params, rng.normal(size=(batch, net.n_in)).astype(dtype), targets, weights if weighted else None
    )


def pair(activation: Any, loss: str, reduction: str, dtype: str = "float64", **changes: Any) -> Problem:
    """A trunk layer and a head that both end in the activation, beside a second head."""
    net = pe.Network(
        n_in=3,
        trunk=[pe.Dense(4, activation)],
        heads={
            "first": pe.Head([pe.Dense(3, activation)], loss, weight=0.7, reduction=reduction),
            "second": pe.Head([pe.Dense(2, bias=False)], "mse", weight=-0.3),
        },
    )
    return problem(net, dtype, **{"weighted": reduction != "mean", **changes})


EVERY_PAIR = [
    (activation, loss, reduction) for activation in ACTIVATIONS for loss in LOSSES for reduction in REDUCTIONS
]
"""(activation, loss, reduction), all of them."""

SOME_PAIRS = [
    (activation, list(LOSSES)[i % len(LOSSES)], REDUCTIONS[(i + i // len(LOSSES)) % len(REDUCTIONS)])
    for i, activation in enumerate(ACTIVATIONS)
]
"""Each activation, loss and reduction at least once."""


def _single(
    *layers: pe.Dense, loss: str = "softmax_cross_entropy", n_in: int = 3, trunk: Any = (), **options: Any
) -> Any:
    return pe.Network(n_in, list(trunk), {"only": pe.Head(list(layers), loss, **options)})


def _zero_weights() -> Problem:
    case = problem(_single(pe.Dense(3), trunk=[pe.Dense(4, "relu"), pe.Dense(4, "leaky_relu"), pe.Dense(3, "elu")]))
    case.params.flat[:] = 0.0
    return case


def _logits(size: float, loss: str) -> Problem:
    case = problem(_single(pe.Dense(3, bias=False), loss=loss), batch=4)
    case.params.flat[:] = size * np.sign(case.params.flat) * (1.0 + np.arange(case.params.flat.size) / 16.0)
    return case


def _saturated(activation: str) -> Problem:
    case = problem(_single(pe.Dense(2), loss="mse", trunk=[pe.Dense(4, activation)]))
    case.params["trunk.0.weight"][...] *= 1e3
    return case


def _zero_sample_weights() -> Problem:
    case = problem(_single(pe.Dense(3), trunk=[pe.Dense(4, "tanh")]))
    assert case.sample_weight is not None
    case.sample_weight["only"][:] = 0.0
    return case


def _some_negative_sample_weights() -> Problem:
    case = problem(_single(pe.Dense(3), loss="huber", reduction="weighted_mean"), batch=4)
    assert case.sample_weight is not None
    case.sample_weight["only"][0] *= -0.5
    return case


def _three_heads() -> Problem:
    heads = {
        "a": pe.Head([pe.Dense(3)], "softmax_cross_entropy", label_smoothing=0.1),
        "b": pe.Head([pe.Dense(4, "tanh"), pe.Dense(2)], "mae", weight=2.0, reduction="sum"),
        "c": pe.Head([pe.Dense(1)], "binary_cross_entropy", weight=0.0),
    }
    return problem(pe.Network(3, [pe.Dense(4, "gelu"), pe.Dense(3, "silu")], heads), classes=True)


EXTREMES: dict[str, Callable[[], Problem]] = {
    "zero weights": _zero_weights,
    "batch of one": lambda: problem(_single(pe.Dense(3), trunk=[pe.Dense(4, "relu")]), batch=1),
    "widths of one": lambda: problem(_single(pe.Dense(1), n_in=1, trunk=[pe.Dense(1, "tanh")])),
    "no trunk": lambda: problem(_single(pe.Dense(4, "gelu"), pe.Dense(3)), classes=True),
    "three heads": _three_heads,
    "label smoothing of one": lambda: problem(_single(pe.Dense(3), label_smoothing=1.0), classes=True),
    "clipped, smoothed": lambda: problem(_single(pe.Dense(3), loss="clipped_cross_entropy", label_smoothing=0.3)),
    "zero sample weights": _zero_sample_weights,
    "a negative sample weight": _some_negative_sample_weights,
    "softmax, logits of 1e4": lambda: _logits(1e4, "softmax_cross_entropy"),
    "softmax, logits of 1e6": lambda: _logits(1e6, "softmax_cross_entropy"),
    "clipped, logits of 1e6": lambda: _logits(1e6, "clipped_cross_entropy"),
    "binary, logits of 1e6": lambda: _logits(1e6, "binary_cross_entropy"),
    "clipped binary, logits of 1e6": lambda: _logits(1e6, "clipped_binary_cross_entropy"),
    "binary, logits of 30": lambda: _logits(30.0, "binary_cross_entropy"),
    **{
        f"saturated {name}": (lambda name=name: _saturated(name))  # type: ignore[misc]
        for name in ("elu", "tanh", "sigmoid", "softplus", "silu", "gelu", "gelu_tanh")
    },
}
