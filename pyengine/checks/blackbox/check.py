"""Judging one gradient: projections and elements against their variances, then kinks, replays and copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from .kinks import Flip, all_flips, ambiguous_units, resolve
from .statistics import Alarm, Gradient, GradientTests, Projection, TensorFinding, dot, ratio_of

Verdict = Literal["CONSISTENT", "INCONSISTENT", "INCONCLUSIVE"]

REPLAY_FACTOR = 3.0
"""A deviation is explained by rounding if correct replays in other orders deviate by a third of it."""


@dataclass(frozen=True)
class Finding:
    """The finding on one gradient, such as ``"summed"`` or ``"per_loss['digit']"``."""

    name: str
    verdict: Verdict
    reason: str
    tensors: tuple[TensorFinding, ...]
    alarms: tuple[Alarm, ...]
    flips: tuple[Flip, ...]
    replayed: bool
    truth: Gradient


def judge_gradient(
    name: str,
    tests: GradientTests,
    gradient: Gradient,
    truth: Gradient,
    replays: Callable[[], Sequence[Gradient]],
) -> Finding:
    """Judge one gradient. ``truth`` is the exact gradient to working accuracy; ``replays`` computes correct ones."""

    def finding(
        verdict: Verdict,
        reason: str,
        alarms: tuple[Alarm, ...] = (),
        flips: tuple[Flip, ...] = (),
        replayed: bool = False,
    ) -> Finding:
        tensors = tuple(tests.tensor(n, gradient, truth) for n in tests.names)
        return Finding(name, verdict, reason, tensors, alarms, flips, replayed, truth)

    if not all(np.isfinite(truth[n]).all() for n in tests.names):
        return finding("INCONCLUSIVE", "the exact gradient is not finite in float64")
    if broken := [n for n in tests.names if not np.isfinite(gradient[n]).all()]:
        correct = replays()
        if all(_overflows(n, gradient, correct) for n in broken):
            return finding(
                "INCONCLUSIVE", f"{broken[0]} overflows where correct computations in its precision overflow too"
            )
        alone = next(n for n in broken if not _overflows(n, gradient, correct))
        return finding("INCONSISTENT", f"{alone} holds a number that is not finite, where the exact gradient is finite")
    found = tests.alarms(gradient, truth)
    if not found:
        return finding("CONSISTENT", "every statistic lies within its limit")
    flips: tuple[Flip, ...] = ()
    undecided, unmoved = False, truth
    if ambiguous_units(tests):
        flips, truth, undecided = resolve(tests, gradient, truth)
        found = tests.alarms(gradient, truth)
        if not found:
            return finding("CONSISTENT", "some units at a kink took its other side, as rounding allows", flips=flips)
    left = _unexplained(tests, found, gradient, truth, unmoved, replays())
    alarms = tuple(alarm for alarm, _ in sorted(left, key=lambda pair: -pair[0].deviation))
    if not alarms:
        return finding("CONSISTENT", "correct replays in other orders deviate as much", flips=flips, replayed=True)
    conspired = any(test is not None and _conspiracy(tests, test, gradient, truth, undecided) > 1.0 for _, test in left)
    verdict: Verdict = "INCONSISTENT"
    reason = str(alarms[0])
    if undecided and not conspired:
        verdict, reason = "INCONCLUSIVE", "more units stand at a kink than the gradient can tell apart"
    elif tests.groups.duplicates and not conspired:
        verdict = "INCONCLUSIVE"
        reason = "copies of samples or units round alike, and the statistics assume that they do not"
    elif (lost := tests.lost) and _bounded(tests, gradient, unmoved):
        verdict = "INCONCLUSIVE"
        reason = f"rounding may leave no digit of {lost}, and the statistics are those of small errors"
    return finding(verdict, reason, alarms, flips, replayed=True)


def _overflows(name: str, gradient: Gradient, correct: Sequence[Gradient]) -> bool:
    """Whether every number of a tensor that is not finite is not finite in some correct computation either."""
    finite = np.isfinite(gradient[name])
    for replay in correct:
        finite = finite | ~np.isfinite(replay[name])
    return bool(finite.all())


def _unexplained(
    tests: GradientTests,
    found: list[tuple[Alarm, Projection | None]],
    gradient: Gradient,
    truth: Gradient,
    unmoved: Gradient,
    replays: Sequence[Gradient],
) -> list[tuple[Alarm, Projection | None]]:
    settled = []
    for replay in replays:
        own = unmoved  # a replay takes its own side of every kink
        if tests.alarms(replay, unmoved) and ambiguous_units(tests):
            _, own, _ = resolve(tests, replay, unmoved)
        settled.append({n: replay[n] - own[n] for n in tests.names})
    left = []
    for alarm, test in found:
        if test is not None:
            seen = max((abs(dot(test.direction, d)) for d in settled), default=0.0)
            observed = abs(dot(test.direction, _difference(gradient, truth)))
        else:
            tensor = alarm.where.partition("[")[0]
            seen = max((float(tests.element_ratios(tensor, d[tensor]).max()) for d in settled), default=0.0)
            observed = alarm.deviation
        if not observed <= REPLAY_FACTOR * seen:
            left.append((alarm, test))
    return left


def _conspiracy(tests: GradientTests, test: Projection, gradient: Gradient, truth: Gradient, undecided: bool) -> float:
    """The deviation over the largest that rounding can cause, with the units that no one can decide on any side."""
    most = tests.conspiracy(test) + (all_flips(tests, test.direction) if undecided else 0.0)
    return ratio_of(abs(dot(test.direction, _difference(gradient, truth))), most)


def _bounded(tests: GradientTests, gradient: Gradient, truth: Gradient) -> bool:
    """Whether every element is within its rigorous bound, which holds for errors of any size."""
    bound = tests.rigorous
    return all(bool((np.abs(gradient[n] - truth[n]) <= bound[n]).all()) for n in tests.names)


def _difference(gradient: Gradient, truth: Gradient) -> dict[str, npt.NDArray[np.float64]]:
    return {name: gradient[name] - truth[name] for name in truth}
