"""Parameters before and after a step: the rule that made it is named, and no other."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from networks import Problem
from refusals import refused
from test_verify_gradients import shared_two

import pyengine as pe
from pyengine.parameters import Parameters

RULES = [
    pe.SGD(0.1),
    pe.Adam(1e-3),
    pe.Adam(1e-3, style="torch", epsilon=1e-6),
]


def gradient(given: Problem, at: pe.Parameters, coefficients: dict[str, float]) -> np.ndarray[Any, Any]:
    heads = {n: pe.Head(h.layers, h.loss, coefficients[n]) for n, h in given.net.heads.items()}
    net = pe.Network(given.net.n_in, given.net.trunk, heads)
    return net.summed_gradient(at, given.x, given.targets).flat.astype(np.float64)


def moved(given: Problem, rule: Any, terms: list[dict[str, float]]) -> pe.Parameters:
    """One step of one optimizer for each of the sums in turn, each gradient taken where the step before left."""
    here, state = given.params.flat.astype(np.float64), rule.start(given.params.flat)
    for term in terms:
        at = Parameters(given.net.layout, here.astype(given.params.dtype))
        here, state = rule.step(here, gradient(given, at, term), state)
    return Parameters(given.net.layout, here.astype(given.params.dtype))


def explained(given: Problem, after: pe.Parameters, rule: Any) -> pe.Verification:
    return pe.explain_update(given.net, given.params, after, given.x, given.targets, optimizer=rule)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_one_step_on_the_sum_is_summed(rule: Any) -> None:
    given = shared_two()
    report = explained(given, moved(given, rule, [{"digit": 1.0, "ink": 0.5}]), rule)
    assert report, report
    assert report.update is not None
    assert report.update.verdict == "summed"
    data = json.loads(report.to_json())
    assert data["update"]["verdict"] == "summed"
    assert {"name", "misfit"} <= set(data["update"]["hypotheses"][0])
    assert "one step on the sum" in str(report)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_one_step_per_loss_in_turn_is_named(rule: Any) -> None:
    given = shared_two()
    report = explained(given, moved(given, rule, [{"digit": 1.0, "ink": 0.0}, {"digit": 0.0, "ink": 0.5}]), rule)
    assert report.verdict == "INCONSISTENT"
    assert report.update is not None
    assert report.update.verdict == "in turn", report


def test_one_step_on_the_mean_is_averaged() -> None:
    given, rule = shared_two(), pe.SGD(0.1)
    report = explained(given, moved(given, rule, [{"digit": 0.5, "ink": 0.25}]), rule)
    assert report.update is not None
    assert (report.verdict, report.update.verdict) == ("INCONSISTENT", "averaged")
    with pytest.raises(pe.GradientMismatch, match="mean"):
        report.raise_for_failure()


def test_a_step_of_another_length_fits_nothing() -> None:
    given = shared_two()
    report = explained(given, moved(given, pe.Adam(2e-3), [{"digit": 1.0, "ink": 0.5}]), pe.Adam(1e-3))
    assert report.verdict == "INCONSISTENT"


def test_wrong_updates_fail() -> None:
    given = shared_two()
    wide = given.net.parameters({n: v.astype(np.float64) for n, v in given.params.items()})
    refused(lambda: explained(given, wide, pe.SGD(0.1)), TypeError, "after", "float64", "float32")
    net = pe.Network(2, [], {"a": pe.Head([pe.Dense(1)], "mse")})
    params, x, y = net.init(), np.ones((1, 2), np.float32), {"a": np.ones((1, 1), np.float32)}
    refused(lambda: pe.explain_update(net, params, params, x, y), ValueError, "net", "no trunk", "shared layer")
