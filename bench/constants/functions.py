"""The elementary functions and activations of four frameworks, on arrays of float32: values, and slopes by autodiff."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import frameworks
import numpy as np
from tensorflow_route import tensorflow_activation

from pyengine.activations import ACTIVATIONS, Activation
from pyengine.reference import activation_and_derivative

Array = np.ndarray[Any, Any]
Evaluation = Callable[[Array], tuple[Array, Array | None]]
"""From arguments to values and, of an activation, slopes."""

ELEMENTARY = ("exp", "expm1", "log", "log1p", "erf", "erfc")
SHAPED = tuple(name for name in ACTIVATIONS if name not in {"linear", "relu"})
"""The activations that round."""

FRAMEWORKS = ("numpy", "torch", "jax", "tensorflow")
FLUSHING = {"jax", "tensorflow"}


def activation(name: str) -> Activation:
    return ACTIVATIONS[name]()


def evaluation(framework: str, name: str) -> Evaluation | None:
    """How a framework evaluates a function; None where it has none of that name."""
    found: Evaluation | None = _MAKERS[framework](name)
    return found


def _numpy(name: str) -> Evaluation | None:
    if name in ELEMENTARY:
        own = getattr(np, name, None)
        return None if own is None else lambda z: (own(z), None)

    def values_and_slopes(z: Array) -> tuple[Array, Array]:
        value, slope = activation_and_derivative(activation(name), z)
        return value.astype(z.dtype), slope.astype(z.dtype)

    return values_and_slopes


def _torch(name: str) -> Evaluation:
    import torch

    if name in ELEMENTARY:
        return lambda z: (getattr(torch, name)(torch.from_numpy(z)).numpy(), None)

    def values_and_slopes(z: Array) -> tuple[Array, Array]:
        leaf = torch.from_numpy(z).requires_grad_()
        value = frameworks._torch_activation(activation(name), leaf)
        (slope,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
        return value.detach().numpy(), slope.numpy()

    return values_and_slopes


def _jax(name: str) -> Evaluation:
    import jax

    jnp = jax.numpy
    if name in ELEMENTARY:
        compiled = jax.jit(getattr(jax.scipy.special if name.startswith("erf") else jnp, name))
        return lambda z: (np.asarray(compiled(z)), None)

    @jax.jit
    def both(z: Any) -> Any:
        value, pullback = jax.vjp(lambda z: frameworks._jax_activation(activation(name), z), z)
        return value, pullback(jnp.ones_like(value))[0]

    return lambda z: tuple(np.asarray(part) for part in both(z))  # type: ignore[return-value]


def _tensorflow(name: str) -> Evaluation:
    import tensorflow as tf

    if name in ELEMENTARY:
        return lambda z: (getattr(tf.math, name)(tf.constant(z)).numpy(), None)

    def values_and_slopes(z: Array) -> tuple[Array, Array]:
        leaf = tf.constant(z)
        with tf.GradientTape() as tape:
            tape.watch(leaf)
            value = tensorflow_activation(activation(name), leaf)
        return value.numpy(), tape.gradient(value, leaf).numpy()

    return values_and_slopes


_MAKERS: dict[str, Callable[[str], Any]] = {"numpy": _numpy, "torch": _torch, "jax": _jax, "tensorflow": _tensorflow}


@functools.cache
def exactly(name: str) -> Callable[[Array], Array]:
    """An elementary function in float64: its own error is 2⁻²⁹ of what is measured."""
    if name in {"erf", "erfc"}:
        import torch

        return lambda z: getattr(torch, name)(torch.from_numpy(z)).numpy()  # type: ignore[no-any-return]
    own: Callable[[Array], Array] = getattr(np, name)
    return own


def quietly(evaluate: Evaluation, z: Array) -> tuple[Array, Array | None]:
    """Overflow is judged, not warned of."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return evaluate(z)
