"""Random and everyday networks with everything that a gradient needs, for the tests that compare routes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import pyengine as pe
from pyengine.activations import ACTIVATIONS
from pyengine.losses import LOSSES

Array = np.ndarray[Any, Any]


class Problem(NamedTuple):
    """The five arguments of every gradient computation."""

    net: pe.Network
    params: pe.Parameters
    x: Array
    targets: dict[str, Array]
    sample_weight: Array | None = None


def head_and_target(rng: np.random.Generator, dtype: str, batch: int, loss: str) -> tuple[pe.Head, Array]:
    n_out = int(rng.choice([1, 3, 8]))
    options: dict[str, Any] = {"reduction": rng.choice(pe.losses.REDUCTIONS)}
    if loss == "huber":
        options["delta"] = 0.3
    target: Array = rng.standard_normal((batch, n_out)).astype(dtype)
    if loss in {"softmax_cross_entropy", "clipped_cross_entropy"}:
        options["label_smoothing"] = float(rng.choice([0.0, 0.1]))
        target = np.abs(target) / np.abs(target).sum(axis=1, keepdims=True)
        if rng.random() < 0.5:
            target = rng.integers(0, n_out, batch)
    elif loss.endswith("binary_cross_entropy"):
        target = np.clip(target, 0, 1)
    hidden = [pe.Dense(4, str(rng.choice(list(ACTIVATIONS))))] if rng.random() < 0.5 else []
    return pe.Head([*hidden, pe.Dense(n_out)], loss, weight=float(rng.choice([1.0, 0.3, -2.5])), **options), target


def problem(seed: int, dtype: str) -> Problem:
    """A random network; the seeds run through all activations and losses."""
    rng = np.random.default_rng(seed)
    kinds, losses = list(ACTIVATIONS), list(LOSSES)
    batch = int(rng.choice([1, 2, 7, 20]))
    trunk = [
        pe.Dense(int(rng.choice([1, 3, 9])), kinds[(seed + 3 * i) % len(kinds)], bool(rng.random() < 0.8))
        for i in range(seed % 4)
    ]
    both = {
        f"head{k}": head_and_target(rng, dtype, batch, losses[(seed + k) % len(losses)])
        for k in range(1 + seed // 2 % 3)
    }
    net = pe.Network(int(rng.integers(1, 9)), trunk, {name: head for name, (head, _) in both.items()})
    params = net.init(seed, dtype)
    params.flat[:] += 0.1 * rng.standard_normal(params.flat.size).astype(dtype)
    params.flat[:] *= np.dtype(dtype).type(rng.choice([1, 3]))
    weights = rng.random(batch) + 0.01 if rng.random() < 0.5 else None
    x = rng.standard_normal((batch, net.n_in)).astype(dtype)
    return Problem(net, params, x, {name: target for name, (_, target) in both.items()}, weights)


def plain(dtype: str) -> Problem:
    """A small network of everyday shape, trunk 6-8-8, no unit near its kink."""
    heads = {
        "digit": pe.Head([pe.Dense(5)], "softmax_cross_entropy"),
        "ink": pe.Head([pe.Dense(4, "relu"), pe.Dense(2)], "mse", weight=0.5),
    }
    net = pe.Network(6, [pe.Dense(8, "relu"), pe.Dense(8, "tanh")], heads)
    rng = np.random.default_rng(3)
    params = net.init(1, dtype)
    params.flat[:] += 0.1 * rng.standard_normal(params.flat.size).astype(dtype)
    targets = {"digit": rng.integers(0, 5, 16), "ink": rng.standard_normal((16, 2)).astype(dtype)}
    return Problem(net, params, rng.standard_normal((16, 6)).astype(dtype), targets)
