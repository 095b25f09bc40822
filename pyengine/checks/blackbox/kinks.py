"""Units whose pre-activation lies so close to a kink that rounding may have put it on the other side.

Flipping one changes its row of the gradient by a known pattern. The coefficients of the patterns are found by weighted
least squares, row by row and from the last layer down, and rounded to 0 or 1; the gradient is then computed anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .program import KINKED, Program, other_slope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .program import Visit
    from .statistics import GradientTests

F64 = npt.NDArray[np.float64]

NEAR = 12.0
"""Standard deviations of z within which a unit is ambiguous."""
ROUNDS = 3


@dataclass(frozen=True)
class Flip:
    """A unit that took the other side: ``distance`` is |z| in standard deviations of its rounding error."""

    layer: str
    sample: int
    unit: int
    distance: float


def ambiguous_units(tests: GradientTests) -> dict[str, npt.NDArray[np.bool_]]:
    """Per layer, where |z| is within reach of the kink and something depends on it, (batch, n_out)."""
    found = {}
    for visit in tests.program.visits():
        name = visit.layer.name
        if visit.layer.activation.name in KINKED and name in tests.back.gh:
            near = np.abs(visit.z) <= NEAR * np.sqrt(tests.forward.reach[name])
            near &= tests.back.gh[name] != 0.0
            if near.any():
                found[name] = near
    return found


def all_flips(tests: GradientTests, direction: Mapping[str, F64]) -> float:
    """How far all ambiguous units together can move the projection on ``direction``, to first order."""
    near, back = ambiguous_units(tests), tests.back
    amplitudes = tests.program.amplitudes(back, direction).gz
    total = 0.0
    for visit in tests.program.visits():
        name = visit.layer.name
        if name in near and name in amplitudes:
            change = (other_slope(visit.layer, visit.slope) - visit.slope) * back.gh[name]
            total += float(np.abs(amplitudes[name] * change)[near[name]].sum())
    return total


def resolve(
    tests: GradientTests, gradient: Mapping[str, F64], truth: Mapping[str, F64]
) -> tuple[tuple[Flip, ...], dict[str, F64], bool]:
    """The flips that explain the gradient best, the truth with them, and whether some row could not be decided."""
    near, program = ambiguous_units(tests), tests.program
    flips = {name: np.zeros_like(mask) for name, mask in near.items()}
    base = program.backward(tests.back.weights).gradient
    moved = {name: np.array(truth[name]) for name in tests.names}
    undecided = False
    for _ in range(ROUNDS):
        before = {name: mask.copy() for name, mask in flips.items()}
        here = Program(program.net, program.params, program.batch, flips, dtype=program.dtype)
        back = here.backward(tests.back.weights)
        undecided = False
        for visit in reversed(here.visits()):
            name = visit.layer.name
            if name in near:
                difference = gradient[f"{name}.weight"] - moved[f"{name}.weight"]
                bias = gradient[f"{name}.bias"] - moved[f"{name}.bias"] if visit.layer.bias else None
                gh = back.gh[name]
                undecided |= not _decide(tests, visit, gh, near[name], flips[name], difference, bias)
                if not np.array_equal(flips[name], before[name]):
                    break  # what lies below depends on it
        if all(np.array_equal(flips[name], before[name]) for name in flips):
            break
        flipped = Program(program.net, program.params, program.batch, flips, dtype=program.dtype)
        changed = flipped.backward(tests.back.weights).gradient
        moved = {name: truth[name] + (changed[name] - base[name]) for name in tests.names}
    found = []
    for visit in program.visits():
        name = visit.layer.name
        for sample, unit in np.argwhere(flips.get(name, np.zeros((0, 0)))):
            distance = abs(visit.z[sample, unit]) / np.sqrt(tests.forward.reach[name][sample, unit])
            found.append(Flip(name, int(sample), int(unit), float(distance)))
    return tuple(found), moved, undecided


def _decide(
    tests: GradientTests,
    visit: Visit,
    gh: F64,
    near: npt.NDArray[np.bool_],
    flips: npt.NDArray[np.bool_],
    difference: F64,
    bias: F64 | None,
) -> bool:
    """Decide the units of one layer, in place; False where a row has more candidates than it can tell apart."""
    decided = True
    name = visit.layer.name
    change = (other_slope(visit.layer, visit.slope) - visit.slope) * gh
    for unit in np.flatnonzero(near.any(axis=0)):
        samples = np.flatnonzero(near[:, unit])
        patterns = change[samples, unit, None] * visit.h_in[samples]
        target, sigma = difference[unit], np.sqrt(tests.variances.elements.whole(f"{name}.weight")[unit])
        if bias is not None:
            patterns = np.column_stack([patterns, change[samples, unit]])
            target = np.append(target, bias[unit])
            sigma = np.append(sigma, np.sqrt(tests.variances.elements.whole(f"{name}.bias")[unit]))
        kept = sigma > 0.0
        scaled = (patterns[:, kept] / sigma[kept]).T
        # A pattern below the noise can be neither seen nor missed.
        visible = np.flatnonzero(np.abs(scaled).max(axis=0, initial=0.0) > 1.0)
        if visible.size == 0:
            continue
        found, _, rank, _ = np.linalg.lstsq(scaled[:, visible], target[kept] / sigma[kept], rcond=None)
        if rank < visible.size:
            decided = False
            continue
        chosen = samples[visible[found > 0.5]]
        flips[chosen, unit] = ~flips[chosen, unit]
    return decided
