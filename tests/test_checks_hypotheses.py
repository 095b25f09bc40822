"""Hypotheses that need more than the batch: what lay in the buffers, the batch before, clipping, the own optimizer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from steps import correct_step, evidence_of, moved_by, with_gradient

import pyengine as pe
from pyengine import demo
from pyengine.checks.clipping import clipped
from pyengine.checks.hypotheses import ADDED, EARLY, EXCHANGED, MEAN, PREVIOUS, SUM, TURN, UNCLIPPED, WITHOUT
from pyengine.checks.update import OTHER, Update, check_update
from pyengine.parameters import Parameters
from pyengine.witnesses import Clip, Step

WEIGHTS = {"digit": 1.0, "ink": 0.5}


@pytest.fixture(scope="module")
def step() -> Step:
    return correct_step()


def found(step: Step) -> Update:
    return check_update(step, evidence_of(step))


def stepped_on(step: Step, gradient: npt.NDArray[np.float64], rule: pe.Adam | pe.SGD) -> Step:
    """The step with one step of the rule on a flat gradient, which is also what was seen."""
    state = step.state if step.state is not None else rule.start(step.before.flat)
    after = rule.step(step.before.flat, gradient, state)[0].astype(np.float32)
    layout = step.network.layout
    return replace(
        step, optimizer=rule, after=Parameters(layout, after), gradient=Parameters(layout, gradient.astype(np.float64))
    )


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"digit": 1.0, "ink": 0.0}, f"{WITHOUT}: ink"),
        ({"digit": 0.0, "ink": 0.5}, f"{WITHOUT}: digit"),
        ({"digit": 0.5, "ink": 1.0}, EXCHANGED),
    ],
    ids=["ink missing", "digit missing", "exchanged"],
)
def test_losses_missing_or_exchanged_are_named(step: Step, weights: dict[str, float], expected: str) -> None:
    update = found(with_gradient(moved_by(step, pe.Adam(), [weights]), weights))
    assert (update.rule, update.standing) == (expected, "beyond")


def test_step_on_the_previous_batch_is_named(step: Step) -> None:
    x, targets = demo.draw(7, 16)
    stale = with_gradient(replace(step, x=x, targets=targets), WEIGHTS).gradient.flat
    known = replace(stepped_on(step, stale, pe.Adam()), previous=(x, targets))
    assert found(known).rule == PREVIOUS
    assert found(known).verdict == "previous batch"
    assert found(replace(known, previous=None)).rule == OTHER


def test_gradients_that_were_not_zeroed_are_named(step: Step) -> None:
    x, targets = demo.draw(7, 16)
    left = with_gradient(replace(step, x=x, targets=targets), WEIGHTS).gradient
    own = with_gradient(step, WEIGHTS).gradient.flat
    update = found(replace(stepped_on(step, own + left.flat, pe.SGD(0.1)), leftover=left))
    assert (update.rule, update.verdict) == (ADDED, "accumulated")
    assert found(replace(stepped_on(step, own, pe.SGD(0.1)), leftover=left)).rule == SUM


def test_clipping_before_after_and_not_at_all_are_told_apart(step: Step) -> None:
    layout = step.network.layout
    parts = {n: with_gradient(step, {**dict.fromkeys(WEIGHTS, 0.0), n: w}).gradient.flat for n, w in WEIGHTS.items()}
    total = sum(parts.values())
    limit = 0.25 * min(float(np.linalg.norm(part)) for part in parts.values())
    clip = Clip("global_norm", limit)

    def cut(gradient: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return clipped(clip, layout, gradient, np.zeros_like(gradient), 0.0)[0]

    asked = replace(step, clip=clip)
    assert found(stepped_on(asked, cut(total), pe.SGD(0.1))).rule == SUM
    assert found(stepped_on(asked, total, pe.SGD(0.1))).rule == UNCLIPPED
    assert found(stepped_on(asked, cut(parts["digit"]) + cut(parts["ink"]), pe.SGD(0.1))).rule == EARLY


@pytest.mark.parametrize("kind", ["global_norm", "norm", "value"])
def test_clipping_allows_for_the_uncertainty_of_the_gradient(step: Step, kind: str) -> None:
    layout, gradient = step.network.layout, step.gradient.flat
    clip = Clip(kind, 0.01)  # type: ignore[arg-type]
    error = np.full_like(gradient, 1e-4)
    middle, allowed = clipped(clip, layout, gradient, error, step.unit)
    moved, _ = clipped(clip, layout, gradient + 0.5 * error * np.sign(gradient), error, step.unit)
    assert (np.abs(moved - middle) <= allowed).all()
    assert (middle != gradient).any()


def test_memory_of_earlier_steps_is_replayed(step: Step) -> None:
    rule = pe.Adam()
    x, targets = demo.draw(7, 16)
    earlier = with_gradient(replace(step, x=x, targets=targets), WEIGHTS).gradient.flat
    _, state = rule.step(step.before.flat, earlier, rule.start(step.before.flat))
    own = with_gradient(step, WEIGHTS).gradient.flat
    remembering = stepped_on(replace(step, state=state), own, rule)
    assert found(remembering).rule == SUM
    assert found(replace(remembering, state=None)).rule != SUM


class Halving:
    """An optimizer that has no float64 rule: half the gradient's root, with its sign."""

    def __init__(self, before: npt.NDArray[np.float32]) -> None:
        self.here = before.copy()

    def step(self, gradient: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        g = gradient.astype(np.float32)
        self.here = self.here - np.float32(0.5) * np.sign(g) * np.sqrt(np.abs(g))
        return self.here.astype(np.float64)


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ([WEIGHTS], SUM),
        ([{"digit": 0.5, "ink": 0.25}], MEAN),
        ([{"digit": 1.0, "ink": 0.0}, {"digit": 0.0, "ink": 0.5}], f"{TURN}: digit, ink"),
    ],
    ids=["sum", "mean", "in turn"],
)
def test_optimizer_without_a_rule_is_replayed_by_its_own_copy(
    step: Step, terms: list[dict[str, float]], expected: str
) -> None:
    own = Halving(step.before.flat)
    for term in terms:
        at = replace(step, before=Parameters(step.network.layout, own.here))
        after = own.step(with_gradient(at, term).gradient.flat)
    seen = with_gradient(step, terms[0])
    judged = replace(
        seen,
        optimizer=None,
        own=lambda: Halving(step.before.flat),
        own_name="Halving",
        after=Parameters(step.network.layout, after.astype(np.float32)),
        observed=len(terms) == 1,
    )
    update = found(judged)
    assert update.rule == expected
    assert all(h.own and h.ruled is None for h in update.hypotheses)


def test_coinciding_hypotheses_are_reported_and_the_seen_gradient_decides(step: Step) -> None:
    """Without epsilon Adam's first step takes the sum and the mean alike."""
    rule = pe.Adam(epsilon=0.0)
    seen = with_gradient(moved_by(step, rule, [WEIGHTS]), WEIGHTS)
    update = found(seen)
    assert (update.rule, update.coincide) == (SUM, (MEAN,))
    assert "would lead to the same weights" in update.reason
    assert found(replace(seen, observed=False)).rule == "cannot tell"
    half = {name: weight / 2.0 for name, weight in WEIGHTS.items()}
    assert found(with_gradient(seen, half)).rule == MEAN
