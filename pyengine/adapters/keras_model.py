"""Keras: the gradients of a compiled model by its backend's own differentiation, without a step.

The losses are the objects that the model was compiled with, called on the model's own outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import listing, sentence
from ..parameters import Array
from .computation import Computation, as_batch
from .from_keras import (
    _array,
    _losses,
    _native,
    _one_hot,
    _parameters,
    _versions,
    layers_of,
    load,
    network_of,
)

Losses = Callable[[Any], dict[str, Any]]


def compute(model: Any, x: Any, targets: Mapping[str, Any]) -> Computation:
    """Gradients of every loss and of their weighted sum. See :func:`pyengine.verify`."""
    keras = load()
    network = network_of(model)
    missing = [name for name in network.heads if name not in targets]
    if missing:
        raise ValueError(
            sentence("targets", got=f"lacks {listing(missing)}", expected=f"one per output: {listing(network.heads)}",
                     remedy="Name them as the outputs.")
        )  # fmt: skip
    layers = layers_of(model, network)
    params = _parameters(keras, network, layers)
    own_x = as_batch(x)
    own_targets = {name: as_batch(targets[name]) for name in network.heads}
    wanted = {name: _one_hot(own_targets[name], head) for name, head in network.heads.items()}
    functions = {name: keras.losses.get(given) for name, given in _losses(model).items()}
    variables = {}
    for name in network.layout.names:
        layer, _, kind = name.rpartition(".")
        variables[name] = layers[layer].kernel if kind == "weight" else layers[layer].bias

    def losses(outputs: Any) -> dict[str, Any]:
        listed = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        if isinstance(outputs, Mapping):
            listed = [outputs[name] for name in model.output_names]
        return {
            name: _mean(keras, functions[name](wanted[name], value))
            for name, value in zip(model.output_names, listed, strict=True)
        }

    weights = {name: head.weight for name, head in network.heads.items()}
    backend = keras.backend.backend()
    route = {"tensorflow": _by_tensorflow, "jax": _by_jax, "torch": _by_torch}[backend]
    values, per_loss, summed = route(model, own_x, losses, weights, variables)

    def canonical(gradients: Mapping[str, Any], names: Any) -> dict[str, Array]:
        found = {}
        for name in names:
            given = gradients[name]
            array = np.zeros(tuple(variables[name].shape), params.dtype) if given is None else _array(keras, given)
            found[name] = array.T if name.endswith(".weight") else array
        return found

    return Computation(
        framework="Keras",
        network=network,
        params=params,
        x=own_x,
        targets=own_targets,
        per_loss={name: canonical(per_loss[name], layout.names) for name, layout in network.loss_layouts.items()},
        summed=canonical(summed, network.layout.names),
        losses={name: float(_array(keras, value)) for name, value in values.items()},
        native=_native(network, layers),
        # TensorFlow and XLA let subnormal numbers vanish on the CPU; PyTorch does not.
        flush_to_zero=backend != "torch",
        versions=_versions(keras),
    )


def _mean(keras: Any, value: Any) -> Any:
    """A loss given as a function returns one number per sample; one given as an object is reduced already."""
    return keras.ops.mean(value) if len(value.shape) else value


def _by_tensorflow(
    model: Any, x: Array, losses: Losses, weights: Mapping[str, float], variables: Mapping[str, Any]
) -> Any:
    import tensorflow as tf

    raw = {name: variable.value for name, variable in variables.items()}
    with tf.GradientTape(persistent=True) as tape:
        values = losses(model(x, training=True))
        total = sum(weights[name] * value for name, value in values.items())
    return values, {name: tape.gradient(value, raw) for name, value in values.items()}, tape.gradient(total, raw)


def _by_torch(model: Any, x: Array, losses: Losses, weights: Mapping[str, float], variables: Mapping[str, Any]) -> Any:
    import torch

    raw = [variable.value for variable in variables.values()]
    with torch.enable_grad():
        values = losses(model(x, training=True))
        total = sum(weights[name] * value for name, value in values.items())

        def gradients(value: Any) -> dict[str, Any]:
            found = torch.autograd.grad(value, raw, retain_graph=True, allow_unused=True)
            return dict(zip(variables, found, strict=True))

        return values, {name: gradients(value) for name, value in values.items()}, gradients(total)


def _by_jax(model: Any, x: Array, losses: Losses, weights: Mapping[str, float], variables: Mapping[str, Any]) -> Any:
    import jax

    trainable = [variable.value for variable in model.trainable_variables]
    others = [variable.value for variable in model.non_trainable_variables]
    place = {id(variable): i for i, variable in enumerate(model.trainable_variables)}

    def of(name: str | None) -> Callable[[Any], Any]:
        def value(given: Any) -> Any:
            outputs, _ = model.stateless_call(given, others, x, training=True)
            found = losses(outputs)
            return sum(weights[n] * v for n, v in found.items()) if name is None else found[name]

        return value

    def gradients(name: str | None) -> dict[str, Any]:
        found = jax.grad(of(name))(trainable)
        return {n: found[place[id(variable)]] for n, variable in variables.items()}

    values = {name: of(name)(trainable) for name in weights}
    return values, {name: gradients(name) for name in weights}, gradients(None)
