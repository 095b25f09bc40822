"""Parameters: a mapping whose arrays are views of one vector, made from any mapping of arrays."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Case
from refusals import refused

import pyengine as pe
from pyengine.arrays import put

SHAPES = {
    "trunk.0.weight": (7, 5),
    "trunk.0.bias": (7,),
    "trunk.1.weight": (4, 7),
    "trunk.1.bias": (4,),
    "heads.digit.0.weight": (3, 4),
    "heads.digit.0.bias": (3,),
    "heads.ink.0.weight": (6, 4),
    "heads.ink.0.bias": (6,),
    "heads.ink.1.weight": (2, 6),
    "heads.ink.1.bias": (2,),
}


def test_parameters_are_a_mapping_in_layer_order(small: Case) -> None:
    assert {name: array.shape for name, array in small.params.items()} == SHAPES
    assert list(small.params) == list(SHAPES)
    assert len(small.params) == len(SHAPES)
    assert "trunk.0.weight" in small.params
    assert "trunk.9.weight" not in small.params
    with pytest.raises(KeyError):
        small.params["trunk.9.weight"]


def test_every_array_is_a_view_of_the_flat_vector(small: Case) -> None:
    flat = small.params.flat
    assert flat.ndim == 1
    assert flat.size == sum(array.size for array in small.params.values())
    flat[:] = np.arange(flat.size)
    assert np.array_equal(np.concatenate([array.ravel() for array in small.params.values()]), flat)
    small.params["trunk.1.bias"][...] = -1
    assert np.count_nonzero(flat == -1) == 4


def test_init_is_glorot_uniform_with_zero_biases(dtype: str) -> None:
    net = pe.Network(200, [pe.Dense(300)], {"a": pe.Head([pe.Dense(1)], "mse")})
    params = net.init(seed=3, dtype=dtype)
    weight, limit = params["trunk.0.weight"], np.sqrt(6 / 500)
    assert params.dtype == dtype
    assert not params["trunk.0.bias"].any()
    assert np.abs(weight).max() <= np.dtype(dtype).type(limit)
    # 60,000 draws of variance limit²/3, whose squares have variance 4·limit⁴/45: within six standard deviations.
    spread = 6 * np.sqrt(4 * limit**4 / 45 / weight.size)
    assert abs(np.mean(np.square(weight, dtype="float64")) - limit**2 / 3) <= spread


def test_init_with_one_seed_gives_the_same_numbers(small: Case, dtype: str) -> None:
    assert np.array_equal(small.net.init(seed=0, dtype=dtype).flat, small.net.init(seed=0, dtype=dtype).flat)
    assert not np.array_equal(small.net.init(seed=0, dtype=dtype).flat, small.net.init(seed=1, dtype=dtype).flat)


def test_init_is_the_same_in_both_dtypes_up_to_one_rounding(small: Case) -> None:
    assert np.array_equal(small.net.init(seed=5, dtype="float64").flat.astype("float32"), small.net.init(seed=5).flat)


def test_parameters_copy_their_source(small: Case) -> None:
    given = {name: array.copy() for name, array in small.params.items()}
    copied = small.net.parameters(given)
    assert np.array_equal(copied.flat, small.params.flat)
    given["trunk.0.weight"][...] = 0
    assert np.array_equal(copied.flat, small.params.flat)
    assert not np.shares_memory(small.net.parameters(small.params).flat, small.params.flat)


def test_parameters_accept_any_order_and_any_strides(small: Case) -> None:
    given = {name: np.asfortranarray(array) for name, array in reversed(list(small.params.items()))}
    assert np.array_equal(small.net.parameters(given).flat, small.params.flat)


def test_parameters_accept_a_pytorch_state_dict(small: Case) -> None:
    state = {name: torch.from_numpy(array.copy()) for name, array in small.params.items()}
    assert np.array_equal(small.net.parameters(state).flat, small.params.flat)


def test_a_plain_mapping_may_stand_for_parameters(small: Case) -> None:
    assert np.array_equal(small.gradients(params=dict(small.params)).summed.flat, small.gradients().summed.flat)


CLONES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda given: pickle.loads(pickle.dumps(given)),
}


@pytest.mark.parametrize("name", CLONES)
def test_copied_parameters_are_views_of_the_copied_vector(small: Case, name: str) -> None:
    assert small.params["trunk.0.weight"].any(), "the view is made, and worth copying"
    cloned = CLONES[name](small.params)
    assert np.array_equal(cloned.flat, small.params.flat)
    cloned.flat[:] = 3
    assert all((array == 3).all() for array in cloned.values())
    assert not (small.params.flat == 3).any()


@pytest.mark.parametrize("name", CLONES)
def test_copied_gradients_stand_on_their_own(small: Case, name: str) -> None:
    g = small.gradients()
    cloned = CLONES[name](g)
    assert cloned.losses == g.losses
    assert cloned.total_loss == g.total_loss
    assert np.array_equal(cloned.gramian, g.gramian)
    before = g.summed.flat.copy()
    assert small.gradients(x=-small.x, out=cloned) is cloned
    assert np.array_equal(g.summed.flat, before)
    assert np.array_equal(cloned.summed.flat, small.gradients(x=-small.x).summed.flat)


def test_repr_counts_and_names(small: Case, dtype: str) -> None:
    text = repr(small.params)
    assert f"{small.params.flat.size} numbers, {dtype}" in text
    assert "trunk.0.weight: 7x5" in text


def without(name: str) -> Callable[[Case], dict[str, Any]]:
    return lambda case: {key: array for key, array in case.params.items() if key != name}


def changed(name: str, make: Callable[[np.ndarray[Any, Any]], Any]) -> Callable[[Case], dict[str, Any]]:
    return lambda case: {**case.params, name: make(case.params[name])}


WRONG: list[tuple[type[Exception], str, str, Callable[[Case], Any]]] = [
    (ValueError, "parameters", "lacks trunk.0.bias", without("trunk.0.bias")),
    (ValueError, "parameters", "unexpected trunk.2.bias", lambda case: {**case.params, "trunk.2.bias": np.zeros(2)}),
    (TypeError, "parameters", "list", lambda case: list(case.params.values())),
    (TypeError, "parameters", "NoneType", lambda case: None),
    (ValueError, "parameters['trunk.0.weight']", "(5, 7)", changed("trunk.0.weight", np.transpose)),
    (ValueError, "parameters['trunk.0.bias']", "(7, 1)", changed("trunk.0.bias", lambda array: array[:, None])),
    (ValueError, "parameters['trunk.1.weight']", "(28,)", changed("trunk.1.weight", np.ravel)),
    (TypeError, "parameters['trunk.0.bias']", "int64", changed("trunk.0.bias", lambda array: array.astype("int64"))),
    (
        TypeError,
        "parameters['trunk.0.bias']",
        "float16",
        changed("trunk.0.bias", lambda array: array.astype("float16")),
    ),
    (
        TypeError,
        "parameters['trunk.0.bias']",
        "complex128",
        changed("trunk.0.bias", lambda array: array.astype("complex128")),
    ),
    (TypeError, "parameters['trunk.0.bias']", "object", changed("trunk.0.bias", lambda array: array.astype(object))),
    (TypeError, "parameters['trunk.0.bias']", "NoneType", changed("trunk.0.bias", lambda array: None)),
    (
        TypeError,
        "parameters['trunk.0.weight']",
        "Can't export tensors that require gradient",
        changed("trunk.0.weight", lambda array: torch.nn.Parameter(torch.from_numpy(array.copy()))),
    ),
]


@pytest.mark.parametrize(("kind", "argument", "got", "make"), WRONG, ids=[f"{case[1]}-{case[2]}" for case in WRONG])
@pytest.mark.parametrize("route", ["parameters", "forward", "gradients"])
def test_wrong_parameters_fail(
    small: Case, route: str, kind: type[Exception], argument: str, got: str, make: Callable[[Case], Any]
) -> None:
    wrong = make(small)
    routes: dict[str, Callable[[], object]] = {
        "parameters": lambda: small.net.parameters(wrong),
        "forward": lambda: small.net.forward(wrong, small.x),
        "gradients": lambda: small.gradients(params=wrong),
    }
    refused(routes[route], kind, argument, got)


def test_mixed_dtypes_fail(small: Case, dtype: str) -> None:
    other = {"float32": "float64", "float64": "float32"}[dtype]
    mixed = {**small.params, "trunk.1.bias": small.params["trunk.1.bias"].astype(other)}
    refused(lambda: small.net.parameters(mixed), TypeError, "parameters['trunk.1.bias']", other, "one dtype")


def test_parameters_of_another_network_fail(small: Case, dtype: str) -> None:
    other = pe.Network(5, [pe.Dense(7)], {"digit": pe.Head([pe.Dense(3)], "mse")}).init(dtype=dtype)
    refused(lambda: small.gradients(params=other), ValueError, "parameters", "lacks trunk.1.weight")


@pytest.mark.parametrize("wrong", ["float16", "int32", "complex64", "object"])
def test_init_in_another_dtype_fails(small: Case, wrong: str) -> None:
    refused(lambda: small.net.init(dtype=wrong), TypeError, "dtype", wrong, "float32 or float64")


def test_init_in_no_dtype_fails(small: Case) -> None:
    refused(
        lambda: small.net.init(dtype="single precision"), TypeError, "dtype", "single precision", "float32 or float64"
    )


def test_a_flat_vector_of_another_length_fails(small: Case) -> None:
    flat = np.zeros(3)
    refused(
        lambda: pe.Parameters(small.params.layout, flat), ValueError, "flat", "(3,)", f"({small.params.flat.size},)"
    )


@pytest.mark.parametrize("shape", [(1, 1), (3, 16), (40, 17), (65, 100), (7,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_put_is_an_assignment_in_any_order(shape: tuple[int, ...], dtype: str) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for given in (values, np.asfortranarray(values), values[::-1]):
        target = np.empty(shape, dtype)
        put(target, given)
        assert np.array_equal(target, given)
