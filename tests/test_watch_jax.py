"""pe.watch on JAX: optax steps are recorded from inside the user's compiled step, and judged as elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from refusals import refused

import pyengine as pe

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
jnp = jax.numpy

LOSSES = {"digit": "softmax_cross_entropy", "ink": "mse"}
WEIGHTS = {"digit": 1.0, "ink": 0.5}


def params(seed: int = 0) -> Any:
    keys = jax.random.split(jax.random.PRNGKey(seed), 3)
    sizes = {"trunk": (12, 8), "digit": (8, 5), "ink": (8, 2)}
    return {
        name: {"w": jax.random.normal(key, size) / np.sqrt(size[0]), "b": jnp.zeros(size[1])}
        for key, (name, size) in zip(keys, sizes.items(), strict=True)
    }


def apply(p: Any, x: Any) -> Any:
    h = jnp.tanh(x @ p["trunk"]["w"] + p["trunk"]["b"])
    return {name: h @ p[name]["w"] + p[name]["b"] for name in LOSSES}


def batch(seed: int = 0, size: int = 24) -> tuple[Any, dict[str, Any]]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 12)).astype("f4")
    return x, {"digit": rng.integers(0, 5, size), "ink": rng.normal(size=(size, 2)).astype("f4")}


def total(p: Any, x: Any, targets: Any, weights: dict[str, float]) -> Any:
    out = apply(p, x)
    digit = optax.softmax_cross_entropy_with_integer_labels(out["digit"], targets["digit"]).mean()
    return weights["digit"] * digit + weights["ink"] * jnp.mean((out["ink"] - targets["ink"]) ** 2)


def stepper(optimizer: Any, weights: dict[str, float], scale: float = 1.0) -> Any:
    def step(p: Any, state: Any, x: Any, targets: Any) -> Any:
        updates, state = optimizer.update(jax.grad(total)(p, x, targets, weights), state, p)
        return optax.apply_updates(p, jax.tree.map(lambda u: scale * u, updates)), state

    return step


def watched(optimizer: Any, weights: dict[str, float], *, compiled: bool, steps: int = 1, scale: float = 1.0) -> Any:
    """The watch and the parameters after so many steps on one batch."""
    p, (x, targets) = params(), batch()
    with pe.watch(pe.JaxModel(apply, p), LOSSES, optimizer, {"ink": 0.5}) as seen:
        step = stepper(seen.optimizer, weights, scale)
        step = jax.jit(step) if compiled else step
        state = seen.optimizer.init(p)
        for _ in range(steps):
            p, state = step(p, state, x, targets)
    return seen, p


OPTIMIZERS = {
    "adam": lambda: optax.adam(1e-2),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "clipped adamw on a schedule": lambda: optax.chain(
        optax.clip_by_global_norm(0.1), optax.adamw(optax.linear_schedule(1e-2, 1e-3, 10), weight_decay=0.1)
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_compiled_steps_are_seen_and_consistent_with_every_optimizer(name: str) -> None:
    seen, p = watched(OPTIMIZERS[name](), WEIGHTS, compiled=True, steps=2)
    for step, told in ((0, {}), (1, {"after": p})):
        report = seen.report(*batch(), step=step, **told)
        assert report.verdict == "CONSISTENT", report
        assert (report.combination.verdict, report.update.verdict) == ("summed", "summed"), report
        assert report.update.applied.own
    assert not report.notes
    assert report.native["trunk.0.weight"] == "['trunk']['w']"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_that_moved_otherwise_are_caught_with_every_optimizer(name: str) -> None:
    """The gradient is right; the step adds a hundredth more than the updates."""
    seen, p = watched(OPTIMIZERS[name](), WEIGHTS, compiled=True, scale=1.01)
    report = seen.report(*batch(), after=p)
    assert report.verdict == "INCONSISTENT", report
    assert "wrong step" in {d.name for d in report.diagnoses}, report


@pytest.mark.parametrize(("calls", "ink"), [(1, 0.5), (2, 0.5), (2, 0.4)])
def test_accumulation_by_optax_is_judged_by_the_call_that_moves(calls: int, ink: float) -> None:
    """MultiSteps moves nothing but in every second call; what it was given is judged in each."""
    optimizer = optax.MultiSteps(optax.adam(1e-2), 2)
    seen, p = watched(optimizer, {"digit": 1.0, "ink": ink}, compiled=True, steps=calls)
    report = seen.report(*batch(), after=p)
    assert report.ok == (ink == WEIGHTS["ink"]), report
    assert report.combination is not None
    assert report.combination.verdict == ("summed" if report.ok else "other weights")
    assert any("moved nothing" in note for note in report.notes) == (calls == 2)


def test_a_step_that_is_not_compiled_is_seen_and_its_end_is_a_note() -> None:
    seen, _ = watched(optax.adam(1e-2), {"digit": 0.5, "ink": 1.0}, compiled=False)
    report = seen.report(*batch())
    assert report.diagnoses[0].name == "weights exchanged", report
    assert "after=params" in report.notes[0]


def test_watching_changes_no_bit_and_ends_with_the_block() -> None:
    seen, p = watched(optax.adam(1e-2), WEIGHTS, compiled=True)
    optimizer = optax.adam(1e-2)
    alone, _ = jax.jit(stepper(optimizer, WEIGHTS))(params(), optimizer.init(params()), *batch())
    assert [a.tobytes() for a in jax.tree.leaves(p)] == [a.tobytes() for a in jax.tree.leaves(alone)]
    jax.jit(stepper(seen.optimizer, WEIGHTS))(p, seen.optimizer.init(p), *batch())
    jax.effects_barrier()
    assert len(seen.steps) == 1


def test_updates_that_are_not_the_only_change_are_caught() -> None:
    p, (x, targets) = params(), batch()
    optimizer = optax.sgd(0.1)
    with pe.watch(pe.JaxModel(apply, p), LOSSES, optimizer, {"ink": 0.5}) as seen:
        step = jax.jit(stepper(seen.optimizer, WEIGHTS))
        q, state = step(p, seen.optimizer.init(p), x, targets)
        q["trunk"]["b"] = q["trunk"]["b"] + 0.1
        step(q, state, x, targets)
    report = seen.report(x, targets, step=0)
    assert "wrong step" in {d.name for d in report.diagnoses}, report


def test_modules_of_flax_and_equinox_are_watched_by_their_own_pytrees() -> None:
    nnx, eqx = pytest.importorskip("flax.nnx"), pytest.importorskip("equinox")
    x, targets = batch()

    class Flax(nnx.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.trunk, self.ink = nnx.Linear(12, 8, rngs=rngs), nnx.Linear(8, 2, rngs=rngs)

        def __call__(self, rows: Any) -> Any:
            return self.ink(nnx.tanh(self.trunk(rows)))

    model = Flax()
    with pe.watch(model, {"ink": "mse"}, optax.adam(1e-2)) as seen:
        optimizer = nnx.Optimizer(model, seen.optimizer, wrt=nnx.Param)
        optimizer.update(model, nnx.grad(lambda m: jnp.mean((m(x) - targets["ink"]) ** 2))(model))
    report = seen.report(x, {"ink": targets["ink"]})
    assert report.verdict == "CONSISTENT", report
    assert not report.notes

    class Eqx(eqx.Module):  # type: ignore[misc]
        trunk: Any
        ink: Any

        def __call__(self, row: Any) -> Any:
            return self.ink(jnp.tanh(self.trunk(row)))

    keys = jax.random.split(jax.random.PRNGKey(0))
    module = Eqx(eqx.nn.Linear(12, 8, key=keys[0]), eqx.nn.Linear(8, 2, key=keys[1]))
    with pe.watch(module, {"ink": "mse"}, optax.adam(1e-2)) as seen:
        state = seen.optimizer.init(eqx.filter(module, eqx.is_inexact_array))
        # Summed over the features instead of averaged.
        found = eqx.filter_grad(lambda m: jnp.mean(jnp.sum((jax.vmap(m)(x) - targets["ink"]) ** 2, 1)))(module)
        updates, state = seen.optimizer.update(found, state, eqx.filter(module, eqx.is_inexact_array))
    report = seen.report(x, {"ink": targets["ink"]}, after=eqx.apply_updates(module, updates))
    assert report.diagnoses[0].name == "scaled", report
    assert report.diagnoses[0].sentence.startswith("Every configured weight is multiplied by 2")


def test_a_convolution_is_judged_by_jax_alone() -> None:
    p, (x, targets) = {"conv": jnp.ones((3,)) / 3.0, **params()}, batch()

    def convolved(p: Any, x: Any) -> Any:
        return apply(p, jax.vmap(lambda row: jnp.convolve(row, p["conv"], mode="same"))(x))

    def total_of(p: Any, weights: dict[str, float]) -> Any:
        out = convolved(p, x)
        digit = optax.softmax_cross_entropy_with_integer_labels(out["digit"], targets["digit"]).mean()
        return weights["digit"] * digit + weights["ink"] * jnp.mean((out["ink"] - targets["ink"]) ** 2)

    for weights, verdict in ((WEIGHTS, "CONSISTENT"), ({"digit": 1.0, "ink": 0.0}, "INCONSISTENT")):
        with pe.watch(pe.JaxModel(convolved, p), LOSSES, optax.adam(1e-2), {"ink": 0.5}) as seen:

            @jax.jit
            def step(p: Any, state: Any, weights: Any = weights, seen: Any = seen) -> Any:
                updates, state = seen.optimizer.update(jax.grad(total_of)(p, weights), state, p)
                return optax.apply_updates(p, updates)

            after = step(p, seen.optimizer.init(p))
        report = seen.report(x, targets, after=after)
        assert report.verdict == verdict, report
        assert report.refusal
    assert report.diagnoses[0].name == "missing loss", report


def test_what_cannot_be_watched_fails() -> None:
    model, optimizer = pe.JaxModel(apply, params()), optax.sgd(0.1)
    refused(lambda: pe.watch(model, LOSSES, "adam"), TypeError, "optimizer", "is str")
    refused(lambda: pe.watch(model, None, optimizer), ValueError, "losses", "missing")
    with pe.watch(model, LOSSES, optimizer) as seen:
        optimizer.update(params(), optimizer.init(params()))
    refused(lambda: seen.report(*batch()), ValueError, "optimizer", "took no step")
    with pe.watch(model, LOSSES, optimizer) as seen:
        strange = {"nose": jnp.zeros(3)}
        seen.optimizer.update(strange, seen.optimizer.init(strange))
    refused(lambda: seen.report(*batch()), ValueError, "optimizer", "['nose']")
