"""What a network is made of: dense layers, heads, and the layers with their sizes resolved."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .activations import Activation, activation
from .errors import sentence
from .losses import Loss, loss


def size(argument: str, value: object) -> int:
    """Check that a size is a whole number of at least 1."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            sentence(
                argument,
                got=f"is of type {type(value).__name__}",
                expected="a whole number of at least 1",
                remedy="Pass an int.",
            )
        ) from None
    if isinstance(value, bool) or number < 1:
        raise ValueError(
            sentence(
                argument,
                got=f"is {value}",
                expected="a whole number of at least 1",
                remedy="Remove the layer or give it a width.",
            )
        )
    return number


@dataclass(frozen=True, init=False)
class Dense:
    """A dense layer: h = f(x·Wᵀ + b), x (batch, n_in), W (n_out, n_in), b (n_out,), h (batch, n_out).

    >>> Dense(128, "relu")
    Dense(n_out=128, activation=ReLU(), bias=True)
    """

    n_out: int
    activation: Activation
    bias: bool

    def __init__(self, n_out: int, activation: str | Activation = "linear", bias: bool = True) -> None:
        object.__setattr__(self, "n_out", size("n_out", n_out))
        object.__setattr__(self, "activation", _activation(activation))
        object.__setattr__(self, "bias", bool(bias))


@dataclass(frozen=True, init=False)
class Head:
    """The layers of one task, ending in one loss.

    The last layer's activation belongs to the network's output (logits for the losses that take logits). ``weight``
    multiplies the loss in the total. Options of a loss given by name may follow:
    ``Head([Dense(1)], loss="huber", delta=0.5, reduction="sum")``.
    """

    layers: tuple[Dense, ...]
    loss: Loss
    weight: float

    def __init__(self, layers: Sequence[Dense], loss: str | Loss, weight: float = 1.0, **options: Any) -> None:
        object.__setattr__(self, "layers", dense_layers("layers", layers))
        if not self.layers:
            raise ValueError(
                sentence(
                    "layers",
                    got="is empty",
                    expected="at least one pyengine.Dense",
                    remedy="A head needs a layer of its own.",
                )
            )
        object.__setattr__(self, "loss", _loss(loss, options))
        try:
            number = float(weight)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(
                sentence(
                    "weight",
                    got=f"is {weight!r}",
                    expected="a finite number",
                    remedy="It multiplies the loss in the total.",
                )
            )
        object.__setattr__(self, "weight", number)


# Inside the two classes the names `activation` and `loss` are parameters.
_activation = activation
_loss = loss


def dense_layers(argument: str, layers: object) -> tuple[Dense, ...]:
    """Check that ``layers`` is a sequence of :class:`Dense`."""
    if isinstance(layers, Dense) or not isinstance(layers, Sequence):
        raise TypeError(
            sentence(
                argument,
                got=f"is of type {type(layers).__name__}",
                expected="a list of pyengine.Dense",
                remedy="Put the layers in a list.",
            )
        )
    for i, layer in enumerate(layers):
        if not isinstance(layer, Dense):
            raise TypeError(
                sentence(
                    f"{argument}[{i}]",
                    got=f"is of type {type(layer).__name__}",
                    expected="a pyengine.Dense",
                    remedy="The engine knows dense layers only.",
                )
            )
    return tuple(layers)


def named_heads(heads: object) -> dict[str, Head]:
    """Check that ``heads`` maps at least one name to a :class:`Head`."""
    if not isinstance(heads, Mapping):
        raise TypeError(
            sentence(
                "heads",
                got=f"is of type {type(heads).__name__}",
                expected="a mapping of names to pyengine.Head",
                remedy='Write heads={"name": pyengine.Head(...)}.',
            )
        )
    if not heads:
        raise ValueError(
            sentence(
                "heads",
                got="is empty",
                expected="at least one head",
                remedy="A network without a loss has no gradient.",
            )
        )
    for name, head in heads.items():
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(
                sentence(
                    "heads",
                    got=f"has the key {name!r}",
                    expected="non-empty names without a dot",
                    remedy="The dot separates the parts of a parameter's name.",
                )
            )
        if not isinstance(head, Head):
            raise TypeError(
                sentence(
                    f"heads[{name!r}]",
                    got=f"is of type {type(head).__name__}",
                    expected="a pyengine.Head",
                    remedy="Write pyengine.Head(layers, loss).",
                )
            )
    return dict(heads)


@dataclass(frozen=True)
class Layer:
    """A dense layer at its place in a network: its canonical name (``trunk.0``, ``heads.ink.1``) and both sizes."""

    name: str
    n_in: int
    n_out: int
    activation: Activation
    bias: bool


def resolve(prefix: str, n_in: int, layers: Sequence[Dense]) -> tuple[Layer, ...]:
    """Give every layer its name and its input width."""
    resolved: list[Layer] = []
    for i, dense in enumerate(layers):
        resolved.append(Layer(f"{prefix}.{i}", n_in, dense.n_out, dense.activation, dense.bias))
        n_in = dense.n_out
    return tuple(resolved)
