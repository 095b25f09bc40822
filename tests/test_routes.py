"""All routes agree on random networks: kernel (every instruction set), reference, oracle, balls, PyTorch and JAX.

The expected values are the double-double oracle's, itself held inside the balls; every tolerance is the rounding bound
of the case. Sizes lie around the vector widths; seeds make every number reproducible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import balls
import frameworks
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from networks import Problem, problem

import pyengine as pe
from pyengine import _core, rounding
from pyengine.activations import ACTIVATIONS
from pyengine.losses import LOSSES, REDUCTIONS

# 1, w - 1, w, w + 1 and 3w + 2 for vectors of w = 4 and w = 8 numbers.
SIZES = (1, 3, 4, 5, 7, 8, 9, 14, 26)
NETWORKS = 504
SHARDS = 8
# Unit roundoff to which the oracle is held: a product in double-double loses at most some 16·2^-106.
DOUBLE_DOUBLE = 2.0**-102

sizes = st.sampled_from(SIZES)


@st.composite
def activations(draw: st.DrawFn) -> str | pe.Activation:
    name = draw(st.sampled_from(sorted(ACTIVATIONS)))
    if name == "leaky_relu":
        return pe.LeakyReLU(draw(st.sampled_from([0.01, 0.3, -0.5])))
    if name == "elu":
        return pe.ELU(draw(st.sampled_from([1.0, 0.5])))
    return name


@st.composite
def layers(draw: st.DrawFn, least: int, most: int) -> list[pe.Dense]:
    return [
        pe.Dense(draw(sizes), draw(activations()), bias=draw(st.booleans()))
        for _ in range(draw(st.integers(least, most)))
    ]


@st.composite
def heads(draw: st.DrawFn) -> pe.Head:
    name = draw(st.sampled_from(sorted(LOSSES)))
    options: dict[str, Any] = {"reduction": draw(st.sampled_from(REDUCTIONS))}
    if LOSSES[name].target_kind == "classes":
        options["label_smoothing"] = draw(st.sampled_from([0.0, 0.1, 1.0]))
    if name == "huber":
        options["delta"] = draw(st.sampled_from([1.0, 0.25]))
    return pe.Head(draw(layers(1, 2)), name, weight=draw(st.sampled_from([1.0, 0.5, 0.3, -2.0, 0.0])), **options)


@st.composite
def problems(draw: st.DrawFn, dtype: str) -> Problem:
    names = ("a", "b", "c")[: draw(st.integers(1, 3))]
    net = pe.Network(draw(sizes), draw(layers(0, 3)), {name: draw(heads()) for name in names})
    return problem(
        net,
        dtype,
        batch=draw(sizes),
        seed=draw(st.integers(0, 2**16)),
        weighted=draw(st.booleans()),
        classes=draw(st.booleans()),
    )


def on_every_isa(case: Problem) -> Iterator[tuple[str, pe.Gradients]]:
    before = _core.isa()
    try:
        for isa in _core.isas():
            _core.set_isa(isa)
            yield isa, case.net.gradients(*case.arguments[1:])
    finally:
        _core.set_isa(before)


def holds(route: str, bounds: rounding.GradientBounds, actual: Any, expected: Any) -> None:
    excess = bounds.check(actual, expected)
    assert excess == [], f"{route}: {excess[0]}"


def in_shards(dtype: str, shard: int, check: Callable[[Problem], None]) -> None:
    """Run a check on this shard's networks: shards differ in their seed, so that workers share the work."""
    run = given(case=problems(dtype))(check)
    run = settings(
        max_examples=NETWORKS // SHARDS,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )(run)
    seed(shard)(run)()


@pytest.mark.parametrize("shard", range(SHARDS))
def test_all_routes_agree_in_float64(shard: int) -> None:
    def check(case: Problem) -> None:
        truth, low = pe.oracle.gradients_dd(*case.arguments)
        exact = balls.gradients(*case.arguments, unit=DOUBLE_DOUBLE)
        assert balls.outside(exact, truth, low) == []
        bounds = rounding.gradient_bounds(*case.arguments)
        for isa, actual in on_every_isa(case):
            holds(isa, bounds, actual, truth)
        holds("reference", bounds, pe.reference.gradients(*case.arguments), truth)
        # Frameworks choose other derivatives at an exact kink.
        lenient = rounding.gradient_bounds(*case.arguments, kinks_at_zero="any")
        holds("PyTorch", lenient, frameworks.torch_gradients(*case.arguments), truth)
        holds("JAX", lenient, frameworks.jax_gradients(*case.arguments), truth)

    in_shards("float64", shard, check)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_all_routes_agree_in_float32(shard: int) -> None:
    def check(case: Problem) -> None:
        truth = pe.oracle.gradients(*case.arguments)
        bounds = rounding.gradient_bounds(*case.arguments)
        for isa, actual in on_every_isa(case):
            holds(isa, bounds, actual, truth)
        lenient = rounding.gradient_bounds(*case.arguments, kinks_at_zero="any")
        holds("PyTorch", lenient, frameworks.torch_gradients(*case.arguments), truth)
        # The reference widens: it is held to float64's bounds, as is a kernel given widened numbers.
        fine = rounding.gradient_bounds(*case.arguments, dtype="float64")
        holds("reference", fine, pe.reference.gradients(*case.arguments), truth)

    in_shards("float32", shard, check)


FAULTS = {
    "float32": 1e-3,
    "float64": 1e-11,
}


@pytest.mark.parametrize("dtype", FAULTS)
@pytest.mark.parametrize("isa", _core.isas())
def test_a_scaled_gradient_of_any_isa_is_caught(dtype: str, isa: str) -> None:
    net = pe.Network(26, [pe.Dense(14, "tanh"), pe.Dense(9, "gelu")], {"a": pe.Head([pe.Dense(5)], "mse")})
    case = problem(net, dtype, batch=14)
    bounds = rounding.gradient_bounds(*case.arguments)
    truth = pe.oracle.gradients(*case.arguments)
    for name, actual in on_every_isa(case):
        if name == isa:
            holds(isa, bounds, actual, truth)
            actual.summed["trunk.0.weight"][...] *= 1.0 + FAULTS[dtype]
            assert any("trunk.0.weight" in excess.name for excess in bounds.check(actual, truth))


def test_the_drawn_networks_differ_and_cover_every_activation_and_loss() -> None:
    seen: set[str] = set()
    shapes = set()

    def look(case: Problem) -> None:
        every = [*case.net.trunk_layers, *(layer for layers in case.net.head_layers.values() for layer in layers)]
        seen.update(layer.activation.name for layer in every)
        seen.update(head.loss.name for head in case.net.heads.values())
        shapes.add((case.x.shape, tuple(case.net.layout.shapes.items())))

    for shard in range(SHARDS):
        in_shards("float32", shard, look)
    assert seen == {*ACTIVATIONS, *LOSSES}
    assert len(shapes) > NETWORKS // 2
