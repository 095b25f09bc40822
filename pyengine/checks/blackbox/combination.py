"""G = Σ α_k·g_k over the trunk, with intervals from the variance of each α_k.

α is a linear function of G, α_k = ⟨p_k, G⟩ with p_k a row of the pseudo-inverse. So its deviation is one more
projection: seven standard deviations and the coherent roundings of the loss's own factor make its interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ... import spare
from ...parameters import Parameters
from ..combination import Alpha, Combination, Fit, cosines, features_of, likeliest_factor, pattern, unknown
from ..least_squares import orthonormal
from .narrow import BLOCK
from .statistics import GradientTests

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .check import Finding
    from .statistics import Gradient

F64 = npt.NDArray[np.float64]


def combine(tests: GradientTests, finding: Finding, gradient: Gradient, parts: Mapping[str, Gradient]) -> Combination:
    """Decompose the trunk of ``gradient``; ``parts`` are the gradients of the unweighted losses, kinks resolved."""
    net = tests.program.net
    names = [name for name in tests.names if name.startswith("trunk.")]
    weights = {name: head.weight for name, head in net.heads.items()}
    applied = _joined(gradient, names)
    jacobian = [_joined(part, names) for part in parts.values()]
    if not names or not all(np.isfinite(row).all() for row in (applied, *jacobian)):
        reason = "a gradient is not finite" if names else "there are no shared layers"
        return unknown(reason, weights, applied.size, jacobian)

    rows, independent = _rows(jacobian)
    values = rows @ applied
    # What rounding left of the fit is fitted once more.
    values += rows @ _rest(applied, values, jacobian)
    # Roundings follow the coefficients that are there, not those that were meant.
    there = tests
    if finding.verdict != "CONSISTENT":
        fitted = dict(zip(weights, map(float, values), strict=True))
        there = GradientTests(tests.program, fitted, tests.p, forward=tests.forward)
    trunk = _fit(there, names, applied, jacobian, weights, rows if independent else None, values)
    found = list(trunk.alpha.values())
    if any(
        not np.isfinite(a.radius) or (a.holds(a.configured) and a.holds(0.0) and a.configured != 0.0) for a in found
    ):
        reason = "the per-loss gradients are too small or too nearly parallel to be told apart"
        return Combination("cannot tell", reason, "between", trunk, (), cosines(jacobian))
    if finding.verdict != "CONSISTENT":
        nearest, start = dict(gradient), 0
        for name in names:
            size = tests.truth[name].size
            part = sum((v * row[start : start + size] for v, row in zip(values, jacobian, strict=True)), np.zeros(size))
            nearest[name], start = part.reshape(tests.truth[name].shape), start + size
        strange = [a for a, _ in there.alarms(gradient, nearest) if a.where.startswith("trunk.")]
        if strange:
            reason = f"no weights explain it: {max(strange, key=lambda a: a.deviation)}"
            return Combination("not a combination", reason, "beyond", trunk, (), cosines(jacobian))
    if all(a.holds(a.configured) for a in found):
        reason = "the configured weights lie in every interval"
        return Combination("summed", reason, "within", trunk, (), cosines(jacobian))
    verdict, reason, standing = pattern(trunk, "beyond", features_of(net), tests.program.batch.size)
    factor = likeliest_factor(found) if verdict == "scaled" else None
    return Combination(verdict, reason, standing, trunk, (), cosines(jacobian), factor)


def _rows(jacobian: Sequence[F64]) -> tuple[F64, bool]:
    """The rows p_k of α_k = ⟨p_k, G⟩, and whether the losses have directions of their own."""
    norms = [float(np.linalg.norm(row)) for row in jacobian]
    sizes = np.array([norm if norm > 0.0 else 1.0 for norm in norms])
    q = spare.empty((len(jacobian), jacobian[0].size))
    for into, row, size in zip(q, jacobian, sizes, strict=True):
        np.divide(row, size, out=into)
    q, r = orthonormal(q)
    rows = np.matmul(np.linalg.pinv(r) / sizes[:, None], q, out=spare.empty(q.shape))
    return rows, bool(np.linalg.matrix_rank(r) == len(jacobian))


def _rest(applied: F64, values: F64, jacobian: Sequence[F64]) -> F64:
    """What the sum of the losses' gradients leaves, block by block in the cache."""
    found = spare.empty(applied.size)
    some = np.empty(min(BLOCK, applied.size))
    for start in range(0, applied.size, BLOCK):
        here = slice(start, min(start + BLOCK, applied.size))
        found[here] = applied[here]
        for value, row in zip(values, jacobian, strict=True):
            found[here] -= np.multiply(row[here], value, out=some[: here.stop - start])
    return found


def _fit(
    tests: GradientTests,
    names: list[str],
    applied: F64,
    jacobian: Sequence[F64],
    weights: dict[str, float],
    rows: F64 | None,
    values: F64,
) -> Fit:
    """Every α with its interval; infinite ones without ``rows``, where losses are parallel."""
    alpha = {}
    for k, (loss, weight) in enumerate(weights.items()):
        radius = np.inf
        if rows is not None:
            direction, start = {}, 0
            for n in names:
                shape = tests.truth[n].shape
                end = start + int(np.prod(shape))
                direction[n], start = rows[k, start:end].reshape(shape), end
            radius = tests.test("alpha", "the trunk", direction).limit
        value = float(values[k])
        alpha[loss] = Alpha(value, value - radius, value + radius, float(weight))
    residual = float(np.linalg.norm(_rest(applied, values, jacobian)))
    predicted = float(np.sqrt(sum(tests.variances.elements.sum(n) for n in names)))
    size = float(np.linalg.norm(applied))
    return Fit("trunk", "all shared layers", (applied.size,), alpha, residual, predicted, size, float("nan"))


def _joined(gradient: Gradient, names: list[str]) -> F64:
    """The arrays one after the other, flat: a view where they lie so already."""
    if not names:
        return np.zeros(0)
    if isinstance(gradient, Parameters) and list(gradient.layout.names[: len(names)]) == names:
        return np.asarray(gradient.flat[: sum(gradient[name].size for name in names)])
    return np.concatenate([gradient[name].ravel() for name in names])
