"""Bugs that people had in JAX and optax, as small honest steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import pyengine as pe
from pyengine import demo

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
jnp = jax.numpy

LOSSES = {"digit": "softmax_cross_entropy", "ink": "mse"}
WEIGHTS = {"digit": 1.0, "ink": 0.5}


def params() -> Any:
    """64 → 12 tanh → digit: 10 | ink: 2."""
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    sizes = {"trunk": (64, 12), "digit": (12, 10), "ink": (12, 2)}
    return {
        name: {"w": jax.random.normal(key, size) / np.sqrt(size[0]), "b": jnp.zeros(size[1])}
        for key, (name, size) in zip(keys, sizes.items(), strict=True)
    }


def apply(p: Any, x: Any) -> Any:
    h = jnp.tanh(x @ p["trunk"]["w"] + p["trunk"]["b"])
    return {name: h @ p[name]["w"] + p[name]["b"] for name in LOSSES}


def values(p: Any, x: Any, targets: Any, share: Any = None) -> tuple[Any, Any]:
    """Both losses, averaged over the samples that ``share`` has a 1 for."""
    out = apply(p, x)
    digit = optax.softmax_cross_entropy_with_integer_labels(out["digit"], targets["digit"])
    ink = jnp.mean((out["ink"] - targets["ink"]) ** 2, axis=1)
    share = jnp.ones(len(x)) if share is None else share
    return (share * digit).sum() / share.sum(), (share * ink).sum() / share.sum()


def total(p: Any, x: Any, targets: Any, share: Any = None) -> Any:
    digit, ink = values(p, x, targets, share)
    return digit + 0.5 * ink


@dataclass
class World:
    """One batch and its halves; ``optimizer`` is what the step uses."""

    params: Any = field(default_factory=params)
    data: Any = field(default_factory=lambda: demo.draw(0, 24))
    optimizer: Any = None

    @property
    def x(self) -> Any:
        return self.data[0]

    @property
    def targets(self) -> Any:
        return self.data[1]

    def halves(self) -> tuple[Any, Any]:
        """As two devices have them: (2, 12, …)."""
        return self.x.reshape(2, 12, -1), {n: t.reshape(2, 12, *t.shape[1:]) for n, t in self.targets.items()}

    def step(self, gradients: Any, change: Callable[[Any], Any] = lambda updates: updates) -> Any:
        updates, _ = self.optimizer.update(gradients, self.optimizer.init(self.params), self.params)
        return optax.apply_updates(self.params, change(updates))


@dataclass(frozen=True)
class Bug:
    """``wrong`` and ``right`` are steps: they return the new parameters and run compiled."""

    title: str
    thread: str
    named: str
    wrong: Callable[[World], Any]
    right: Callable[[World], Any]
    asked: dict[str, Any] = field(default_factory=dict)
    told: Callable[[World], dict[str, Any]] = lambda world: {"x": world.x, "targets": world.targets}
    framework: str = "JAX, optax"


def judged(bug: Bug, loop: Callable[[World], Any]) -> pe.Verification:
    world = World()
    with pe.watch(pe.JaxModel(apply, world.params), LOSSES, optax.adam(1e-2), WEIGHTS, **bug.asked) as seen:
        world.optimizer = seen.optimizer
        after = jax.jit(lambda: loop(world))()
    return seen.report(**bug.told(world), after=after)


def expect_named(bug: Bug) -> None:
    report = judged(bug, bug.wrong)
    assert report.verdict == "INCONSISTENT", report
    assert report.diagnoses[0].name == bug.named, report


def expect_consistent(bug: Bug) -> None:
    report = judged(bug, bug.right)
    assert report.verdict == "CONSISTENT", report
    assert not report.diagnoses


def two(world: World) -> dict[str, Any]:
    x, targets = world.halves()
    return {"x": list(x), "targets": [{n: t[i] for n, t in targets.items()} for i in range(2)]}


def devices(world: World, agree: Callable[[Any], Any]) -> Any:
    """Each device differentiates what ``agree`` makes of its loss; the gradients are averaged."""
    x, targets = world.halves()
    one = jax.vmap(
        lambda x, t: jax.lax.pmean(jax.grad(lambda p: agree(total(p, x, t)))(world.params), "devices"),
        axis_name="devices",
    )
    return world.step(jax.tree.map(lambda g: g[0], one(x, targets)))


SHARES = np.stack([np.arange(12) < 4, np.arange(12) < 12])
"""Two devices' batches; the rest is padding."""


def padded(world: World) -> dict[str, Any]:
    x, targets = world.halves()
    return {
        "x": [x[i][kept] for i, kept in enumerate(SHARES)],
        "targets": [{n: t[i][kept] for n, t in targets.items()} for i, kept in enumerate(SHARES)],
    }


def normalised(world: World, whole: bool) -> Any:
    """Each device masks its padding; its loss is divided by its own count, or by the count of all."""
    x, targets = world.halves()
    share = jnp.asarray(SHARES.astype("f4"))

    def one(x: Any, t: Any, s: Any) -> Any:
        found = jax.grad(total)(world.params, x, t, s)
        part = s.sum() / jax.lax.pmean(s.sum(), "devices") if whole else 1.0
        return jax.lax.pmean(jax.tree.map(lambda g: part * g, found), "devices")

    found = jax.vmap(one, axis_name="devices")(x, targets, share)
    return world.step(jax.tree.map(lambda g: g[0], found))


def clipped(given: Any) -> Any:
    return optax.clip_by_global_norm(0.1).update(given, optax.EmptyState())[0]


def gradient(world: World) -> Any:
    return jax.grad(total)(world.params, world.x, world.targets)


def plain(world: World) -> Any:
    return world.step(gradient(world))


def unweighted(world: World) -> Any:
    return world.step(jax.grad(lambda p: sum(values(p, world.x, world.targets)))(world.params))


BUGS = [
    Bug("grad() of a psum() of the loss", "https://github.com/jax-ml/jax/issues/3970", "accumulation not divided",
        lambda w: devices(w, lambda loss: jax.lax.psum(loss, "devices")), lambda w: devices(w, lambda loss: loss),
        told=two),
    Bug("each device divides by its own count of samples without padding",
        "https://github.com/huggingface/transformers/pull/18297", "mean of means", lambda w: normalised(w, False),
        lambda w: normalised(w, True), told=padded),
    Bug("the updates are clipped, not the gradients", "https://github.com/sanchit-gandhi/seq2seq-speech/pull/7",
        "not clipped", lambda w: w.step(gradient(w), clipped), lambda w: w.step(clipped(gradient(w))),
        asked={"clip_norm": 0.1}),
    Bug("the JAX backend drops the weights of the losses", "https://github.com/lululxvi/deepxde/pull/1670",
        "other weights", unweighted, plain),
]  # fmt: skip
