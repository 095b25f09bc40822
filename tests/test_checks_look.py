"""Where there are many shared elements, hypotheses are asked for some of them first: no verdict changes by that."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from steps import moved_by, with_gradient

import pyengine as pe
from pyengine.checks import update as module
from pyengine.checks.hypotheses import MEAN, SEPARATE, SUM, TURN
from pyengine.checks.update import NONE, OTHER, check_update
from pyengine.checks.witnessed import witnessed_evidence
from pyengine.parameters import Parameters
from pyengine.rounding import accumulated, unit_roundoff
from pyengine.witnesses import Step

WEIGHTS = {"a": 1.0, "b": 0.5}


@pytest.fixture(scope="module")
def step() -> Step:
    net = pe.Network(
        n_in=96, trunk=[pe.Dense(96, "tanh"), pe.Dense(96, "relu")],
        heads={"a": pe.Head([pe.Dense(5)], "softmax_cross_entropy", 1.0), "b": pe.Head([pe.Dense(1)], "mse", 0.5)},
    )  # fmt: skip
    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 96)).astype(np.float32)
    targets = {"a": rng.integers(0, 5, 32), "b": rng.standard_normal((32, 1)).astype(np.float32)}
    own = still_step(net, net.init(seed=0), x, targets)
    assert own.trunk_size > 2 * module.MANY
    return with_gradient(own, WEIGHTS)


def still_step(net: pe.Network, before: Parameters, x: Any, targets: Any) -> Step:
    """A step that moved nothing yet."""
    return Step(
        framework="the engine", call="a step", network=net, x=x, targets=targets, before=before, after=before,
        gradient=Parameters(net.layout, np.zeros(net.layout.size)), gradient_source="computed", gradient_roundings=0,
        optimizer=pe.Adam(), native={name: name for name in net.layout.names},
        objective={name: head.loss.name for name, head in net.heads.items()},
    )  # fmt: skip


def judged(step: Step) -> module.Update:
    return check_update(step, witnessed_evidence(step.network, step.before, step.x, step.targets), witnessed_evidence)


@pytest.mark.parametrize(
    ("gradients", "apart", "expected"),
    [
        ([WEIGHTS], False, SUM),
        ([{"a": 0.5, "b": 0.25}], False, MEAN),
        ([{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 0.5}], False, f"{TURN}: a, b"),
        ([{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 0.5}], True, SEPARATE),
        ([{"a": 3.0, "b": 1.0}], False, OTHER),
    ],
    ids=["sum", "mean", "in turn", "apart", "another"],
)
def test_the_verdict_is_that_of_all_elements(
    step: Step, monkeypatch: pytest.MonkeyPatch, gradients: list[dict[str, float]], apart: bool, expected: str
) -> None:
    seen = moved_by(with_gradient(step, gradients[0]), pe.Adam(epsilon=1e-3), gradients, apart=apart)
    found = judged(replace(seen, observed=expected != SEPARATE and not expected.startswith(TURN)))
    monkeypatch.setattr(module, "LOOK", step.trunk_size * 64)
    whole = judged(replace(seen, observed=expected != SEPARATE and not expected.startswith(TURN)))
    assert found.rule == whole.rule == expected
    assert [h.fits for h in found.hypotheses] == [h.fits for h in whole.hypotheses]
    assert (found.uncertain, found.coincide) == (whole.uncertain, whole.coincide)
    for one, other in zip(found.hypotheses, whole.hypotheses, strict=True):
        # What was refuted early is so by no more than by all elements.
        assert one.misfit <= other.misfit
        assert one.elements == step.trunk_size or (not one.fits and one.outside > 0)
        assert one.elements == step.trunk_size or one.name not in (SUM, expected)
    assert found.unmoved == found.hypotheses[-1].misfit
    # Where a hypothesis fits, the step on the gradient that was seen is no more than looked at.
    assert (found.applied.elements < step.trunk_size) == any(h.fits for h in found.hypotheses)


def test_one_element_beside_the_look_refutes_the_sum(step: Step) -> None:
    seen = moved_by(step, pe.SGD(0.1), [WEIGHTS])
    look = module._look(step)
    assert isinstance(look, np.ndarray)
    element = int(np.setdiff1d(np.arange(step.trunk_size), look)[1000])
    flat = seen.after.flat.copy()
    flat[element] += np.float32(0.5)
    assert judged(seen).rule == SUM
    found = judged(replace(seen, after=Parameters(step.network.layout, flat)))
    assert found.rule == NONE
    assert all(h.elements == step.trunk_size for h in found.hypotheses)
    assert found.hypotheses[0].outside == 1


def test_few_elements_of_the_evidence_are_those_of_the_whole(step: Step) -> None:
    some = np.unique(np.random.default_rng(1).integers(step.trunk_size, size=500))
    found = witnessed_evidence(step.network, step.before, step.x, step.targets)
    few = {loss: found.at(loss, some) for loss in WEIGHTS}
    for loss, (gradient, spread) in few.items():
        # Two orders of the same sum in float64, beside what one in float32 is allowed.
        finer = len(step.x) * unit_roundoff("float64") / unit_roundoff("float32")
        assert (np.abs(gradient - found.gradients[loss].flat[some]) <= finer * spread).all()
        # Variances as products in float32 on one side, in float64 on the other; a few scalings round besides.
        tolerance = accumulated(len(step.x) + 16, unit_roundoff("float32"))
        np.testing.assert_allclose(spread, found.spread[loss].flat[some], rtol=tolerance)


def test_where_a_layer_elsewhere_gives_no_number_few_elements_are_those_of_the_whole(step: Step) -> None:
    there = Parameters(step.network.layout, step.before.flat.copy())
    there["trunk.0.bias"][5] = np.nan
    found = witnessed_evidence(step.network, step.before, step.x, step.targets).moved(there)
    assert found is not None
    some = np.arange(step.trunk_size)[-500:]
    assert np.array_equal(found.at("b", some)[0], found.gradients["b"].flat[some], equal_nan=True)


@pytest.mark.parametrize("loss", WEIGHTS)
def test_gradients_elsewhere_at_few_elements_are_those_of_the_whole(step: Step, loss: str) -> None:
    there = Parameters(step.network.layout, step.before.flat * np.float32(1.01))
    found = witnessed_evidence(step.network, step.before, step.x, step.targets).moved(there)
    exact = witnessed_evidence(step.network, there, step.x, step.targets)
    assert found is not None
    last = step.network.layout.offsets["trunk.1.weight"]
    for begin in (0, last):  # the whole trunk, and its last layer, which is computed by itself
        some = np.unique(np.random.default_rng(1).integers(begin, step.trunk_size, size=500))
        gradient, spread = found.at(loss, some)
        assert (np.abs(gradient - exact.gradients[loss].flat[some]) <= spread).all()
        assert not (np.abs(gradient - exact.gradients[loss].flat[some - 1]) <= spread).all()


def test_the_norm_of_a_spread_is_bounded_without_forming_it(step: Step) -> None:
    found = witnessed_evidence(step.network, step.before, step.x, step.targets)
    # Variances in float32 on one side, summed in float64 on the other.
    digits = 1.0 + accumulated(len(step.x) + 16, unit_roundoff("float32"))
    for loss in WEIGHTS:
        for tensor, spread in found.spread[loss].items():
            exact = float(np.linalg.norm(spread))
            # ‖a + b‖ ≤ ‖a‖ + ‖b‖ ≤ √2·‖a + b‖ where no element is negative.
            assert exact <= digits * found.norm(loss, tensor) <= digits**2 * np.sqrt(2.0) * exact


def test_evidence_a_step_away_has_the_gradients_from_there_and_the_spread_from_here(step: Step) -> None:
    found = witnessed_evidence(step.network, step.before, step.x, step.targets)
    there = Parameters(step.network.layout, step.before.flat * np.float32(1.01))
    near, exact = found.moved(there), witnessed_evidence(step.network, there, step.x, step.targets)
    assert near is not None
    for loss in WEIGHTS:
        assert near.spread[loss] is found.spread[loss]
        assert (np.abs(near.gradients[loss].flat - exact.gradients[loss].flat) <= exact.spread[loss].flat).all()
        assert not (np.abs(near.gradients[loss].flat - found.gradients[loss].flat) <= found.spread[loss].flat).all()


UNTOLD = pe.SGD(unit_roundoff("float32"))
"""What the first of two such steps changes of the second's gradient is within that gradient's own rounding."""


@pytest.mark.parametrize("rule", [pe.Adam(epsilon=1e-3), pe.SGD(0.1), UNTOLD], ids=repr)
def test_steps_in_turn_fit_or_miss_alike_where_the_rule_is_decided(step: Step, rule: Any) -> None:
    seen = moved_by(replace(step, optimizer=rule), rule, [WEIGHTS])
    assert not np.array_equal(seen.before.flat, seen.after.flat)
    decided, open_ = judged(seen), judged(replace(seen, observed=False))
    turns = [h.fits for h in decided.hypotheses if h.name.startswith(TURN)]
    assert len(turns) == 2
    assert turns == [h.fits for h in open_.hypotheses if h.name.startswith(TURN)]
    # A rate too small to tell is the truth for a step in turn; a usual one a planted fault.
    assert set(turns) == {rule == UNTOLD}


@pytest.mark.parametrize(("factor", "rule"), [(1.0, SUM), (1.00001, "cannot tell")])
def test_a_certified_total_that_was_applied_leaves_no_spread(step: Step, factor: float, rule: str) -> None:
    optimizer = pe.SGD(0.1)
    seen = replace(moved_by(replace(step, optimizer=optimizer), pe.SGD(0.1 * factor), [WEIGHTS]), optimizer=optimizer)
    evidence = witnessed_evidence(seen.network, seen.before, seen.x, seen.targets)
    found = check_update(seen, replace(evidence, total=seen.gradient), witnessed_evidence)
    assert found.rule == rule, found
    assert found.uncertain == 0
    # The spread of another route would have excused a part of it.
    assert found.hypotheses[0].misfit > check_update(seen, evidence, witnessed_evidence).hypotheses[0].misfit


def test_no_result_keeps_what_the_check_was_made_of() -> None:
    """Large arrays in a circle of references stay until Python looks for circles, and the next check takes fresh
    memory."""
    net = pe.Network(n_in=3, trunk=[pe.Dense(4, "tanh")], heads={"a": pe.Head([pe.Dense(1)], loss="mse")})
    x, t = np.eye(3, dtype="float32"), {"a": np.ones((3, 1), "float32")}
    params = net.init(seed=0)
    pe.verify((net, params), x, t)
    step = moved_by(still_step(net, params, x, t), pe.Adam(), [{"a": 1.0}])
    gc.collect()
    gc.disable()
    try:
        judged(step)
        pe.verify((net, params), x, t)
        pe.verify_gradients(net, params, x, t, summed=net.summed_gradient(params, x, t))
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = {type(one).__module__ for one in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not [name for name in left if name.startswith("pyengine")], left
