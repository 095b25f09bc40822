"""The short way into the kernel: taken by ordinary calls, declined by all others, and the same bits as the long one."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from networks import EVERY_PAIR, Problem, pair

import pyengine as pe


def run(case: Problem, out: pe.Gradients, **changes: Any) -> float | None:
    """What the short way says to this call, with some arguments changed."""
    params = changes.get("params", case.params.flat)
    direct = out._direct
    assert direct is not None
    return direct.run(
        case.net._kernel, True, True, params, changes.get("x", case.x), changes.get("targets", case.targets)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("activation", "loss", "reduction"), EVERY_PAIR)
def test_ordinary_calls_go_the_short_way_with_the_bits_of_the_long_one(
    activation: str, loss: str, reduction: str, dtype: str
) -> None:
    case = pair(activation, loss, reduction, dtype, weighted=False)
    out = case.net.empty_gradients(dtype)
    total = run(case, out)
    long = case.net._checked_gradients(case.params, case.x, case.targets, None, True, True, None)
    assert total == long.total_loss
    assert out.losses == long.losses
    assert np.array_equal(out.summed.flat, long.summed.flat)
    assert np.array_equal(out.gramian, long.gramian)
    for name, part in long.per_loss.items():
        assert np.array_equal(out.per_loss[name].flat, part.flat)


def with_nan(a: Any) -> Any:
    a = a.copy()
    a[0, -1] = np.nan
    return a


UNUSUAL: dict[str, Callable[[Problem], dict[str, Any]]] = {
    "strided x": lambda c: {"x": np.repeat(c.x, 2, axis=1)[:, ::2]},
    "NaN in x": lambda c: {"x": with_nan(c.x)},
    "x of another dtype": lambda c: {"x": c.x.astype("float16")},
    "x as a list": lambda c: {"x": c.x.tolist()},
    "x of a subclass": lambda c: {"x": np.ma.masked_array(c.x)},
    "empty x": lambda c: {"x": c.x[:0]},
    "short parameters": lambda c: {"params": c.params.flat[1:]},
    "a missing target": lambda c: {"targets": {"first": c.targets["first"]}},
    "a renamed target": lambda c: {"targets": {"first": c.targets["first"], "third": c.targets["second"]}},
    "small classes": lambda c: {"targets": {**c.targets, "first": np.zeros(3, np.int32)}},
    "a class too high": lambda c: {"targets": {**c.targets, "first": np.array([0, 3, 1])}},
    "a negative class": lambda c: {"targets": {**c.targets, "first": np.array([0, -1, 1])}},
    "a negative probability": lambda c: {"targets": {**c.targets, "first": -c.targets["first"]}},
    "NaN in a target": lambda c: {"targets": {**c.targets, "second": with_nan(c.targets["second"])}},
    "a flat target": lambda c: {"targets": {**c.targets, "second": c.targets["second"].ravel()}},
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_arguments_are_declined_and_nothing_is_touched(name: str) -> None:
    case = pair("tanh", "softmax_cross_entropy", "mean", weighted=False)
    out = case.net.gradients(*case.arguments[1:])
    before = (out.summed.flat.tobytes(), out.per_loss["first"].flat.tobytes(), dict(out.losses))
    assert run(case, out, **UNUSUAL[name](case)) is None
    assert (out.summed.flat.tobytes(), out.per_loss["first"].flat.tobytes(), dict(out.losses)) == before


def test_a_result_of_another_network_is_declined() -> None:
    case, other = (pair("tanh", "mse", "mean", weighted=False) for _ in range(2))
    assert run(case, other.net.empty_gradients("float64")) is None


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_a_copy_of_a_result_is_whole_and_can_be_filled(copied: Callable[[pe.Gradients], pe.Gradients]) -> None:
    case = pair("tanh", "mse", "mean", weighted=False)
    g = case.net.gradients(*case.arguments[1:])
    other = copied(g)
    assert other.losses == g.losses
    assert np.array_equal(other.summed.flat, g.summed.flat)
    assert np.shares_memory(other.summed["trunk.0.weight"], other.summed.flat)
    other.summed.flat[:] = np.nan
    assert case.net.gradients(*case.arguments[1:], out=other) is other
    assert np.isfinite(other.summed["trunk.0.weight"]).all()


def test_a_copy_of_parameters_has_views_of_its_own_vector() -> None:
    params = pair("tanh", "mse", "mean").params
    assert params["trunk.0.weight"].any()
    other = copy.deepcopy(params)
    other.flat[:] = 7.0
    assert (other["trunk.0.weight"] == 7.0).all()
    assert not (params["trunk.0.weight"] == 7.0).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_forward_sees_one_bad_number_wherever_it_stands(bad: float, dtype: str) -> None:
    net = pe.Network(37, [], {"y": pe.Head([pe.Dense(3)], loss="mse")})
    params = net.init(0, dtype)
    x = np.full((1100, 37), np.finfo(dtype).max, dtype)
    net.forward(params, x)
    for place in [(0, 0), (63, 36), (64, 0), (513, 17), (1023, 36), (1024, 0), (1099, 36)]:
        before = x[place]
        x[place] = bad
        with pytest.raises(ValueError, match=re.escape(f"`x` has {x[place]} at index {place}")):
            net.forward(params, x)
        x[place] = before
