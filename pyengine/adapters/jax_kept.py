"""What JAX compiled for an earlier call, kept for the next one with the same program.

A program is the same if its jaxpr is: it is traced in every call, so a function that reads what has changed since is
seen. Of functions with derivative rules of their own the jaxpr does not show the rule; a program with such a rule is
kept only if function and rule stand in a library's file. Parameters, batches and the user's functions are never held.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np

from .jax_program import OWN_RULE, Operation, Program, Value

LIBRARIES = ("jax", "optax", "flax", "equinox")

T = TypeVar("T")


class Kept(Generic[T]):
    """The results of the last ``most`` keys."""

    def __init__(self, most: int) -> None:
        self.most, self.held, self.lock = most, OrderedDict[Hashable, T](), Lock()

    def get(self, key: Hashable | None, make: Callable[[], T]) -> T:
        """What was kept under the key, or what ``make`` returns; nothing is kept under None."""
        if key is None:
            return make()
        with self.lock:
            if key in self.held:
                self.held.move_to_end(key)
                return self.held[key]
        made = make()
        with self.lock:
            self.held[key] = made
            while len(self.held) > self.most:
                self.held.popitem(last=False)
        return made


def fingerprint(program: Program) -> tuple[Hashable, ...] | None:
    """What makes the program this one; None where it calls functions that may change behind the same jaxpr."""
    try:
        return tuple(_parts(program))
    except _Unseen:
        return None


class _Unseen(Exception):
    """The jaxpr does not tell all."""


def _parts(program: Program) -> Iterator[Hashable]:
    numbers: dict[Value, int] = {}

    def fresh(value: Value) -> Hashable:
        return numbers.setdefault(value, len(numbers)), value.shape, str(value.dtype)

    def seen(value: Value) -> Hashable:
        return numbers[value] if value in numbers else _content(value)

    def walk(operations: list[Operation]) -> Iterator[Hashable]:
        for operation in operations:
            own = operation.name in OWN_RULE
            if own:
                _of_library(operation)
            options = () if own else tuple((name, _option(value)) for name, value in operation.params.items())
            yield operation.name, options, tuple(map(seen, operation.ins)), tuple(map(fresh, operation.outs))
            yield from walk(operation.inner)
            yield tuple(map(seen, operation.results))

    yield tuple(map(fresh, program.inputs))
    yield from walk(program.operations)
    yield tuple(map(seen, program.outputs))


def _content(value: Value) -> Hashable:
    if value.known is None:
        raise _Unseen
    try:
        return value.shape, str(value.dtype), np.asarray(value.known).tobytes()
    except TypeError as error:  # the keys of random numbers are no arrays of NumPy's
        raise _Unseen from error


def _option(value: Any) -> Hashable:
    text = repr(value)
    inner = hasattr(value, "eqns") or hasattr(value, "jaxpr") or isinstance(value, np.ndarray)
    if inner or callable(value) or " at 0x" in text:
        raise _Unseen
    return text


def _of_library(operation: Operation) -> None:
    functions = [value for value in operation.params.values() if hasattr(value, "debug_info")]
    folders = [str(Path(sys.modules[name].__file__ or "").parent) for name in LIBRARIES if name in sys.modules]
    places = [str(getattr(f.debug_info, "func_src_info", "")).rpartition(" at ")[2] for f in functions]
    # The function itself and at least one rule.
    if len(places) < 2 or not all(any(place.startswith(folder) for folder in folders) for place in places):
        raise _Unseen
