"""Black-box variances in float32: right to half of its digits, and in float64 where something would be lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks import problem

import pyengine as pe
from pyengine.batch import checked_batch
from pyengine.checks.blackbox import Program
from pyengine.checks.blackbox.narrow import WORTH_NARROWING, Side, linear_form
from pyengine.checks.blackbox.rough import rough_amplitudes

HALF_THE_DIGITS = float(np.sqrt(np.finfo(np.float32).eps))


def program_of(activation: str, scale: float = 1.0) -> tuple[Any, Any, dict[str, Any]]:
    """A program that is large enough for float32, one backward pass, and a random direction of the given size."""
    net = pe.Network(
        96,
        [pe.Dense(128, activation), pe.Dense(64, activation)],
        {
            "a": pe.Head([pe.Dense(10)], "softmax_cross_entropy"),
            "b": pe.Head([pe.Dense(16, activation), pe.Dense(2)], "mse", weight=0.5),
        },
    )
    given = problem(net, "float64", batch=160, weighted=False)
    batch = checked_batch(given.x, given.targets, None, n_in=net.n_in, heads=net.heads, dtype=given.params.dtype)
    program = Program(net, given.params, batch)
    rng = np.random.default_rng(2)
    direction = {name: scale * rng.normal(size=shape) for name, shape in net.layout.shapes.items()}
    assert batch.size * net.layout.size > WORTH_NARROWING
    return program, program.backward({"a": 1.0, "b": 0.5}), direction


def sites(found: Any) -> dict[str, Any]:
    return {
        f"{part} of {name}": value
        for part in ("z", "h", "gz", "gh_in", "seed")
        for name, value in getattr(found, part).items()
    }


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_amplitudes_in_float32_are_those_in_float64_to_half_the_digits(activation: str, scale: float) -> None:
    program, back, direction = program_of(activation, scale)
    exact = sites(program.amplitudes(back, direction))
    found, factor = rough_amplitudes(program, back, direction)
    assert {value.dtype for value in sites(found).values()} == {np.dtype(np.float32)}
    for name, value in sites(found).items():
        apart = np.linalg.norm(factor * value.astype(np.float64) - exact[name])
        assert apart <= HALF_THE_DIGITS * np.linalg.norm(exact[name]), name


def test_where_float32_would_lose_amplitudes_they_are_computed_in_float64() -> None:
    program, back, direction = program_of("tanh")
    # What the first layer changes reaches the others through 1e-30 alone.
    program.trunk[1].w[...] *= 1e-30
    direction = {name: row for name, row in direction.items() if name.startswith("trunk.0.")}
    exact = sites(program.amplitudes(back, direction))
    found, factor = rough_amplitudes(program, back, direction)
    assert factor == 1.0
    for name, value in sites(found).items():
        np.testing.assert_array_equal(value, exact[name])


def test_rows_that_vanish_in_float32_are_formed_in_float64() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.uniform(size=(200, 150)), rng.uniform(size=(120, 150))
    left[3, ::2] = left[150, 1::2] = 0.0
    right[:50, 1::2] *= 2.0**-60
    right[:50, ::2] *= 2.0**-1
    left[3, 1::2] *= 2.0**-1
    assert left.size * len(right) > WORTH_NARROWING
    found = linear_form(Side(left, 2), Side(right, 2), 3.0)
    exact = 3.0 * ((left * left) @ (right * right).T)
    assert exact[3, :50].max() < 2.0**-100
    assert (np.abs(found - exact) <= HALF_THE_DIGITS * exact).all()
    # Without the second look this row would be lost.
    narrow = Side(left, 2).narrow @ Side(right, 2).narrow.T
    assert not (np.abs(narrow[3, :50] - exact[3, :50] / 3.0) <= HALF_THE_DIGITS * exact[3, :50]).any()
