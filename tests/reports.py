"""Reports with fixed numbers, so that what a user sees can be compared letter by letter on any machine."""

from __future__ import annotations

from dataclasses import replace

from pyengine.checks.combination import Alpha, Combination, Fit
from pyengine.checks.ledger import Ledger, Term
from pyengine.checks.update import MEAN, OTHER, SEPARATE, SUM, TURN, Hypothesis, Update
from pyengine.report import Report, Subject

# The spreads and residuals are exact powers of two: they are scenery, not tolerances.
SPREAD, RESIDUAL = 2.0**-16, 2.0**-23


def _fit(name: str, native: str, digit: float, ink: float) -> Fit:
    alpha = {
        "digit": Alpha(digit, digit - SPREAD, digit + SPREAD, 1.0),
        "ink": Alpha(ink, ink - SPREAD, ink + SPREAD, 0.5),
    }
    return Fit(name, native, (4,), alpha, RESIDUAL, SPREAD, 1.0, RESIDUAL)


def _combination(digit: float, ink: float) -> Combination:
    tensors = tuple(
        _fit(f"trunk.{i}.{kind}", f"shared_{i + 1}/{theirs}", digit, ink)
        for i in range(2)
        for kind, theirs in (("weight", "kernel"), ("bias", "bias"))
    )
    return Combination(
        "summed",
        "the configured weights lie in every interval",
        "within",
        _fit("trunk", "all shared layers", digit, ink),
        tensors,
        ((1.0, -0.25), (-0.25, 1.0)),
    )


def _update() -> Update:
    misfits = {
        SUM: (0.125, 0),
        MEAN: (4309.0, 4346),
        f"{TURN}: digit, ink": (18237.0, 4729),
        f"{TURN}: ink, digit": (55687.0, 4723),
        SEPARATE: (4995.0, 4718),
    }
    hypotheses = tuple(Hypothesis(name, misfit, outside, 6240) for name, (misfit, outside) in misfits.items())
    seen = Hypothesis("the gradient that was applied", 0.25, 0, 6240)
    return Update(SUM, "no other rule fits", "within", "Adam(learning_rate=0.001)", hypotheses, seen, 10009.0, 3)


def consistent() -> Report:
    """A report of a correct Keras step."""
    terms = (
        Term("digit", "categorical_crossentropy", 1.0, 2.5, 2.5, RESIDUAL, SPREAD, "within"),
        Term("ink", "mean_squared_error", 0.5, 0.25, 0.25, -RESIDUAL, SPREAD, "within"),
    )
    return Report(
        subject=Subject(
            framework="Keras",
            call="train_on_batch",
            model="64 → 64 relu → 32 tanh → digit: 10 | ink: 2",
            data="64 of 1,797 handwritten digits, seed 0",
            batch=64,
            dtype="float32",
            heads={"digit": 1.0, "ink": 0.5},
            gradient_source="Adam's first moment after the step, divided by 1 - β₁",
        ),
        ledger=Ledger(terms, 2.625, 2.625, SPREAD, -RESIDUAL, SPREAD, "balanced", "within"),
        combination=_combination(1.0, 0.5),
        update=_update(),
        agreement=2.0**-28,
        environment={"pyengine": "0.1.0", "keras": "3", "machine": "any"},
        reproduce="pyengine demo --framework keras --seed 0 --batch 64",
    )


def refuted() -> Report:
    """A report of a step that averaged the losses and logged too much."""
    good = consistent()
    assert good.ledger is not None
    fits = tuple(replace(h, misfit=max(h.misfit, 7.0), outside=h.outside + 1) for h in good.update.hypotheses)
    return replace(
        good,
        ledger=replace(good.ledger, total=3.0, rest=0.375, verdict="unexplained rest", standing="beyond"),
        combination=replace(
            _combination(0.5, 0.25),
            verdict="averaged",
            reason="every weight is divided by the number of losses, 2",
            standing="beyond",
        ),
        update=replace(
            good.update,
            rule=OTHER,
            reason="the optimizer's step is right for the gradient that it was given",
            standing="beyond",
            hypotheses=fits,
        ),
    )


def inconclusive() -> Report:
    """A report in which the losses cannot be told apart, without a log."""
    good = consistent()
    alpha = {name: replace(a, low=float("-inf"), high=float("inf")) for name, a in good.combination.alpha.items()}
    return replace(
        good,
        ledger=None,
        combination=replace(
            good.combination,
            verdict="cannot tell",
            reason="the per-loss gradients are too small or too nearly parallel to be told apart",
            standing="between",
            trunk=replace(good.combination.trunk, alpha=alpha),
        ),
    )
