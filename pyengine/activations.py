"""The activations that a dense layer may end in, by name or as objects with options.

Each class states the function, its derivative where the function has a kink, and the source of the convention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from .errors import listing, require_real, sentence


@dataclass(frozen=True)
class Activation:
    """Base of all activations: a name, and at most one real option called ``slope``."""

    name: ClassVar[str]

    @property
    def slope(self) -> float:
        """The one number that parametrises the function; 0 for those that have none."""
        return 0.0


@dataclass(frozen=True)
class Linear(Activation):
    """f(z) = z."""

    name: ClassVar[str] = "linear"


@dataclass(frozen=True)
class ReLU(Activation):
    """f(z) = max(z, 0); f'(0) = 0, as PyTorch, JAX and TensorFlow have it."""

    name: ClassVar[str] = "relu"


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """f(z) = z where z > 0, else negative_slope·z; f'(0) = negative_slope, as PyTorch and TensorFlow have it.

    ``negative_slope`` defaults to PyTorch's 0.01 (Keras' layer has 0.3, its function 0.2).
    """

    name: ClassVar[str] = "leaky_relu"
    negative_slope: float = 0.01

    def __post_init__(self) -> None:
        _require_finite("LeakyReLU(negative_slope=...)", self.negative_slope)

    @property
    def slope(self) -> float:
        return float(self.negative_slope)


@dataclass(frozen=True)
class ELU(Activation):
    """f(z) = z where z > 0, else alpha·(exp(z) - 1); f'(0) = alpha."""

    name: ClassVar[str] = "elu"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        _require_finite("ELU(alpha=...)", self.alpha)

    @property
    def slope(self) -> float:
        return float(self.alpha)


@dataclass(frozen=True)
class Tanh(Activation):
    """f(z) = tanh z."""

    name: ClassVar[str] = "tanh"


@dataclass(frozen=True)
class Sigmoid(Activation):
    """f(z) = 1 / (1 + exp(-z))."""

    name: ClassVar[str] = "sigmoid"


@dataclass(frozen=True)
class Softplus(Activation):
    """f(z) = log(1 + exp(z)), without a threshold above which it turns linear."""

    name: ClassVar[str] = "softplus"


@dataclass(frozen=True)
class SiLU(Activation):
    """f(z) = z·sigmoid(z), also called swish."""

    name: ClassVar[str] = "silu"


@dataclass(frozen=True)
class GELU(Activation):
    """f(z) = z·Φ(z), Φ the distribution function of the standard normal (the erf form, not the tanh one)."""

    name: ClassVar[str] = "gelu"


@dataclass(frozen=True)
class GELUTanh(Activation):
    """f(z) = z/2·(1 + tanh(√(2/π)·(z + 0.044715·z³))) (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""

    name: ClassVar[str] = "gelu_tanh"


ACTIVATIONS: dict[str, type[Activation]] = {
    kind.name: kind for kind in (Linear, ReLU, LeakyReLU, ELU, Tanh, Sigmoid, Softplus, SiLU, GELU, GELUTanh)
}


def activation(given: str | Activation) -> Activation:
    """Turn a name into the activation with its default options; pass an object through.

    >>> activation("elu")
    ELU(alpha=1.0)
    """
    if isinstance(given, Activation):
        return given
    if isinstance(given, str):
        if given in ACTIVATIONS:
            return ACTIVATIONS[given]()
        raise ValueError(
            sentence(
                "activation",
                got=f"is {given!r}",
                expected=f"one of {listing(ACTIVATIONS)}",
                remedy="Use one of these names, or an object such as pyengine.LeakyReLU(0.2).",
            )
        )
    raise TypeError(
        sentence(
            "activation",
            got=f"is of type {type(given).__name__}",
            expected="a name or an Activation object",
            remedy='Use a name such as "relu".',
        )
    )


def _require_finite(argument: str, value: float) -> None:
    require_real(argument, value, expected="a finite number")
    if not math.isfinite(value):
        raise ValueError(
            sentence(argument, got=f"is {value}", expected="a finite number", remedy="Pass a real number.")
        )
