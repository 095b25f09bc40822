"""Keras: one forward pass, differentiated by the backend's own means: TensorFlow's tape, JAX's vjp, PyTorch's autograd.

``forward(batch, zeros)`` returns the values to differentiate, by name, and the tensors between the layers. Every route
returns the values and, for each, its gradient with respect to every variable and every tensor between; None where it
does not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .keras_forward import Seen, Zeros

Forward = Callable[[Any, Zeros | None], tuple[dict[str, Any], Seen]]
Inner = dict[tuple[str, str], Any]
Differentiated = tuple[dict[str, Any], Seen, dict[str, tuple[dict[str, Any], Inner]]]
"""The values; what was seen; value -> (gradients by variable, gradients by (kind, layer))."""
Run = Callable[..., Any]
"""Runs a function on arguments, perhaps compiled (:func:`pyengine.adapters.keras_kept.program`)."""


def differentiate(keras: Any, forward: Forward, variables: Mapping[str, Any], batch: Any, run: Run) -> Differentiated:
    """``variables`` maps names to Keras variables."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _by_tensorflow(forward, variables, batch, run)
    if backend == "torch":
        return _by_torch(forward, variables, batch)
    return _by_jax(keras, forward, variables, batch, run)


def _by_tensorflow(forward: Forward, variables: Mapping[str, Any], batch: Any, run: Run) -> Differentiated:
    import tensorflow as tf

    def whole(batch: Any) -> Any:
        raw = {name: variable.value for name, variable in variables.items()}
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(list(raw.values()))
            values, seen = forward(batch, None)
        return values, vars(seen), {name: tape.gradient(value, [raw, seen.inner]) for name, value in values.items()}

    values, seen, found = run(whole, batch)
    return values, Seen(**seen), {name: (one[0], one[1]) for name, one in found.items()}


def _by_torch(forward: Forward, variables: Mapping[str, Any], batch: Any) -> Differentiated:
    import torch

    raw = {name: variable.value for name, variable in variables.items()}
    with torch.enable_grad():
        values, seen = forward(batch, None)
        inner = seen.inner
        asked = [*raw.values(), *inner.values()]
        gradients = {}
        for name, value in values.items():
            found: Any = [None] * len(asked)
            if value.requires_grad:
                found = torch.autograd.grad(value, asked, retain_graph=True, allow_unused=True)
            gradients[name] = (dict(zip(raw, found, strict=False)), dict(zip(inner, found[len(raw) :], strict=True)))
    return values, seen, gradients


def _by_jax(keras: Any, forward: Forward, variables: Mapping[str, Any], batch: Any, run: Run) -> Differentiated:
    import jax

    # Tensors between the layers are differentiated by zeros that are added to them; their shapes are asked first.
    def stateless(raw: Mapping[str, Any], batch: Any, zeros: Zeros | None) -> Any:
        mapping = [(variables[name], value) for name, value in raw.items()]
        with keras.StatelessScope(state_mapping=mapping, collect_losses=True):
            values, seen = forward(batch, zeros)
        return values, vars(seen)

    def whole(raw: Mapping[str, Any], batch: Any) -> Any:
        shapes = jax.eval_shape(lambda raw: Seen(**stateless(raw, batch, None)[1]).inner, raw)
        zeros = {key: jax.numpy.zeros(one.shape, one.dtype) for key, one in shapes.items()}
        values, pullback, seen = jax.vjp(lambda raw, zeros: stateless(raw, batch, zeros), raw, zeros, has_aux=True)
        none = {name: jax.numpy.zeros_like(value) for name, value in values.items()}
        one = {name: jax.numpy.ones_like(value) for name, value in values.items()}
        return values, seen, {name: pullback({**none, name: one[name]}) for name in values}

    raw = {name: variable.value for name, variable in variables.items()}
    values, seen, gradients = run(whole, raw, batch)
    return values, Seen(**seen), gradients
