"""Who may be timed: only who gives the right answer.

The truth is the float64 reference. An answer must hold the rounding bounds of ``pyengine.rounding`` in every entry.

A rigorous bound on a deep, wide network can exceed the gradient itself: many pre-activations lie within rounding of
the ReLU's kink, and the bound allows either side for each. Such a bound would let zeros pass. Where it does (its norm
is not below the norm of the truth), the array is judged by norm as well, by the package's one rule for differences:
the engine's own distance from the truth is what rounding does, the norm of the truth is what a wrong answer does, and
the answer must not be nearer to the second on a logarithmic scale. The result says how many arrays were judged so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import reference, rounding
from ..checks.standing import standing
from .contestant import Answer
from .peers.engine import network
from .sizes import HEADS, Array, Numbers, Size

if TYPE_CHECKING:
    from ..rounding import Excess


@dataclass(frozen=True)
class Agreement:
    """``worst`` is the largest error in units of its bound; ``by_norm`` of ``arrays`` were judged by norm as well.

    ``error`` is the largest relative error of an array, ‖answer - truth‖ / ‖truth‖; ``refusal`` is empty or says why.
    """

    worst: float
    error: float
    by_norm: int
    arrays: int
    refusal: str

    @property
    def holds(self) -> bool:
        return not self.refusal


class Judge:
    """The truth of one size and dtype, its bounds, and the engine's own distance from the truth."""

    def __init__(self, size: Size, numbers: Numbers) -> None:
        net, targets = network(size), {"a": numbers.classes, "b": numbers.values}
        case = (net, net.parameters(numbers.params), numbers.x, targets)
        # The reference is float64 too: beside float32 it counts as exact, beside float64 both sides round.
        against = None if numbers.x.dtype == np.float32 else "float64"
        bounds = rounding.gradient_bounds(*case, against=against, flush_to_zero=True, kinks_at_zero="any")
        self.truth = _answer(reference.gradients(*case))
        self.bounds = _answer(bounds)
        engine = _answer(net.gradients(*case[1:]))
        self.spread = {
            part: {name: _distance(engine[part][name], truth) for name, truth in arrays.items()}
            for part, arrays in self.truth.items()
        }

    def judge(self, answer: Answer, task: str) -> Agreement:
        """Judge every array that the task asks for."""
        parts = (*HEADS, "summed") if task == "per-loss" else ("summed",)
        entries: list[Excess] = []
        refusals: list[str] = []
        errors: list[float] = []
        by_norm = 0
        for part in parts:
            for name, truth in self.truth[part].items():
                label = f"{part}[{name!r}]"
                given = answer.get(part, {}).get(name)
                if given is None or given.shape != truth.shape:
                    got = "is missing" if given is None else f"has shape {given.shape}"
                    refusals.append(f"{label} {got}; expected {truth.shape}")
                    continue
                entries.append(rounding.worst_ratio(label, given, truth, self.bounds[part][name]))
                distance, norm = _distance(given, truth), float(np.linalg.norm(truth))
                errors.append(distance / norm if norm else distance)
                if not np.linalg.norm(self.bounds[part][name]) < norm:
                    by_norm += 1
                    if standing(distance, self.spread[part][name], norm) == "beyond":
                        refusals.append(
                            f"{label}: {distance / norm:.2g} of its norm from the truth; "
                            f"the engine: {self.spread[part][name] / norm:.2g}"
                        )
        refusals += [str(entry) for entry in entries if not entry.holds]
        worst = max((entry.ratio for entry in entries), default=float("inf"))
        error = max(errors, default=float("inf"))
        return Agreement(worst, error, by_norm, len(entries), refusals[0] if refusals else "")


def _answer(held: Any) -> Answer:
    per_loss, summed = held.per_loss, held.summed
    return {head: dict(per_loss[head]) for head in HEADS} | {"summed": dict(summed)}


def _distance(answer: Array, truth: Array) -> float:
    return float(np.linalg.norm(answer.astype(np.float64) - truth))
