"""Random dense networks, small enough that a framework compiles them fast: a seed has one, whoever builds it."""

from __future__ import annotations

from typing import Any

import numpy as np
from problems import Problem

import pyengine as pe
from pyengine.activations import ACTIVATIONS
from pyengine.losses import LOSSES

Array = np.ndarray[Any, Any]


def drawn(seed: int, dtype: str = "float32") -> Problem:
    """Trunk of depth 1 to 4, one to three heads, widths 2 to 96, batch 1 to 96; reductions, smoothing, weights vary.

    The seeds run through the activations and the losses: forty consecutive ones have them all, several times.
    """
    rng = np.random.default_rng([seed, 602221])
    kinds, losses = list(ACTIVATIONS), list(LOSSES)
    batch = int(rng.integers(1, 97))
    trunk = [
        pe.Dense(
            int(rng.integers(2, 97)), _activation(kinds[(seed + 3 * i) % len(kinds)], rng), bool(rng.random() < 0.8)
        )
        for i in range(1 + seed % 4)
    ]
    heads, targets = {}, {}
    for k in range(1 + (seed // 4) % 3):
        loss = losses[(seed + k) % len(losses)]
        n_out = int(rng.integers(2, 21)) if loss.endswith("cross_entropy") else int(rng.integers(1, 9))
        options: dict[str, Any] = {"reduction": str(rng.choice(["mean", "sum"]))}
        if loss == "huber":
            options["delta"] = float(rng.choice([0.3, 1.0, 1.7]))
        if loss in {"softmax_cross_entropy", "clipped_cross_entropy"}:
            options["label_smoothing"] = float(rng.choice([0.0, 0.0, 0.1]))
        hidden = [pe.Dense(int(rng.integers(2, 33)), _activation(str(rng.choice(kinds)), rng))] * int(
            rng.random() < 0.4
        )
        weight = float(rng.choice([1.0, 0.3, 0.5, 2.0]))
        heads[f"head{k}"] = pe.Head([*hidden, pe.Dense(n_out)], loss, weight=weight, **options)
        targets[f"head{k}"] = _target(rng, loss, batch, n_out, dtype)
    net = pe.Network(int(rng.integers(1, 97)), trunk, heads)
    params = net.init(seed, dtype)
    params.flat[:] += 0.05 * rng.standard_normal(params.flat.size).astype(dtype)
    x = rng.standard_normal((batch, net.n_in)).astype(dtype)
    return Problem(net, params, x, targets)


def _activation(name: str, rng: np.random.Generator) -> pe.Activation:
    if name == "leaky_relu":
        return pe.LeakyReLU(float(rng.choice([0.01, 0.2])))
    return ACTIVATIONS[name]()


def _target(rng: np.random.Generator, loss: str, batch: int, n_out: int, dtype: str) -> Array:
    if loss in {"softmax_cross_entropy", "clipped_cross_entropy"}:
        if rng.random() < 0.6:
            return rng.integers(0, n_out, batch)
        raw = rng.uniform(0.01, 1.0, (batch, n_out))
        return np.asarray(raw / raw.sum(axis=1, keepdims=True), dtype)
    if loss.endswith("binary_cross_entropy"):
        return rng.uniform(0.0, 1.0, (batch, n_out)).astype(dtype)
    return rng.standard_normal((batch, n_out)).astype(dtype)
