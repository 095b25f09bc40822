"""Keras models as people write them, on one backend a process: functional, with a nested Sequential trunk, Sequential
(of one output), and subclassed; compiled by names and by objects.

Beside the network a seed draws how Keras is told of it: activations as names, functions, layers of their own; logits or
probabilities; weights of samples, a mask, regularizers of kernels, biases and outputs; the optimizer, its clipping, and
whether it has stepped before. Every fourth model of TensorFlow without gelu is in float64: TensorFlow's gelu, and some
operations of the other backends, compute float64 in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, losses, optimizers, regularizers
from problems import Problem

import pyengine as pe

from .drawing import drawn

BACKEND = keras.backend.backend()
PACKAGES = ("keras", {"tensorflow": "tensorflow-cpu", "jax": "jax", "torch": "torch"}[BACKEND])
# TensorFlow finds the logits behind a softmax, so that its cross-entropy of probabilities is the one of logits.
STAND_IN = (
    {"clipped_cross_entropy": "softmax_cross_entropy", "clipped_binary_cross_entropy": "binary_cross_entropy"}
    if BACKEND == "tensorflow"
    else {}
)
REDUCTIONS = {"mean": "sum_over_batch_size", "sum": "sum"}


def verified(given: Problem, seed: int) -> pe.Verification:
    """The network in one of four manners."""
    net = given.net
    kinds = {layer.activation.name for own in (net.trunk_layers, *net.head_layers.values()) for layer in own}
    wide = BACKEND == "tensorflow" and seed % 4 == 3 and not kinds & {"gelu", "gelu_tanh"}
    dtype = "float64" if wide else "float32"
    given = drawn(seed, dtype)
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        rng = np.random.default_rng([seed, 11])
        keras.utils.set_random_seed(seed)
        model, x = _built(given, rng, seed)
        _load(model, given)
        targets, compiled = _losses(given, rng)
        weights = _sample_weights(given, rng)
        as_dict = isinstance(model, Subclassed) and model.as_dict
        factors = {name: head.weight for name, head in given.net.heads.items()}
        model.compile(
            _optimizer(rng),
            loss=compiled if as_dict else list(compiled.values()),
            loss_weights=factors if as_dict else list(factors.values()),
        )
        if rng.random() < 0.2:
            _train(model, x, targets, as_dict)
        return pe.verify(
            model,
            x,
            targets if as_dict else list(targets.values()),
            sample_weight=weights if weights is None or as_dict else list(weights.values()),
            seed=seed,
        )
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def _dense(
    layer: Any, rng: np.random.Generator, probabilities: str | None = None, *, masked: bool = False
) -> list[Any]:
    """A Dense layer, and its activation behind it if that stands alone."""
    # Weights are loaded later: drawing them here would compile a generator for every shape.
    options: dict[str, Any] = {"use_bias": layer.bias, "name": _name(layer), "kernel_initializer": "zeros"}
    for kind in ("kernel", "bias", "activity"):
        if rng.random() < 0.08:
            rate = float(rng.choice([1e-3, 0.01]))
            options[f"{kind}_regularizer"] = rng.choice([regularizers.L1, regularizers.L2])(rate)
    # Keras' Softmax layer wants a mask of classes, not of samples.
    alone = rng.random() < 0.3 and not (probabilities == "softmax" and masked)
    act = probabilities or _activation(layer.activation, rng)
    if not alone:
        return [layers.Dense(layer.n_out, act, **options)]
    own = _activation_layer(layer.activation)
    if probabilities:
        own = layers.Softmax() if probabilities == "softmax" else layers.Activation(probabilities)
    return [layers.Dense(layer.n_out, **options), own]


def _name(layer: Any) -> str:
    return str(layer.name.replace(".", "_"))


def _activation(activation: pe.Activation, rng: np.random.Generator) -> Any:
    """As the argument of a Dense layer."""
    slope = getattr(activation, "slope", 0.0)
    named = activation.name
    if named == "leaky_relu":
        return rng.choice(
            [functools.partial(keras.activations.leaky_relu, negative_slope=slope), layers.LeakyReLU(slope)]
        )
    if named == "gelu_tanh":
        return functools.partial(keras.activations.gelu, approximate=True)
    if named == "elu" and slope != 1.0:
        return layers.ELU(slope)
    if named == "linear":
        return rng.choice([None, "linear"])
    return named if rng.random() < 0.5 else getattr(keras.activations, named)


def _activation_layer(activation: pe.Activation) -> Any:
    slope, named = getattr(activation, "slope", 0.0), activation.name
    if named == "gelu_tanh":
        return layers.Activation(functools.partial(keras.activations.gelu, approximate=True))
    alone = {"relu": layers.ReLU, "leaky_relu": lambda: layers.LeakyReLU(slope), "elu": lambda: layers.ELU(slope),
             "linear": layers.Identity}  # fmt: skip
    return alone[named]() if named in alone else layers.Activation(named)


def _operation(activation: pe.Activation) -> Callable[[Any], Any]:
    """As a function called on a tensor."""
    slope, named = getattr(activation, "slope", 0.0), activation.name
    special: dict[str, Callable[[Any], Any]] = {
        "linear": lambda z: z,
        "leaky_relu": functools.partial(keras.ops.leaky_relu, negative_slope=slope),
        "elu": functools.partial(keras.ops.elu, alpha=slope),
        "gelu": functools.partial(keras.ops.gelu, approximate=False),
        "gelu_tanh": functools.partial(keras.ops.gelu, approximate=True),
    }
    return special[named] if named in special else getattr(keras.ops, named)  # type: ignore[no-any-return]


PROBABILITIES = {"clipped_cross_entropy": "softmax", "clipped_binary_cross_entropy": "sigmoid"}


def _probabilities(given: Problem, head: str) -> str | None:
    """The activation of its own that a head ends in, where its loss takes probabilities."""
    return PROBABILITIES.get(given.net.heads[head].loss.name)


class Subclassed(keras.Model):  # type: ignore[misc]
    """Layers in __init__, activations as operations in call; outputs in a dict or a tuple."""

    def __init__(self, given: Problem, rng: np.random.Generator, *, as_dict: bool) -> None:
        super().__init__()
        self.net, self.as_dict = given.net, as_dict
        for layer in [*self.net.trunk_layers, *(one for own in self.net.head_layers.values() for one in own)]:
            regularizer = regularizers.L2(0.01) if rng.random() < 0.1 else None
            options = {"name": _name(layer), "use_bias": layer.bias, "kernel_initializer": "zeros"}
            setattr(self, options["name"], layers.Dense(layer.n_out, kernel_regularizer=regularizer, **options))

    def call(self, x: Any) -> Any:
        def through(stack: Any, h: Any) -> Any:
            for layer in stack:
                h = _operation(layer.activation)(getattr(self, _name(layer))(h))
            return h

        trunk = through(self.net.trunk_layers, x)
        found = {}
        for name, own in self.net.head_layers.items():
            out = through(own, trunk)
            own_end = PROBABILITIES.get(self.net.heads[name].loss.name)
            found[name] = out if own_end is None else getattr(keras.ops, own_end)(out)
        return found if self.as_dict else tuple(found.values())


def _built(given: Problem, rng: np.random.Generator, seed: int) -> tuple[Any, Any]:
    net, x = given.net, given.x
    if seed % 4 == 3:
        model = Subclassed(given, rng, as_dict=bool(rng.random() < 0.5))
        model(x)
        return model, x
    masked = bool(rng.random() < 0.2)
    stacks = {
        name: [
            part
            for layer in own
            for part in _dense(layer, rng, _probabilities(given, name) if layer is own[-1] else None, masked=masked)
        ]
        for name, own in net.head_layers.items()
    }
    trunk = [part for layer in net.trunk_layers for part in _dense(layer, rng)]
    if seed % 2 == 1 and net.n_in % 2 == 0:
        x = x.reshape(len(x), net.n_in // 2, 2)
        trunk.insert(0, layers.Flatten())
    elif masked:
        x = x.copy()
        x[rng.random(len(x)) < 0.2] = 0.0
        trunk.insert(0, layers.Masking())
    shape = x.shape[1:]
    if len(stacks) == 1 and seed % 4 != 0:
        return keras.Sequential([keras.Input(shape), *trunk, *next(iter(stacks.values()))]), x
    pixels = keras.Input(shape)
    h = pixels
    # A nested model hands no mask on; where there is one, the layers are called one by one.
    nested = seed % 4 == 2 and not isinstance(trunk[0], layers.Masking)
    for part in [keras.Sequential([keras.Input(shape), *trunk])] if nested else trunk:
        h = part(h)
    outputs = []
    for stack in stacks.values():
        own = h
        for part in stack:
            own = part(own)
        outputs.append(own)
    return keras.Model(pixels, outputs), x


def _load(model: Any, given: Problem) -> None:
    dense = {part.name: part for part in model._flatten_layers() if isinstance(part, layers.Dense)}
    for name, value in given.params.items():
        layer, _, kind = name.rpartition(".")
        part = dense[layer.replace(".", "_")]
        (part.kernel if kind == "weight" else part.bias).assign(value.T if kind == "weight" else value)


def _losses(given: Problem, rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    targets, compiled = {}, {}
    for name, head in given.net.heads.items():
        target, loss, n_out = given.targets[name], head.loss, head.layers[-1].n_out
        reduction = REDUCTIONS[loss.reduction]
        if loss.reduction == "mean" and rng.random() < 0.3:
            reduction = "mean_with_sample_weight"
        options: dict[str, Any] = {"reduction": reduction}
        smoothing = getattr(loss, "label_smoothing", 0.0)
        if loss.name in ("softmax_cross_entropy", "clipped_cross_entropy"):
            options["from_logits"] = loss.name == "softmax_cross_entropy"
            sparse = target.ndim == 1 and not smoothing and rng.random() < 0.7
            if sparse:
                target = target[:, None] if rng.random() < 0.3 else target
                compiled[name] = losses.SparseCategoricalCrossentropy(**options)
            else:
                target = np.eye(n_out, dtype=given.x.dtype)[target] if target.ndim == 1 else target
                compiled[name] = losses.CategoricalCrossentropy(label_smoothing=smoothing, **options)
        elif loss.name.endswith("binary_cross_entropy"):
            smoothing, logits = float(rng.choice([0.0, 0.1])), loss.name == "binary_cross_entropy"
            compiled[name] = losses.BinaryCrossentropy(from_logits=logits, label_smoothing=smoothing, **options)
        elif loss.name == "huber":
            compiled[name] = losses.Huber(loss.delta, **options)
        else:
            short = {"mse": losses.MeanSquaredError, "mae": losses.MeanAbsoluteError}[loss.name]
            compiled[name] = (
                loss.name if reduction == "sum_over_batch_size" and rng.random() < 0.5 else short(**options)
            )
        targets[name] = target
    return targets, compiled


def _sample_weights(given: Problem, rng: np.random.Generator) -> dict[str, Any] | None:
    if rng.random() < 0.6:
        return None
    batch, dtype = len(given.x), given.x.dtype
    return {name: rng.uniform(0.0, 2.0, batch).astype(dtype) for name in given.net.heads}


def _optimizer(rng: np.random.Generator) -> Any:
    rate = float(rng.choice([1e-3, 0.01]))
    clip: dict[str, Any] = [{}, {}, {}, {"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"clipvalue": 0.05}][
        rng.integers(6)
    ]
    kinds = [
        lambda: optimizers.SGD(rate, **clip),
        lambda: optimizers.SGD(rate, momentum=0.9, **clip),
        lambda: optimizers.SGD(rate, momentum=0.9, nesterov=True, **clip),
        lambda: optimizers.Adam(rate, **clip),
        lambda: optimizers.Adam(rate, amsgrad=True, **clip),
        lambda: optimizers.Adam(rate, loss_scale_factor=128.0, **clip),
        lambda: optimizers.AdamW(rate, weight_decay=0.01, **clip),
        lambda: optimizers.RMSprop(rate, **clip),
        lambda: optimizers.Nadam(rate, **clip),
        lambda: optimizers.Adagrad(rate, **clip),
        lambda: optimizers.Adamax(rate, **clip),
    ]
    return kinds[rng.integers(len(kinds))]()


def _train(model: Any, x: Any, targets: dict[str, Any], as_dict: bool) -> None:
    """One step, so that the optimizer has a state; eagerly, as nothing is worth compiling for one step."""
    model.run_eagerly = True
    given = list(targets.values())
    model.train_on_batch(x, targets if as_dict else given[0] if len(given) == 1 else given)
    model.run_eagerly = False
