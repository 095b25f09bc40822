"""The four frameworks, each with its own operations and differentiation; nothing of the engine computes here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import frameworks
from problems import Problem
from staged_runs import jax_witnesses, torch_witnesses
from tensorflow_route import tensorflow_witnesses

import pyengine as pe
from pyengine.checks.staged.recording import recorded

DEFAULT_LEVEL = None
"""XLA as everybody has it."""

Gradients = tuple[Mapping[str, Mapping[str, Any]], Mapping[str, Any]]
"""Per loss and summed."""


@dataclass(frozen=True)
class Run:
    """Everything that one framework computed of one network, and the way it ran (``"eager"``, ``"jit"``)."""

    mode: str
    witnesses: pe.Witnesses
    gradients: Gradients


@dataclass(frozen=True)
class Route:
    """A framework: ``run`` computes a problem; the number chooses between its modes."""

    run: Callable[[Problem, int], Run]
    flush_to_zero: bool
    packages: tuple[str, ...]


def _finals(witnesses: pe.Witnesses) -> Gradients:
    assert witnesses.summed is not None
    return {name: one.gradient for name, one in witnesses.per_loss.items()}, witnesses.summed.gradient


def _numpy(given: Problem, _: int) -> Run:
    witnesses = recorded(*given)
    return Run("NumPy float32", witnesses, _finals(witnesses))


def _torch(given: Problem, _: int) -> Run:
    alone = frameworks.torch_gradients(*given)
    return Run("eager", torch_witnesses(given), (alone.per_loss, alone.summed))


def _jax(given: Problem, number: int) -> Run:
    """Eleven networks in twelve compiled without optimisation, one with all, its final gradients by themselves."""
    if number % 12:
        witnesses = jax_witnesses(given)
        return Run("jit, XLA optimisation level 0", witnesses, _finals(witnesses))
    alone = frameworks.jax_gradients(*given, level=DEFAULT_LEVEL)
    return Run("jit", jax_witnesses(given, level=DEFAULT_LEVEL), (alone.per_loss, alone.summed))


def _tensorflow(given: Problem, number: int) -> Run:
    """Nine networks in ten eager, one as tf.function."""
    compiled = number % 10 == 0
    witnesses = tensorflow_witnesses(given, compiled=compiled)
    return Run("tf.function" if compiled else "eager", witnesses, _finals(witnesses))


ROUTES: dict[str, Route] = {
    "numpy": Route(_numpy, False, ("numpy",)),
    "torch": Route(_torch, False, ("torch",)),
    "jax": Route(_jax, True, ("jax", "jaxlib")),
    "tensorflow": Route(_tensorflow, True, ("tensorflow", "tensorflow_cpu")),
}
