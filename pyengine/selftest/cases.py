"""The correct computations that faults are planted into: networks with a batch, run by NumPy in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..activations import ACTIVATIONS
from ..batch import checked_batch
from ..bench.sizes import SIZES, WEIGHT_B, numbers
from ..checks.staged.recording import Tamper, recorded
from ..checks.staged.witnesses import Witnesses
from ..engine import Network
from ..losses import LOSSES
from ..parameters import Array, Parameters
from ..reference import loss_and_gradient
from ..spec import Dense, Head


@dataclass(frozen=True, eq=False)
class Case:
    """One network, its parameters and one batch."""

    name: str
    net: Network
    params: Parameters
    x: Array
    targets: Mapping[str, Array]
    sample_weight: Mapping[str, Array] | None = None
    seed: int = field(default=0, compare=False)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The first five arguments of every check."""
        return self.net, self.params, self.x, self.targets, self.sample_weight

    def run(self, tamper: Tamper | None = None) -> Witnesses:
        """The computation, with every number on the way."""
        return recorded(*self.arguments, tamper=tamper)

    @cached_property
    def truth(self) -> Witnesses:
        """The computation without a fault."""
        return self.run()

    def losses(self, witnesses: Witnesses) -> dict[str, float]:
        """The unweighted losses of what a computation arrived at, in float64."""
        dtype = self.params.dtype
        batch = checked_batch(self.x, self.targets, self.sample_weight, n_in=self.net.n_in, heads=self.net.heads,
                              dtype=dtype)  # fmt: skip
        return {
            name: loss_and_gradient(head.loss, witnesses.outputs[name].astype(np.float64), batch.heads[name], dtype)[0]
            for name, head in self.net.heads.items()
        }


def case(name: str, seed: int = 0, dtype: str = "float32") -> Case:
    """The case of that name. ``tiny`` to ``large`` are the networks of the benchmark."""
    if name in SIZES:
        held = numbers(SIZES[name], dtype, seed)
        parts = (SIZES[name].trunk, SIZES[name].a, SIZES[name].b)
        trunk, a, b = ([Dense(n, "relu") for n in widths] for widths in parts)
        heads = {
            "a": Head([*a[:-1], Dense(parts[1][-1])], "softmax_cross_entropy"),
            "b": Head([*b[:-1], Dense(parts[2][-1])], "mse", weight=WEIGHT_B),
        }
        net = Network(SIZES[name].n_in, trunk, heads)
        return Case(name, net, net.parameters(held.params), held.x, {"a": held.classes, "b": held.values}, None, seed)
    return CASES[name](seed, dtype)


def _drawn(name: str, net: Network, batch: int, seed: int, dtype: str, *, weighted: bool = False) -> Case:
    """Parameters with biases, a normal batch, and targets that fit the losses."""
    rng = np.random.default_rng([seed, len(net.layout.names)])
    params = net.init(seed, dtype)
    params.flat[:] += (0.1 * rng.standard_normal(params.flat.size)).astype(dtype)
    x = rng.standard_normal((batch, net.n_in)).astype(dtype)
    targets: dict[str, Array] = {}
    weights: dict[str, Array] = {}
    for head, spec in net.heads.items():
        n_out = spec.layers[-1].n_out
        if spec.loss.target_kind == "classes":
            targets[head] = rng.integers(0, n_out, batch)
        elif spec.loss.target_kind == "probabilities":
            targets[head] = rng.uniform(size=(batch, n_out)).astype(dtype)
        else:
            targets[head] = rng.standard_normal((batch, n_out)).astype(dtype)
        weights[head] = rng.uniform(0.2, 2.0, batch)
    return Case(name, net, params, x, targets, weights if weighted else None, seed)


def _every_activation(seed: int, dtype: str) -> Case:
    trunk = [Dense(48, name) for name in ACTIVATIONS if name != "linear"]
    heads = {
        "a": Head([Dense(8)], "softmax_cross_entropy"),
        "b": Head([Dense(2)], "huber", weight=0.5),
        "c": Head([Dense(3)], "binary_cross_entropy", weight=2.0),
    }
    return _drawn("every activation", Network(32, trunk, heads), 64, seed, dtype)


