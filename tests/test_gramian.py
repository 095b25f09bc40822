"""The Gramian without gradients equals the one from gradients."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from networks import EVERY_PAIR, pair, problem

import pyengine as pe
from pyengine import _core, rounding


def sparse(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.float64]:
    """Mostly 0, else 1 or -1: what a network makes of them stays within the integers that float64 holds exactly."""
    return rng.integers(-1, 2, shape) * (rng.random(shape) < 0.15) * 1.0


@pytest.mark.parametrize("isa", _core.isas())
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [1, 5, 33, 70])
def test_both_ways_are_exact_where_every_sum_is(batch: int, bias: bool, isa: str) -> None:
    rng = np.random.default_rng(batch)
    mse = {"loss": "mse", "reduction": "sum"}
    net = pe.Network(
        n_in=40,
        trunk=[pe.Dense(90, "relu", bias=bias), pe.Dense(50, "linear", bias=bias)],
        heads={
            "a": pe.Head([pe.Dense(1)], **mse),
            "b": pe.Head([pe.Dense(3)], **mse, weight=0.5),
            "c": pe.Head([pe.Dense(2)], loss="mae", reduction="sum"),
        },
    )
    params = net.parameters({name: sparse(rng, *shape) for name, shape in net.layout.shapes.items()})
    x = sparse(rng, batch, 40)
    targets = {name: sparse(rng, batch, head.layers[-1].n_out) for name, head in net.heads.items()}
    before = _core.isa()
    try:
        _core.set_isa(isa)
        gramian = net.gramian(params, x, targets)
        expected = net.gradients(params, x, targets).gramian
    finally:
        _core.set_isa(before)
    assert np.array_equal(gramian, expected)
    assert np.count_nonzero(gramian) == 9


@pytest.mark.parametrize(("activation", "loss", "reduction"), EVERY_PAIR[::7])
def test_gramian_holds_its_bound_where_gradients_are_formed(activation: str, loss: str, reduction: str) -> None:
    case = pair(activation, loss, reduction, "float64", batch=64)
    bounds = rounding.gradient_bounds(*case.arguments)
    truth = pe.oracle.gradients(*case.arguments).gramian
    found = case.net.gramian(*case.arguments[1:])
    assert rounding.worst_ratio("gramian", found, truth, bounds.gramian).holds
    found[0, 1] += 3.0 * bounds.gramian[0, 1]
    assert not rounding.worst_ratio("gramian", found, truth, bounds.gramian).holds


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", [2, 40, 1100])
def test_threads_change_no_bit_of_the_gramian(batch: int, dtype: str) -> None:
    heads = {"a": pe.Head([pe.Dense(5)], "softmax_cross_entropy"), "b": pe.Head([pe.Dense(2)], "mse")}
    case = problem(pe.Network(30, [pe.Dense(300, "tanh"), pe.Dense(200, "gelu")], heads), dtype, batch=batch)
    threads = _core.num_threads()
    try:
        bits = set()
        for n in (1, 2, 3):
            pe.set_num_threads(n)
            bits.add(case.net.gramian(*case.arguments[1:]).tobytes())
    finally:
        pe.set_num_threads(threads)
    assert len(bits) == 1


def test_gramian_without_trunk_is_zero() -> None:
    case = problem(pe.Network(3, [], {"a": pe.Head([pe.Dense(2)], "mse")}))
    assert np.array_equal(case.net.gramian(*case.arguments[1:]), np.zeros((1, 1)))
