"""The combination names what was applied to the shared layers, and refuses to name what it cannot tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from steps import correct_step, evidence_of, with_gradient

import pyengine as pe
from pyengine.checks.combination import check_combination
from pyengine.parameters import Parameters
from pyengine.witnesses import Step


@pytest.fixture(scope="module")
def step() -> Step:
    return correct_step()


def verdict(step: Step) -> str:
    return check_combination(step, evidence_of(step)).verdict


def test_weighted_sum_is_summed(step: Step) -> None:
    found = check_combination(step, evidence_of(step))
    assert (found.verdict, found.standing) == ("summed", "within")
    for name, head in step.network.heads.items():
        assert found.alpha[name].low <= head.weight <= found.alpha[name].high
        assert found.alpha[name].low < found.alpha[name].value < found.alpha[name].high


def test_residual_of_the_sum_stays_within_the_spread_on_every_tensor(step: Step) -> None:
    found = check_combination(step, evidence_of(step))
    assert [fit.name for fit in found.tensors] == list(step.shared)
    assert all(fit.residual <= fit.spread for fit in found.tensors)


@pytest.mark.parametrize(
    ("coefficients", "expected"),
    [
        ({"digit": 0.5, "ink": 0.25}, "averaged"),
        ({"digit": 0.5, "ink": 1.0}, "weights exchanged"),
        ({"digit": 1.0, "ink": 0.0}, "missing loss"),
        ({"digit": 0.0, "ink": 0.5}, "missing loss"),
        ({"digit": 0.0625, "ink": 0.03125}, "scaled"),
        ({"digit": 1.0, "ink": 0.75}, "other weights"),
        ({"digit": -1.0, "ink": 0.75}, "other weights"),
    ],
)
def test_wrong_weights_are_named(step: Step, coefficients: dict[str, float], expected: str) -> None:
    found = check_combination(with_gradient(step, coefficients), evidence_of(step))
    assert (found.verdict, found.standing) == (expected, "beyond")


def test_one_damaged_row_is_not_a_combination_and_its_tensor_is_named(step: Step) -> None:
    start = step.network.layout.offsets["trunk.1.weight"]

    def damage(flat: np.ndarray) -> np.ndarray:
        flat[start : start + 64] *= -1.0
        return flat

    found = check_combination(with_gradient(step, {"digit": 1.0, "ink": 0.5}, damage), evidence_of(step))
    assert found.verdict == "not a combination"
    assert "trunk.1.weight" in found.reason


def test_nan_in_the_gradient_is_never_summed(step: Step) -> None:
    def poison(flat: np.ndarray) -> np.ndarray:
        flat[7] = np.nan
        return flat

    found = check_combination(with_gradient(step, {"digit": 1.0, "ink": 0.5}, poison), evidence_of(step))
    assert found.verdict != "summed"
    assert found.standing != "within"


def test_small_departure_is_refused_rather_than_passed(step: Step) -> None:
    """A factor outside the interval, but nearer to the spread than to the weight, is no pass and no accusation."""
    found = check_combination(step, evidence_of(step))
    factor = 1.0 + 4.0 * found.alpha["digit"].radius
    assert verdict(with_gradient(step, {"digit": factor, "ink": 0.5 * factor})) == "cannot tell"


def test_parallel_losses_cannot_be_told_apart(step: Step) -> None:
    twice = {name: pe.Head([pe.Dense(2)], "mse", 1.0) for name in ("first", "second")}
    net = pe.Network(64, step.network.trunk, twice)
    own = net.init(0)
    for kind in ("weight", "bias"):
        own[f"heads.second.0.{kind}"][...] = own[f"heads.first.0.{kind}"]
    targets = dict.fromkeys(twice, step.targets["ink"])
    gradient = net.summed_gradient(own, step.x, targets)
    same = replace(
        step,
        network=net,
        targets=targets,
        before=own,
        gradient=Parameters(net.layout, gradient.flat.astype(np.float64)),
        native={name: name for name in net.layout.names},
    )
    assert verdict(same) == "cannot tell"


def test_single_loss_is_summed_with_its_weight(step: Step) -> None:
    net = pe.Network(64, step.network.trunk, {"ink": pe.Head([pe.Dense(2)], "mse", 3.0)})
    own = net.init(0)
    targets = {"ink": step.targets["ink"]}
    flat = net.summed_gradient(own, step.x, targets).flat.astype(np.float64)
    native = {name: name for name in net.layout.names}
    alone = replace(
        step, network=net, targets=targets, before=own, gradient=Parameters(net.layout, flat), native=native
    )
    assert verdict(alone) == "summed"
    assert verdict(replace(alone, gradient=Parameters(net.layout, 0.5 * flat))) == "scaled"
