"""Units whose pre-activation, and losses whose output, lies so close to a kink that rounding may have put it on the
other side.

Flipping a unit changes its row of the gradient by a known pattern, flipping an output of a loss the whole weight of the
layer before it. The coefficients of the patterns are found by weighted least squares, of units row by row and from the
last layer down, and rounded to 0 or 1, of losses also to ½; the gradient is then computed anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .loss_kinks import KINKED_LOSSES, place
from .program import KINKED, Program, other_slope

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .program import Visit
    from .statistics import GradientTests

F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

NEAR = 12.0
"""Standard deviations of z within which a unit is ambiguous."""
ROUNDS = 4
MOST = 64
"""More outputs of a loss than this are not told apart: their patterns need memory."""


@dataclass(frozen=True)
class Flip:
    """A unit that took the other side: ``distance`` is |z| in standard deviations of its rounding error. Of a loss,
    ``layer`` is its :func:`place`, ``unit`` an output. ``share`` is ½ where the derivative lies between both sides."""

    layer: str
    sample: int
    unit: int
    distance: float
    share: float = 1.0


def ambiguous_units(tests: GradientTests) -> dict[str, Mask]:
    """Per layer, where |z| is within reach of the kink and something depends on it, (batch, n_out)."""
    found = {}
    for visit in tests.program.visits():
        name = visit.layer.name
        if visit.layer.activation.name in KINKED and name in tests.back.gh:
            near = np.abs(visit.z) <= NEAR * np.sqrt(tests.forward.reach[name])
            near &= tests.back.gh[name] != 0.0
            if near.any():
                found[name] = near
    for head in tests.back.weights:
        if isinstance(tests.program.net.heads[head].loss, KINKED_LOSSES):
            near = _distance(tests, head) <= NEAR
            near &= tests.program.loss_kinks(head).jump != 0.0
            if near.any():
                found[place(head)] = near
    return found


def _distance(tests: GradientTests, head: str) -> F64:
    """How far the outputs of a head are from the kinks of its loss, in standard deviations."""
    return tests.program.loss_kinks(head).distance(tests.forward.h_reach[head], tests.p.u)


def flipped(program: Program, flips: Iterable[Flip]) -> Program:
    """The program with these units on their other side."""
    shapes = {visit.layer.name: visit.z.shape for visit in program.visits()}
    places = {place(head): seed.shape for head, seed in program.seeds.items()}
    shapes |= places
    masks: dict[str, npt.NDArray[Any]] = {}
    for flip in flips:
        kind = np.dtype(float if flip.layer in places else bool)
        masks.setdefault(flip.layer, np.zeros(shapes[flip.layer], kind))[flip.sample, flip.unit] = flip.share
    return Program(program.net, program.params, program.batch, masks, dtype=program.dtype)


def all_flips(tests: GradientTests, direction: Mapping[str, F64]) -> float:
    """How far all ambiguous units together can move the projection on ``direction``, to first order."""
    near, back = ambiguous_units(tests), tests.back
    amplitudes = tests.program.amplitudes(back, direction)
    total = 0.0
    for visit in tests.program.visits():
        name = visit.layer.name
        if name in near and name in amplitudes.gz:
            change = (other_slope(visit.layer, visit.slope) - visit.slope) * back.gh[name]
            total += float(np.abs(amplitudes.gz[name] * change)[near[name]].sum())
    for head, weight in back.weights.items():
        if place(head) in near and head in amplitudes.seed:
            kinks = tests.program.loss_kinks(head)
            total += abs(weight) * kinks.moves(near[place(head)], amplitudes.seed[head])
    return total


def resolve(
    tests: GradientTests, gradient: Mapping[str, F64], truth: Mapping[str, F64]
) -> tuple[tuple[Flip, ...], dict[str, F64], bool]:
    """The flips that explain the gradient best, the truth with them, and whether some row could not be decided."""
    near, program = ambiguous_units(tests), tests.program
    flips: dict[str, npt.NDArray[Any]] = {name: np.zeros_like(mask) for name, mask in near.items()}
    flips |= {place(head): np.zeros(near[place(head)].shape) for head in tests.back.weights if place(head) in near}
    base = program.backward(tests.back.weights).gradient
    moved = {name: np.array(truth[name]) for name in tests.names}
    undecided = False
    for _ in range(ROUNDS):
        before = {name: mask.copy() for name, mask in flips.items()}
        here = Program(program.net, program.params, program.batch, flips, dtype=program.dtype)
        back = here.backward(tests.back.weights)
        undecided = False
        for head in back.weights:
            if place(head) in near:
                undecided |= not _decide_loss(tests, here, head, near[place(head)], flips[place(head)], gradient, moved)
        for visit in reversed(here.visits()):
            if any(not np.array_equal(flips[name], before[name]) for name in flips):
                break  # what lies below depends on it
            name = visit.layer.name
            if name in near:
                difference = gradient[f"{name}.weight"] - moved[f"{name}.weight"]
                bias = gradient[f"{name}.bias"] - moved[f"{name}.bias"] if visit.layer.bias else None
                undecided |= not _decide(tests, visit, back.gh[name], near[name], flips[name], difference, bias)
        if all(np.array_equal(flips[name], before[name]) for name in flips):
            break
        after = Program(program.net, program.params, program.batch, flips, dtype=program.dtype)
        changed = after.backward(tests.back.weights).gradient
        moved = {name: truth[name] + (changed[name] - base[name]) for name in tests.names}
    found = []
    for visit in program.visits():
        name = visit.layer.name
        for sample, unit in np.argwhere(flips.get(name, np.zeros((0, 0)))):
            distance = abs(visit.z[sample, unit]) / np.sqrt(tests.forward.reach[name][sample, unit])
            found.append(Flip(name, int(sample), int(unit), float(distance)))
    for head in tests.back.weights:
        for sample, unit in np.argwhere(share := flips.get(place(head), np.zeros((0, 0)))):
            distance = float(_distance(tests, head)[sample, unit])
            found.append(Flip(place(head), int(sample), int(unit), distance, float(share[sample, unit])))
    return tuple(found), moved, undecided


def _decide(
    tests: GradientTests,
    visit: Visit,
    gh: F64,
    near: Mask,
    flips: Mask,
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


def _decide_loss(
    tests: GradientTests,
    here: Program,
    head: str,
    near: Mask,
    share: F64,
    gradient: Mapping[str, F64],
    moved: Mapping[str, F64],
) -> bool:
    """Decide the outputs of one loss, in place, by its last layer; False where they cannot be told apart."""
    last = here.heads[head][-1]
    samples, outputs = np.nonzero(near)
    changes = tests.back.weights[head] * here.loss_kinks(head).each(samples, outputs) * last.slope[samples]
    h = last.h_in[samples]
    names = [f"{last.layer.name}.weight"]
    if last.layer.bias:
        h, names = np.column_stack([h, np.ones(len(h))]), [*names, f"{last.layer.name}.bias"]
    difference = np.column_stack([gradient[name] - moved[name] for name in names])
    sigma = np.sqrt(np.column_stack([tests.variances.elements.whole(name) for name in names]))
    over = np.where(sigma > 0.0, 1.0 / sigma, 0.0)
    # How far each candidate moves the rows of the gradient, in standard deviations: the rest is noise.
    seen = np.array([np.abs(change) * (np.abs(at) * over).max(axis=1) for change, at in zip(changes, h, strict=True)])
    visible = np.flatnonzero(seen.max(axis=1, initial=0.0) > 1.0)
    if visible.size == 0:
        return True
    if visible.size > MOST:
        return False
    rows = np.flatnonzero((seen[visible] > 1.0).any(axis=0))
    patterns = changes[visible][:, rows, None] * h[visible][:, None, :] * over[rows]
    target = (difference * over)[rows].ravel()
    found, _, rank, _ = np.linalg.lstsq(patterns.reshape(visible.size, -1).T, target, rcond=None)
    if rank < visible.size:
        return False
    at = samples[visible], outputs[visible]
    share[at] = np.clip(np.round(2.0 * (share[at] + found)) / 2.0, 0.0, 1.0)
    return True