def _weighted(seed: int, dtype: str) -> Case:
    heads = {
        "a": Head([Dense(10)], "softmax_cross_entropy", reduction="weighted_mean"),
        "b": Head([Dense(16, "relu"), Dense(3)], "mse", weight=0.5),
    }
    net = Network(32, [Dense(64, "relu"), Dense(64, "tanh")], heads)
    return _drawn("sample weights", net, 96, seed, dtype, weighted=True)


def _soft(seed: int, dtype: str) -> Case:
    """Probabilities as targets whose rows do not sum to one."""
    heads = {
        "a": Head([Dense(10)], "softmax_cross_entropy", label_smoothing=0.1),
        "b": Head([Dense(4)], "mae", weight=0.5, reduction="sum"),
    }
    held = _drawn("probabilities", Network(32, [Dense(64, "relu")], heads), 96, seed, dtype)
    rng = np.random.default_rng(seed)
    return Case(held.name, held.net, held.params, held.x,
                {**held.targets, "a": (rng.dirichlet(np.ones(10), 96) * rng.uniform(0.5, 1.5, (96, 1))).astype(dtype)},
                None, seed)  # fmt: skip


def _confident(loss: str) -> Callable[[int, str], Case]:
    """Logits so large that some true classes have probabilities below 1e-7."""

    def make(seed: int, dtype: str) -> Case:
        heads = {"a": Head([Dense(10)], loss), "b": Head([Dense(1)], "mse", weight=0.5)}
        held = _drawn(f"confident, {loss}", Network(32, [Dense(64, "relu")], heads), 96, seed, dtype)
        held.params["heads.a.0.weight"][...] *= held.params.dtype.type(8.0)
        return held

    return make


def _conflicting(seed: int, dtype: str) -> Case:
    """Two losses that pull in nearly opposite directions."""
    heads = {"a": Head([Dense(3)], "mse"), "b": Head([Dense(3)], "mse", weight=0.5)}
    held = _drawn("conflicting losses", Network(24, [Dense(48, "relu"), Dense(32, "tanh")], heads), 64, seed, dtype)
    for part in ("weight", "bias"):
        held.params[f"heads.b.0.{part}"][...] = held.params[f"heads.a.0.{part}"]
    rng = np.random.default_rng(seed)
    opposite = 2.0 * held.net.forward(held.params, held.x)["a"] - held.targets["a"] + rng.standard_normal((64, 3))
    return Case(held.name, held.net, held.params, held.x,
                {"a": held.targets["a"], "b": opposite.astype(dtype)}, None, seed)  # fmt: skip


CASES: dict[str, Callable[[int, str], Case]] = {
    "every activation": _every_activation,
    "sample weights": _weighted,
    "probabilities": _soft,
    "confident": _confident("softmax_cross_entropy"),
    "confident, clipped": _confident("clipped_cross_entropy"),
    "conflicting": _conflicting,
}


def correct_cases(seed: int = 0, *, quick: bool = False) -> list[Callable[[], Case]]:
    """What the checks must be silent on: the cases, and every activation with every loss; quick: some of them."""

    def pair(activation: str, loss: str, i: int) -> Case:
        first = Head([Dense(5, activation), Dense(3)], loss)
        heads = {"a": first, "b": Head([Dense(2, bias=False)], "mse", weight=-0.3)}
        net = Network(8 + i % 9, [Dense(24, activation), Dense(16, activation)], heads)
        return _drawn(f"{activation}, {loss}", net, 1 + (7 * i) % 64, seed, "float32", weighted=i % 2 == 1)

    names = ["tiny", "small", *CASES]
    made: list[Callable[[], Case]] = [lambda name=name: case(name, seed) for name in names]  # type: ignore[misc]
    pairs = [(activation, loss) for activation in ACTIVATIONS for loss in LOSSES]
    made += [
        lambda a=a, loss=loss, i=i: pair(a, loss, i)  # type: ignore[misc]
        for i, (a, loss) in enumerate(pairs)
        if not quick or i % 7 == 0
    ]
    return made
