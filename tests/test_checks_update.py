"""The update check finds the rule that moved the weights, among rules that differ by little."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from steps import correct_step, evidence_of, moved_by, with_gradient

import pyengine as pe
from pyengine.checks.hypotheses import MEAN, SEPARATE, STILL, SUM, TURN
from pyengine.checks.update import NONE, OTHER, Update, check_update
from pyengine.parameters import Parameters
from pyengine.witnesses import Step

WEIGHTS = {"digit": 1.0, "ink": 0.5}
DIGIT, INK = {"digit": 1.0, "ink": 0.0}, {"digit": 0.0, "ink": 0.5}
HALF = {"digit": 0.5, "ink": 0.25}


@pytest.fixture(scope="module")
def step() -> Step:
    return correct_step()


def found(step: Step) -> Update:
    return check_update(step, evidence_of(step))


@pytest.mark.parametrize("rule", [pe.Adam(), pe.Adam(epsilon=1e-8, style="torch")], ids=["keras", "torch"])
@pytest.mark.parametrize(
    ("sums", "apart", "expected"),
    [
        ([WEIGHTS], False, SUM),
        ([HALF], False, MEAN),
        ([DIGIT, INK], False, f"{TURN}: digit, ink"),
        ([INK, DIGIT], False, f"{TURN}: ink, digit"),
        ([DIGIT, INK], True, SEPARATE),
    ],
    ids=["sum", "mean", "digit then ink", "ink then digit", "separate"],
)
def test_adam_rule_is_found_and_no_other_fits(
    step: Step, rule: pe.Adam, sums: list[dict[str, float]], apart: bool, expected: str
) -> None:
    update = found(moved_by(step, rule, sums, apart=apart))
    assert update.rule == expected
    assert [h.name for h in update.hypotheses if h.fits] == [expected]
    assert (update.standing == "within") == (expected == SUM)


def test_sgd_cannot_tell_one_optimizer_per_loss_from_the_sum_and_says_so(step: Step) -> None:
    update = found(moved_by(step, pe.SGD(0.01), [WEIGHTS]))
    assert (update.rule, update.standing) == (SUM, "within")
    assert {h.name for h in update.hypotheses if h.fits} == {SUM, SEPARATE}
    assert "mathematically" in update.reason


def test_sgd_steps_in_turn_are_found(step: Step) -> None:
    update = found(moved_by(step, pe.SGD(0.05), [DIGIT, INK]))
    assert update.rule == f"{TURN}: digit, ink"


def test_step_on_another_gradient_is_separated_from_a_wrong_step(step: Step) -> None:
    other = {"digit": 0.3, "ink": 1.0}
    moved = moved_by(step, pe.Adam(), [other])
    update = found(with_gradient(moved, other))
    assert (update.rule, update.standing) == (OTHER, "beyond")
    assert update.applied.fits


def test_unknown_rule_is_refused(step: Step) -> None:
    """A learning rate twice as large fits nothing, though the gradient is right."""
    update = found(replace(moved_by(step, pe.Adam(2e-3), [WEIGHTS]), optimizer=pe.Adam(1e-3)))
    assert (update.rule, update.standing) == (NONE, "beyond")
    assert not update.applied.fits


def test_wrong_epsilon_is_refused(step: Step) -> None:
    """Keras' placement of epsilon where PyTorch's is declared: only elements with tiny gradients show it."""
    update = found(replace(moved_by(step, pe.Adam(style="keras"), [WEIGHTS]), optimizer=pe.Adam(style="torch")))
    assert update.rule not in {SUM, "cannot tell"}


def test_a_step_that_is_no_larger_than_its_bounds_cannot_be_told_from_no_step(step: Step) -> None:
    flat = np.where(step.before.flat == 0.0, np.float32(0.125), step.before.flat)  # a bias of 0 takes any step
    start = with_gradient(replace(step, before=Parameters(step.network.layout, flat)), WEIGHTS)
    rate = float(step.unit * np.abs(flat).min() / 4.0 / np.abs(start.gradient.flat).max())
    update = found(moved_by(start, pe.SGD(rate), [WEIGHTS]))
    assert (update.rule, update.standing) == ("cannot tell", "between")
    assert STILL in update.reason
    assert {SUM, STILL} <= {h.name for h in update.hypotheses if h.fits}
    # The same step at a size that can be seen is told from none.
    clear = found(moved_by(start, pe.SGD(0.01), [WEIGHTS]))
    assert (clear.rule, clear.standing) == (SUM, "within")
    assert clear.unmoved > 1.0


def test_an_optimizer_that_rests_is_right_if_the_sum_was_seen_to_be_given_to_it(step: Step) -> None:
    resting = moved_by(with_gradient(step, WEIGHTS), pe.SGD(0.0), [WEIGHTS])
    assert (found(resting).rule, found(resting).standing) == (SUM, "within")
    assert found(replace(resting, observed=False)).rule == "cannot tell"
    other = found(with_gradient(resting, {"digit": 0.3, "ink": 1.0}))
    assert (other.rule, other.standing) == ("cannot tell", "between")
    moved = np.nextafter(resting.after.flat, np.float32(np.inf))
    assert found(replace(resting, after=Parameters(step.network.layout, moved))).rule != SUM


def test_parameters_that_were_not_stepped_are_named(step: Step) -> None:
    update = found(replace(moved_by(step, pe.Adam(), [WEIGHTS]), after=step.before))
    assert (update.rule, update.verdict, update.standing) == (STILL, "no step", "beyond")
    assert [h.name for h in update.hypotheses if h.fits] == [STILL]


def test_nan_after_the_step_fits_nothing(step: Step) -> None:
    after = step.after.flat.copy()
    after[3] = np.nan
    update = found(replace(step, after=Parameters(step.network.layout, after)))
    assert not any(h.fits for h in update.hypotheses)
    assert update.standing == "beyond"


def test_three_losses_are_replayed_in_all_orders(step: Step) -> None:
    heads = {
        **step.network.heads,
        "mass": pe.Head([pe.Dense(2)], "huber", 0.25),
    }
    net = pe.Network(64, step.network.trunk, heads)
    params = net.init(0)
    targets = {**step.targets, "mass": step.targets["ink"]}
    gradient = net.summed_gradient(params, step.x, targets).flat.astype(np.float64)
    before = params.flat.astype(np.float64)
    rule = pe.Adam()
    after = rule.step(before, gradient, rule.start(before))[0].astype(np.float32)
    three = replace(
        step,
        network=net,
        targets=targets,
        before=params,
        after=Parameters(net.layout, after),
        gradient=Parameters(net.layout, gradient),
        native={name: name for name in net.layout.names},
    )
    update = found(three)
    assert update.rule == SUM
    assert sum(h.name.startswith(TURN) for h in update.hypotheses) == 6
