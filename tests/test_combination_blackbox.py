"""α from final gradients: intervals that hold the truth, factors with their suspects, and losses that look alike."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Problem, problem
from test_verify_gradients import combined, correct, judged, shared_two

import pyengine as pe
from pyengine.checks.combination import Combination


def combination_of(given: Problem, gradient: dict[str, np.ndarray]) -> Combination:  # type: ignore[type-arg]
    found = judged(given, summed=gradient).combination
    assert found is not None
    return found


def scaled(given: Problem, factor: float) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    return {n: v * v.dtype.type(factor) for n, v in correct(given).summed.items()}


@pytest.mark.parametrize(
    ("factor", "suspect"),
    [
        (1.0 / 48, "divided by the batch, 48, once more"),
        (48.0, "not divided by the batch, 48"),
        (48.0 / 47, "divided by batch - 1"),
        (0.1, "divided by the features, 10, once more"),
        (2.0, "multiplied by the number of losses, 2"),
        (2.0, "a factor 2 in a squared error"),
        (-1.0, "the opposite sign"),
        (0.25, "4 accumulated batches or replicas, averaged twice"),
        (8.0, "8 accumulated batches or replicas, added"),
        (1024.0, "a loss scale of 1024, left in"),
        (2.0**-16, "a loss scale of 65536, divided out twice"),
    ],
)
def test_a_constant_factor_is_named_with_its_suspects(factor: float, suspect: str) -> None:
    given = shared_two(batch=48)
    found = combination_of(given, scaled(given, factor))
    assert found.verdict == "scaled", found.reason
    assert suspect in found.reason
    assert found.factor is not None
    # The gradient was rounded, and so was the factor.
    assert abs(found.factor / factor - 1.0) <= 2.0 * float(np.finfo("float32").eps)


def test_no_suspect_is_named_where_none_fits() -> None:
    given = shared_two(batch=48)
    found = combination_of(given, scaled(given, 1.3))
    assert found.verdict == "scaled"
    assert "?" not in found.reason


def test_half_of_everything_is_an_average_of_two() -> None:
    given = shared_two()
    assert combination_of(given, scaled(given, 0.5)).verdict == "averaged"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weights", [(1.0, 0.5), (1000.0, 0.5), (1.0, 0.0), (-3.0, 1e-3), (1.0, 500.0)])
def test_the_intervals_hold_the_coefficients_that_are_there(weights: tuple[float, float], dtype: str) -> None:
    given = shared_two(dtype=dtype)
    there = dict(zip(("digit", "ink"), weights, strict=True))
    found = combination_of(given, combined(given, there))
    assert found.verdict not in {"not a combination", "cannot tell"}, found.reason
    for name, alpha in found.alpha.items():
        assert alpha.holds(there[name]), (name, alpha)
        # and they are narrow: a thousandth of the larger coefficient is far outside.
        assert alpha.radius < max(map(abs, weights)) / 1000.0


def test_a_configured_weight_of_zero_is_held_and_its_violation_is_found() -> None:
    given = shared_two()
    heads = {"digit": given.net.heads["digit"], "ink": pe.Head(given.net.heads["ink"].layers, "mse", 0.0)}
    zero = Problem(pe.Network(given.net.n_in, given.net.trunk, heads), given.params, given.x, given.targets, None)
    assert combination_of(zero, dict(correct(zero).summed)).verdict == "summed"
    assert combination_of(zero, combined(zero, {"digit": 1.0, "ink": 1.0})).verdict == "other weights"


@pytest.mark.parametrize(("apart", "told"), [(0.0, False), (1e-7, False), (1e-2, True)])
def test_losses_are_told_apart_only_as_far_as_their_gradients_differ(apart: float, told: bool) -> None:
    head = pe.Head([pe.Dense(1)], "mse")
    net = pe.Network(5, [pe.Dense(6, "tanh")], {"a": head, "b": pe.Head([pe.Dense(1)], "mse", weight=0.5)})
    given = problem(net, "float32", batch=16, weighted=False)
    for part in ("weight", "bias"):
        given.params[f"heads.b.0.{part}"][...] = given.params[f"heads.a.0.{part}"]
    noise = np.random.default_rng(0).standard_normal((16, 1))
    given.targets["b"][...] = given.targets["a"] + (apart * noise).astype("float32")
    right = combination_of(given, dict(correct(given).summed))
    assert right.verdict == ("summed" if told else "cannot tell")
    for alpha in right.alpha.values():
        assert alpha.holds(alpha.configured)
    exchanged = combination_of(given, combined(given, {"a": 0.5, "b": 1.0}))
    assert exchanged.verdict == ("weights exchanged" if told else "cannot tell")


def test_what_is_no_combination_is_called_so_at_any_size() -> None:
    given = shared_two()
    for factor in (1.0, 1000.0):
        gradient = scaled(given, factor)
        gradient["trunk.0.weight"][3, 4] *= np.float32(1.1)
        found = combination_of(given, gradient)
        assert found.verdict == "not a combination"
        assert "trunk.0.weight" in found.reason
