"""Random correct networks: a seed has one network, whoever computes it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from problems import Problem

import pyengine as pe
from pyengine.activations import ACTIVATIONS
from pyengine.losses import LOSSES, REDUCTIONS

Array = np.ndarray[Any, Any]


def drawn(seed: int, dtype: str = "float32") -> Problem:
    """Trunk of depth 1 to 6, widths 4 to 1024, batch 1 to 1024, all log-uniform; every activation; two heads or three.

    One head has a cross-entropy, one the mean squared error, a third in every fourth network any loss. Targets are
    classes or probabilities; reductions, sample weights, label smoothing and the scales of inputs and weights vary.
    """
    rng = np.random.default_rng([seed, 20261124])
    kinds = list(ACTIVATIONS)

    def width(most: int = 1024, least: int = 4) -> int:
        return round(math.exp(rng.uniform(math.log(least), math.log(most))))

    def activation() -> str:
        return str(rng.choice(kinds))

    batch, n_in = width(least=1), width()
    trunk = [pe.Dense(width(), activation(), bool(rng.random() < 0.9)) for _ in range(int(rng.integers(1, 7)))]
    losses = ["softmax_cross_entropy", "mse", *([str(rng.choice(list(LOSSES)))] if rng.random() < 0.25 else [])]
    heads, targets = {}, {}
    for loss in losses:
        name = f"{loss}_again" if loss in heads else loss
        n_out = width(1000, 2) if loss.endswith("cross_entropy") else width(64, 1)
        hidden = [pe.Dense(width(256), activation())] if rng.random() < 0.4 else []
        options: dict[str, Any] = {"reduction": str(rng.choice(REDUCTIONS))}
        if loss in {"softmax_cross_entropy", "clipped_cross_entropy"} and rng.random() < 0.3:
            options["label_smoothing"] = 0.1
        weight = float(rng.choice([1.0, 0.3, 0.5, 2.0, -1.5]))
        heads[name] = pe.Head([*hidden, pe.Dense(n_out)], loss, weight=weight, **options)
        targets[name] = _target(rng, loss, batch, n_out, dtype)
    net = pe.Network(n_in, trunk, heads)
    params = net.init(seed, dtype)
    params.flat[:] += 0.02 * rng.standard_normal(params.flat.size).astype(dtype)
    params.flat[:] *= np.dtype(dtype).type(math.exp(rng.uniform(math.log(0.5), math.log(2.0))))
    scale = 10.0 ** rng.uniform(-1.0, 1.0)
    x = (scale * rng.standard_normal((batch, n_in))).astype(dtype)
    weights = rng.random(batch) + 0.01 if rng.random() < 0.3 else None
    return Problem(net, params, x, targets, weights)


def _target(rng: np.random.Generator, loss: str, batch: int, n_out: int, dtype: str) -> Array:
    values: Array = rng.standard_normal((batch, n_out)).astype(dtype)
    if loss in {"softmax_cross_entropy", "clipped_cross_entropy"}:
        if rng.random() < 0.7:
            return rng.integers(0, n_out, batch)
        values = np.abs(values)
        return np.asarray(values / values.sum(axis=1, keepdims=True))
    return np.clip(values, 0.0, 1.0) if loss.endswith("binary_cross_entropy") else values


def described(net: pe.Network) -> str:
    """The network in one line."""

    def line(layers: tuple[Any, ...]) -> str:
        return "-".join(f"{layer.n_out} {layer.activation.name}" for layer in layers)

    heads = ", ".join(f"{head.loss.name}/{head.loss.reduction} {line(head.layers)}" for head in net.heads.values())
    return f"{net.n_in}-{line(net.trunk)}: {heads}"
