"""Sigmoids next to 1: no implementation is farther from the exact value than twice what is left to 1."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pyengine.rounding import unit_roundoff
from pyengine.rounding.activations import sigmoid, sigmoid_slope
from pyengine.rounding.losses import clipped_sigmoid_error

Array = np.ndarray[Any, Any]


def by_torch(z: Array) -> Array:
    torch = pytest.importorskip("torch")
    return np.asarray(torch.sigmoid(torch.from_numpy(z)).numpy())


def by_jax(z: Array) -> Array:
    jax = pytest.importorskip("jax")
    with jax.enable_x64(z.dtype == np.float64):
        return np.asarray(jax.jit(jax.nn.sigmoid)(z))


def by_tensorflow(z: Array) -> Array:
    tf = pytest.importorskip("tensorflow")
    return np.asarray(tf.sigmoid(z))


def textbook(z: Array) -> Array:
    one = z.dtype.type(1)
    return np.asarray(one / (one + np.exp(-z)))


def places(dtype: str) -> Array:
    """Numbers from where the plain bound holds to where nothing of 1 - p is left, and far beyond."""
    top = 45.0 if dtype == "float64" else 25.0
    return np.concatenate([np.linspace(5.0, top, 1 << 16), np.geomspace(top, 1e30, 1 << 8)]).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("route", [textbook, by_torch, by_jax, by_tensorflow])
def test_a_sigmoid_next_to_1_errs_by_no_more_than_it_may(route: Callable[[Array], Array], dtype: str) -> None:
    z = places(dtype)
    wide, u = z.astype(np.float64), unit_roundoff(dtype)
    allowed = clipped_sigmoid_error(wide, 0.0, sigmoid_slope(wide), u)
    # 1 - p loses nothing as sigmoid(-z), where p itself has no digits left for it.
    left = sigmoid(-wide)
    error = np.abs((1.0 - route(z).astype(np.float64)) - left)
    assert (error <= allowed).all(), (z[error > allowed], sys.modules.keys() & {"torch", "jax", "tensorflow"})
    assert (allowed <= 2.0 * left).all()
    # What fell short of 1 by two units, where it has to be 1, is caught.
    short = np.abs(2.0 * u - left)
    assert (short[-256:] > allowed[-256:]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reach", [0.25, 4.0])
def test_within_reach_the_error_is_that_of_the_worst_place(reach: float, dtype: str) -> None:
    z, u = places(dtype).astype(np.float64), unit_roundoff(dtype)
    allowed = clipped_sigmoid_error(z, reach, sigmoid_slope(np.maximum(z - reach, 0.0)), u)
    for there in (z - reach, z, z + reach):
        assert (clipped_sigmoid_error(there, 0.0, sigmoid_slope(there), u) <= allowed).all()
    # Where what is left to 1 decides, it excuses less at z itself than where z is too large by its reach.
    here, left = clipped_sigmoid_error(z, 0.0, sigmoid_slope(z), u), 2.0 * sigmoid(-z)
    decides = (here == left) & (left > 0.0)
    assert decides.any()
    assert (here[decides] < allowed[decides]).all()
