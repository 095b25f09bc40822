"""Steps of optax on JAX models that the engine does not know are named by replaying them, compiled steps too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pyengine as pe

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
jnp = jax.numpy

WEIGHTS = {"class": 1.0, "value": 0.5}
LOSSES = {
    "class": lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, y).mean(),
    "value": lambda z, y: jnp.mean((z - y) ** 2),
}
draw = np.random.default_rng(0)


def numbers(*shape: int) -> Any:
    return jnp.asarray(draw.normal(size=shape) / np.sqrt(np.prod(shape[1:])), "float32")


def heads(own: Any, h: Any) -> dict[str, Any]:
    return {"class": h @ own["a"], "value": h @ own["b"]}


def normed(own: Any, x: Any) -> dict[str, Any]:
    """A convolution and batch norm by the batch's own statistics."""
    h = jax.lax.conv(x, own["conv"], (2, 2), "VALID")
    h = (h - h.mean((0, 2, 3), keepdims=True)) * jax.lax.rsqrt(h.var((0, 2, 3), keepdims=True) + 1e-5)
    return heads(own, jax.nn.relu(h * own["scale"][:, None, None]).reshape(len(x), -1))


def attention(own: Any, x: Any) -> dict[str, Any]:
    """Embedding and a block of attention with a residual path."""
    h = own["embedding"][x]
    q, k, v = (h @ own[name] for name in "qkv")
    h = h + jax.nn.softmax(q @ k.swapaxes(1, 2) / np.sqrt(8.0)) @ v
    return heads(own, h.mean(axis=1))


MODELS: dict[str, tuple[Callable[..., Any], dict[str, Any], Any]] = {
    "norm": (
        normed,
        {"conv": numbers(4, 1, 3, 3), "scale": jnp.ones(4), "a": numbers(36, 3), "b": numbers(36, 1)},
        numbers(12, 1, 8, 8) * 8.0,
    ),
    "attention": (
        attention,
        {
            "embedding": numbers(20, 8) * 3.0,
            **{n: numbers(8, 8) for n in "qkv"},
            "a": numbers(8, 3),
            "b": numbers(8, 1),
        },
        jnp.asarray(draw.integers(0, 20, (12, 6))),
    ),
}
TARGETS = {"class": jnp.asarray(draw.integers(0, 3, 12)), "value": numbers(12, 1)}


def watched(kind: str, how: str) -> Any:
    """One honest step, then one that is watched, both compiled."""
    apply, own, x = MODELS[kind]

    def total(own: Any, *parts: tuple[str, float]) -> Any:
        outputs = apply(own, x)
        return sum(factor * WEIGHTS[n] * LOSSES[n](outputs[n], TARGETS[n]) for n, factor in parts)

    both = [("class", 1.0), ("value", 1.0)]
    steps = {
        "summed": [both],
        "averaged": [[("class", 0.5), ("value", 0.5)]],
        "missing loss": [both[:1]],
        "in turn": [both[:1], both[1:]],
    }
    optimizer = optax.adam(1e-2)
    state = optimizer.init(own)
    updates, state = optimizer.update(jax.grad(total)(own, *both), state, own)
    own = optax.apply_updates(own, updates)
    with pe.watch(pe.JaxModel(apply, own), LOSSES, optimizer, WEIGHTS) as seen:

        @jax.jit
        def step(own: Any, state: Any) -> Any:
            for parts in steps[how]:
                updates, state = seen.optimizer.update(jax.grad(total)(own, *parts), state, own)
                own = optax.apply_updates(own, updates)
            return own, state

        after, _ = jax.block_until_ready(step(own, state))
    return seen.report(x, TARGETS, after=after)


@pytest.mark.parametrize("kind", MODELS)
def test_a_compiled_step_on_the_sum_is_named_summed(kind: str) -> None:
    report = watched(kind, "summed")
    assert report.verdict == "CONSISTENT", report
    assert report.update.verdict == "summed"


@pytest.mark.parametrize(
    ("kind", "how"),
    [("norm", "averaged"), ("norm", "missing loss"), ("norm", "in turn"), ("attention", "in turn")],
)
def test_another_compiled_step_is_named(kind: str, how: str) -> None:
    report = watched(kind, how)
    assert report.verdict == "INCONSISTENT", report
    assert report.update.verdict == how, report
