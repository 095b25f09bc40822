"""Keras: a model's own step, and its differentiation, as programs that are kept while the model lives.

A program belongs to all that Keras reads from Python on the way: layers and their options, losses, the optimizer's
options, shapes. Whoever changes one gets it compiled anew; where that cannot be told, as with classes and functions of
a user's own, nothing is kept. Nothing that is kept holds the model.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from .jax_compiled import prepared
from .jax_kept import Kept
from .keras_stepping import options_of
from .keras_subject import Subject

Body = Callable[..., Any]
"""Takes and returns nested dicts and lists of arrays."""

MOST = 4
"""Programs that are kept for a model."""

_kept: weakref.WeakKeyDictionary[Any, Kept[Any]] = weakref.WeakKeyDictionary()


def program(keras: Any, subject: Subject, name: str, *, jit_compile: bool = False) -> Callable[..., Any]:
    """What runs a body of this name: ``run(body, *arguments)``, eagerly on PyTorch.

    The body of a later call has to be the same function of the same subject, as far as :func:`fingerprint` tells.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        return lambda body, *arguments: body(*arguments)

    def make() -> Callable[..., Any]:
        return _ByJax() if backend == "jax" else _ByTensorFlow(jit_compile)

    told = fingerprint(keras, subject)
    if told is None:
        return make()
    run: Callable[..., Any] = _kept.setdefault(subject.model, Kept(MOST)).get((name, told), make)
    return run


class _ByTensorFlow:
    """Eager at the first call, for compiling takes longer than a run; then one function."""

    def __init__(self, jit_compile: bool) -> None:
        self.jit_compile = jit_compile
        self.called = False
        self.function: Any = None

    def __call__(self, body: Body, *arguments: Any) -> Any:
        if not self.called:
            self.called = True
            return body(*arguments)
        import tensorflow as tf

        given = tf.nest.map_structure(lambda one: None if one is None else tf.convert_to_tensor(one), arguments)
        if self.function is None:
            function = tf.function(body, autograph=False, jit_compile=self.jit_compile or None)
            self.function = function.get_concrete_function(*given)
        return self.function(*given)


class _ByJax:
    """Traced and compiled at the first call."""

    def __init__(self) -> None:
        self.program: Callable[..., Any] | None = None

    def __call__(self, body: Body, *arguments: Any) -> Any:
        if self.program is None:
            self.program = prepared(body, *arguments)
        return self.program(*arguments)


class _Variables:
    """Variables as part of a key. They are held, so that no other comes to have the identity of one of them."""

    def __init__(self, variables: Sequence[Any]) -> None:
        self.variables = variables
        self.told = tuple((id(variable), bool(variable.trainable)) for variable in variables)

    def __hash__(self) -> int:
        return hash(self.told)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Variables) and self.told == other.told


def fingerprint(keras: Any, subject: Subject) -> Hashable | None:
    """All that Keras takes from Python for a step and for the gradients; None where it cannot be told."""
    model, optimizer = subject.model, subject.model.optimizer
    options: Hashable = ()
    variables = [*model.variables, *model.metrics_variables]
    while optimizer is not None:
        own = options_of(keras, optimizer, list(subject.variables.values()))
        if own is None:
            return None
        options = (options, id(optimizer), own)
        variables += optimizer.variables
        optimizer = getattr(optimizer, "inner_optimizer", None)
    layers = list(model._flatten_layers())
    told = [text for layer in layers if (text := _layer(layer)) is not None]
    regularizers = [one for v in model.variables if (one := getattr(v, "regularizer", None)) is not None]
    if len(told) < len(layers) or not all(map(_keras_own, map(type, regularizers))):
        return None
    return (
        tuple(zip(map(id, layers), told, strict=True)),
        tuple(_terms(subject)),
        options,
        _Variables(variables),
        (id(model._compile_loss), id(model._compile_metrics), model.jit_compile, keras.config.floatx()),
        repr([(type(one).__name__, one.get_config()) for one in regularizers]),
        (repr(subject.network), repr(subject.graph.structure), subject.x.shape, str(subject.x.dtype)),
    )


def _layer(layer: Any) -> str | None:
    """A layer's class and options as text; None where it is not Keras' own throughout."""
    functions = [one for one in vars(layer).values() if callable(one)]
    if not all(_keras_own(one) for one in (type(layer), *functions)):
        return None
    if hasattr(layer, "train_step"):  # a model: its layers are asked themselves
        return f"{type(layer).__name__} {layer.trainable}"
    try:
        config = json.dumps(layer.get_config(), sort_keys=True, default=repr)
    except (TypeError, ValueError, NotImplementedError):  # an option that Keras cannot write down
        return None
    return f"{type(layer).__name__} {config} {list(map(id, functions))}"


def _keras_own(one: Any) -> bool:
    return str(getattr(one, "__module__", None) or type(one).__module__).startswith("keras.")


def _terms(subject: Subject) -> Iterator[Hashable]:
    for name, term in subject.terms.items():
        weights = None if term.sample_weight is None else np.asarray(term.sample_weight)
        shapes = [None if one is None else (one.shape, str(one.dtype)) for one in (term.target, weights)]
        yield name, term.options, term.weight, repr(term.loss), term.smoothing, term.over_samples, *shapes
