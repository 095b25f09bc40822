"""The rounding spread covers float32 results, the ledger finds what does not belong, one rule attributes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from steps import correct_step, evidence_of

import pyengine as pe
from pyengine.checks.evidence import Evidence, gather_evidence
from pyengine.checks.ledger import check_ledger
from pyengine.checks.standing import standing, worst
from pyengine.witnesses import Log, Step


@pytest.fixture(scope="module")
def step() -> Step:
    return correct_step()


def ratios(evidence: Evidence) -> dict[str, float]:
    """‖engine float32 - truth‖ / ‖spread‖ of every tensor of every loss."""
    return {
        f"{loss} {name}": float(np.linalg.norm(g32 - evidence.gradients[loss][name]) / np.linalg.norm(spread[name]))
        for loss, spread in evidence.spread.items()
        for name, g32 in evidence.engine_32[loss].items()
    }


@pytest.mark.parametrize("batch", [1, 2, 33])
def test_spread_covers_the_float32_result_of_the_whole_batch(batch: int) -> None:
    found = ratios(evidence_of(correct_step(batch, seed=batch)))
    assert all(ratio <= 1.0 for ratio in found.values()), found
    assert any(ratio > 0.0 for ratio in found.values())


def test_spread_does_not_cover_a_part_per_thousand(step: Step) -> None:
    evidence = evidence_of(step)
    for name, spread in evidence.spread.items():
        assert np.linalg.norm(spread.flat) < np.linalg.norm(evidence.gradients[name].flat) / 1000.0


def test_both_float64_routes_agree_far_below_the_spread(step: Step) -> None:
    # float64 has 2^29 times the resolution of float32; 2^9 of it are left for longer sums.
    assert evidence_of(step).agreement <= 2.0**-20


def test_engine_and_reference_as_truth_give_one_answer(step: Step) -> None:
    by_engine = gather_evidence(step.network, step.before, step.x, step.targets, truth="engine")
    by_reference = evidence_of(step)
    for name, spread in by_engine.spread.items():
        gap = np.abs(by_engine.gradients[name].flat - by_reference.gradients[name].flat)
        assert np.all(gap <= spread.flat)


@pytest.mark.parametrize("reduction", ["sum", "weighted_mean"])
def test_spread_follows_the_reduction(step: Step, reduction: str) -> None:
    heads = {
        "digit": pe.Head([pe.Dense(10)], "softmax_cross_entropy", 1.0, reduction=reduction),
        "ink": pe.Head([pe.Dense(2)], "mse", 0.5, reduction=reduction),
    }
    net = pe.Network(64, step.network.trunk, heads)
    evidence = gather_evidence(net, net.init(1), step.x, step.targets)
    assert all(ratio <= 1.0 for ratio in ratios(evidence).values())
    for name, spread in evidence.spread.items():
        assert np.linalg.norm(spread.flat) < np.linalg.norm(evidence.gradients[name].flat) / 1000.0


def ledger(step: Step, log: Log | None) -> str | None:
    found = check_ledger(replace(step, log=log), evidence_of(step))
    return None if found is None else found.verdict


def test_ledger_of_a_correct_step_balances(step: Step) -> None:
    assert ledger(step, step.log) == "balanced"


def test_ledger_without_a_log_is_absent(step: Step) -> None:
    assert ledger(step, None) is None


def test_regularizer_in_the_total_is_an_unexplained_rest(step: Step) -> None:
    assert step.log is not None
    assert ledger(step, Log(step.log.total + 0.125, step.log.losses)) == "unexplained rest"


def test_loss_divided_by_another_count_is_another_loss(step: Step) -> None:
    assert step.log is not None
    losses = {**step.log.losses, "ink": step.log.losses["ink"] * 2.0}
    total = step.log.total + 0.5 * step.log.losses["ink"]
    assert ledger(step, Log(total, losses)) == "another loss"


def test_nan_in_the_log_does_not_balance(step: Step) -> None:
    assert step.log is not None
    assert ledger(step, Log(float("nan"), step.log.losses)) == "unexplained rest"


@pytest.mark.parametrize(
    ("difference", "expected"),
    [(0.0, "within"), (0.25, "within"), (0.5, "between"), (1.0, "between"), (1.5, "beyond"), (float("nan"), "beyond")],
)
def test_difference_goes_to_the_nearer_size(difference: float, expected: str) -> None:
    assert standing(difference, spread=0.25, size=4.0) == expected


def test_gravest_standing_wins() -> None:
    assert worst(["within", "beyond", "between"]) == "beyond"
    assert worst([]) == "within"
