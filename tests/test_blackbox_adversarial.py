"""Final gradients of difficult data: correct ones are never called wrong, and a gross fault is, copies or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import frameworks
import numpy as np
import pytest
from fuzz.adversarial import DATA, a_constant_batch_of_8192
from problems import Problem
from staged_runs import everyday

import pyengine as pe
from pyengine.checks.staged.recording import Place, recorded


def verdict_of(given: Problem, summed: Mapping[str, Any]) -> pe.Verification:
    net, params, x, targets, weights = given
    return pe.verify_gradients(net, params, x, targets, weights, summed=summed)


COPIES = {"constant batch", "repeated samples", "repeated units", "constant weights", "rank one", "zero init"}
"""Where samples or units may be copies, so that an alarm need not tell of a fault."""


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("case", DATA)
def test_correct_gradients_of_difficult_data_raise_no_alarm(case: str, activation: str) -> None:
    given = DATA[case](everyday("small", activation=activation))
    report = verdict_of(given, frameworks.torch_gradients(*given).summed)
    allowed = {"CONSISTENT", "INCONCLUSIVE"} if case in COPIES else {"CONSISTENT"}
    assert report.verdict in allowed, report


@pytest.mark.parametrize("case", DATA)
def test_a_scale_of_one_percent_is_caught_in_difficult_data(case: str) -> None:
    given = DATA[case](everyday("small"))
    summed = {name: np.float32(1.01) * value for name, value in frameworks.torch_gradients(*given).summed.items()}
    assert verdict_of(given, summed).verdict == "INCONSISTENT"


def test_a_long_sum_of_one_number_is_no_fault_and_a_missing_hundredth_of_it_is() -> None:
    given = a_constant_batch_of_8192()
    summed = frameworks.torch_gradients(*given).summed
    assert verdict_of(given, summed).verdict != "INCONSISTENT"
    spoilt = {**summed, "heads.b.1.weight": np.float32(0.99) * summed["heads.b.1.weight"]}
    assert verdict_of(given, spoilt).verdict == "INCONSISTENT"


def two_smoothed_classes(label_smoothing: float) -> Problem:
    """Nearly the same outputs in every sample."""
    loss = pe.SoftmaxCrossEntropy(label_smoothing=label_smoothing)
    net = pe.Network(4, [pe.Dense(8, "tanh")], {"only": pe.Head([pe.Dense(8, "gelu"), pe.Dense(2)], loss)})
    rng, params = np.random.default_rng(0), net.init(0)
    x = np.float32(0.02) * rng.standard_normal((3784, 4), dtype=np.float32)
    return Problem(net, params, x, {"only": rng.integers(0, 2, 3784)})


def test_smoothed_targets_times_their_factor_round_alike_in_every_sample_as_replays_show() -> None:
    given = two_smoothed_classes(0.1)
    report = verdict_of(given, frameworks.torch_gradients(*given).summed)
    assert report.verdict == "CONSISTENT", report
    assert report.findings[0].replayed


@pytest.mark.parametrize(("factor", "label_smoothing"), [(4e-6, 0.1), (0.0, 0.10001)])
def test_a_scale_or_a_smoothing_that_is_off_is_caught_in_such_samples(factor: float, label_smoothing: float) -> None:
    summed = frameworks.torch_gradients(*two_smoothed_classes(label_smoothing)).summed
    spoilt = {name: np.float32(1 + factor) * value for name, value in summed.items()}
    assert verdict_of(two_smoothed_classes(0.1), spoilt).verdict == "INCONSISTENT"


# What the statistics cannot decide is INCONCLUSIVE, and only that.


def test_a_small_deviation_among_copies_is_inconclusive_and_the_same_without_copies_inconsistent() -> None:
    given = everyday("small")
    for case, verdict in ((DATA["constant batch"](given), "INCONCLUSIVE"), (given, "INCONSISTENT")):
        summed = {name: np.float32(1 + 4e-6) * g for name, g in frameworks.torch_gradients(*case).summed.items()}
        report = verdict_of(case, summed)
        assert report.verdict == verdict, report
        assert ("copies" in report.findings[0].reason) == (verdict == "INCONCLUSIVE")


def test_an_exact_gradient_that_overflows_is_inconclusive() -> None:
    net = pe.Network(2, [pe.Dense(2)], {"only": pe.Head([pe.Dense(1)], "mse")})
    params = net.init(0, "float64")
    params.flat[:] = 1e160
    zeros = {name: np.zeros_like(value) for name, value in params.items()}
    report = pe.verify_gradients(net, params, np.full((2, 2), 1e160), {"only": np.zeros((2, 1))}, summed=zeros)
    assert report.verdict == "INCONCLUSIVE"
    assert "not finite" in report.findings[0].reason


def test_what_overflows_in_correct_computations_too_is_inconclusive_and_one_nan_beside_it_is_not() -> None:
    net = pe.Network(3, [pe.Dense(4)], {"only": pe.Head([pe.Dense(1)], "mse")})
    params, x = net.init(0), np.array([[1e20, 2e20, -1e20], [3e20, 1e20, 2e20]], np.float32)
    x[:, 2] = [1e-3, 2e-3]
    targets = {"only": np.ones((2, 1), np.float32)}
    summed = {name: value.copy() for name, value in net.summed_gradient(params, x, targets).items()}
    beyond = ~np.isfinite(summed["trunk.0.weight"])
    assert beyond[:, :2].all()
    assert not beyond[:, 2].any()
    for fault, verdict in (
        (None, "INCONCLUSIVE"),
        ("trunk.0.weight", "INCONSISTENT"),
        ("trunk.0.bias", "INCONSISTENT"),
    ):
        given = {name: value.copy() for name, value in summed.items()}
        if fault is not None:
            given[fault][..., -1] = np.nan
        report = pe.verify_gradients(net, params, x, targets, summed=given)
        assert report.verdict == verdict, report
        assert ("overflows" if fault is None else fault) in report.findings[0].reason


def test_more_units_at_a_kink_than_equations_are_inconclusive() -> None:
    net = pe.Network(1, [pe.Dense(1, "relu")], {"only": pe.Head([pe.Dense(1)], "mse")})
    params = net.parameters(
        {
            "trunk.0.weight": np.float32([[1.0]]),
            "trunk.0.bias": np.float32([-1.0]),
            "heads.only.0.weight": np.float32([[1.0]]),
            "heads.only.0.bias": np.float32([0.0]),
        }
    )
    x = (1.0 + np.arange(-4, 4) * 2.0**-24).astype(np.float32)[:, None]
    batch = x, {"only": np.linspace(1.0, 2.0, 8, dtype=np.float32)[:, None]}
    summed = {name: value.copy() for name, value in net.summed_gradient(params, *batch).items()}
    assert pe.verify_gradients(net, params, *batch, summed=summed).verdict == "CONSISTENT"
    summed["trunk.0.bias"] *= np.float32(1.1)
    # Inputs of 1: a flip moves weight and bias alike. The bias alone cannot have moved.
    assert pe.verify_gradients(net, params, *batch, summed=summed).verdict == "INCONSISTENT"
    summed["trunk.0.weight"] *= np.float32(1.1)
    report = pe.verify_gradients(net, params, *batch, summed=summed)
    assert report.verdict == "INCONCLUSIVE", report
    assert "kink" in report.findings[0].reason


@pytest.mark.parametrize(("factor", "expected"), [(1.0, "INCONCLUSIVE"), (1e3, "INCONSISTENT")])
def test_a_derivative_without_digits_is_no_fault_unless_beyond_its_bound(factor: float, expected: str) -> None:
    # Units of tanh so near 1 that 1 - h² has no digit left, in a library whose tanh ends three roundings below 1: the
    # product of two such errors in two layers is 20 times the gradient.
    given = DATA["positive"](everyday("small", activation="tanh"))
    net, params, x, targets, _ = given
    most = np.float32(1.0 - 3.0 * 2.0**-24)

    def clamped(place: Place, value: Any, of: tuple[Any, ...]) -> Any:
        if place.part == "h" and place.key.startswith("trunk"):
            return np.minimum(value, most)
        if place.part == "dz" and place.key.startswith("trunk"):
            h = np.minimum(np.tanh(of[2]), most)
            return of[0] * (np.float32(1.0) - h * h)
        return value

    witnesses = recorded(net, params, x, targets, tamper=clamped)
    assert pe.verify_witnesses(net, params, x, targets, witnesses).verdict == "CERTIFIED"
    assert witnesses.summed is not None
    summed = {name: np.float32(factor) * value for name, value in witnesses.summed.gradient.items()}
    assert verdict_of(given, summed).verdict == expected
