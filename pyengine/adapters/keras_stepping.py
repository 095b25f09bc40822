"""Keras: a model's own optimizer as a function: from the values that it writes, and gradients, to the next values.

It runs on the model's own variables and puts them back in the same call. TensorFlow and JAX compile that call once for
an optimizer. What was compiled is kept as long as the optimizer lives, and belongs to its options: whoever changes one
gets it compiled anew. Where an optimizer is not Keras' own, or somebody listens to it, every step is taken eagerly.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .keras_backend import array_of, load

Stepping = Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]
"""(values of the model's trained variables and of the optimizer's own, gradients) -> the values afterwards."""

_kept: weakref.WeakKeyDictionary[Any, tuple[Hashable, _Weak, Stepping]] = weakref.WeakKeyDictionary()

PLAIN = (bool, int, float, str, type(None))


def stepping(keras: Any, optimizer: Any, trained: Sequence[Any], given: Sequence[Any]) -> Stepping:
    """``trained`` are the model's variables that may change, ``given`` those among them that gradients are for."""
    held = [*trained, *optimizer.variables]
    make = {"tensorflow": _by_tensorflow, "jax": _by_jax}.get(keras.backend.backend())
    options = options_of(keras, optimizer, held)
    if make is None or options is None:
        return _eager(keras, optimizer, held, given)
    found = _kept.get(optimizer)
    if found is None or found[0] != options or not found[1].of(held, given):
        weak = _Weak(optimizer, held, given)
        _kept[optimizer] = found = (options, weak, make(weak))
    return found[2]


class _Weak:
    """An optimizer and its variables, while they live: what is compiled must not keep alive what it is kept for."""

    def __init__(self, optimizer: Any, held: Sequence[Any], given: Sequence[Any]) -> None:
        self._optimizer = weakref.ref(optimizer)
        self._held, self._given = list(map(weakref.ref, held)), list(map(weakref.ref, given))

    @property
    def held(self) -> list[Any]:
        return [one() for one in self._held]

    @property
    def given(self) -> list[Any]:
        return [one() for one in self._given]

    def of(self, held: Sequence[Any], given: Sequence[Any]) -> bool:
        """Whether these are the variables."""
        return list(map(id, self.held)) == list(map(id, held)) and list(map(id, self.given)) == list(map(id, given))

    def apply(self, gradients: Sequence[Any]) -> None:
        optimizer: Any = self._optimizer()
        optimizer.apply(list(gradients), self.given)


def _by_tensorflow(weak: _Weak) -> Stepping:
    import tensorflow as tf

    def step(*given: Any) -> list[Any]:
        # A function's reads and writes of variables happen in the order in which they are written down.
        variables = [variable.value for variable in weak.held]
        before = [tf.identity(variable) for variable in variables]
        for variable, value in zip(variables, given[: len(variables)], strict=True):
            variable.assign(value)
        weak.apply(given[len(variables) :])
        after = [tf.identity(variable) for variable in variables]
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        return after

    made: list[Any] = []

    def run(here: Sequence[Any], gradients: Sequence[Any]) -> Sequence[Any]:
        given = [tf.convert_to_tensor(one) for one in (*here, *gradients)]
        if not made:
            made.append(tf.function(step, autograph=False).get_concrete_function(*given))
        # To look among functions for the one for these shapes takes longer than a step of a small one.
        return made[0](*given)  # type: ignore[no-any-return]

    return run


def _by_jax(weak: _Weak) -> Stepping:
    import jax

    keras = load()

    def step(here: Sequence[Any], gradients: Sequence[Any]) -> list[Any]:
        held = weak.held
        with keras.StatelessScope(state_mapping=list(zip(held, here, strict=True))) as scope:
            weak.apply(gradients)
        return [scope.get_current_value(variable) for variable in held]

    return jax.jit(step)  # type: ignore[no-any-return]


def _eager(keras: Any, optimizer: Any, held: Sequence[Any], given: Sequence[Any]) -> Stepping:
    torch = keras.backend.backend() == "torch"

    def step(here: Sequence[Any], gradients: Sequence[Any]) -> list[Any]:
        with _lent(keras, held, here):
            with _ungraded(keras):
                optimizer.apply([keras.ops.convert_to_tensor(one) for one in gradients], list(given))
            # What PyTorch's variables were lent is theirs alone, and stays when they get their own back.
            return [variable.value.data if torch else array_of(keras, variable) for variable in held]

    return step


@contextmanager
def _lent(keras: Any, held: Sequence[Any], values: Sequence[Any]) -> Iterator[None]:
    """Within, the variables have these values."""
    if keras.backend.backend() == "torch":
        own = [variable.value.data for variable in held]
        for variable, value in zip(held, values, strict=True):
            variable.value.data = keras.ops.convert_to_tensor(value).detach().clone()
    else:
        own = [array_of(keras, variable) for variable in held]
        for variable, value in zip(held, values, strict=True):
            variable.assign(value)
    try:
        yield
    finally:
        for variable, value in zip(held, own, strict=True):
            if keras.backend.backend() == "torch":
                variable.value.data = value
            else:
                variable.assign(value)


@contextmanager
def _ungraded(keras: Any) -> Iterator[None]:
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    with torch.no_grad():
        yield


def options_of(keras: Any, optimizer: Any, held: Sequence[Any]) -> Hashable | None:
    """All that a compiled step takes from Python; None where that cannot be told."""
    rate = optimizer._learning_rate
    parts = [optimizer] if isinstance(rate, keras.Variable) else [optimizer, rate]
    own = all(type(part).__module__.startswith("keras.") for part in parts)
    if not own or "apply" in vars(optimizer) or any(getattr(v, "constraint", None) is not None for v in held):
        return None
    return tuple((name, repr(value)) for part in parts for name, value in sorted(vars(part).items()) if _plain(value))


def _plain(value: Any) -> bool:
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_plain, value))
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    return isinstance(value, PLAIN)
