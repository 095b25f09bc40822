"""G = Σ α_k·g_k over the trunk, with intervals from the variance of each α_k.

α is a linear function of G, α_k = ⟨p_k, G⟩ with p_k a row of the pseudo-inverse. So its deviation is one more
projection: seven standard deviations and the coherent roundings of the loss's own factor make its interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..combination import Alpha, Combination, Fit, common_factor, cosines, pattern

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .check import Finding
    from .statistics import Gradient, GradientTests

F64 = npt.NDArray[np.float64]


def combine(tests: GradientTests, finding: Finding, gradient: Gradient, parts: Mapping[str, Gradient]) -> Combination:
    """Decompose the trunk of ``gradient``; ``parts`` are the gradients of the unweighted losses, kinks resolved."""
    net = tests.program.net
    names = [name for name in tests.names if name.startswith("trunk.")]
    weights = {name: head.weight for name, head in net.heads.items()}
    applied = _joined(gradient, names)
    jacobian = np.stack([_joined(part, names) for part in parts.values()])
    if not names or not np.isfinite(applied).all():
        reason = "the gradient is not finite" if names else "there are no shared layers"
        alpha = {name: Alpha(np.nan, -np.inf, np.inf, weight) for name, weight in weights.items()}
        empty = Fit("trunk", "all shared layers", (applied.size,), alpha, np.nan, np.nan, np.nan, np.nan)
        return Combination("cannot tell", reason, "between", empty, (), cosines(jacobian))

    trunk = _fit(tests, names, applied, jacobian, weights)
    found = list(trunk.alpha.values())
    if any(
        not np.isfinite(a.radius) or (a.holds(a.configured) and a.holds(0.0) and a.configured != 0.0) for a in found
    ):
        reason = "the per-loss gradients are too small or too nearly parallel to be told apart"
        return Combination("cannot tell", reason, "between", trunk, (), cosines(jacobian))
    values = np.array([a.value for a in found])
    configured = np.array(list(weights.values()))
    # The rest, put where the configured sum was: it must pass for that sum.
    straight, start = dict(gradient), 0
    for name in names:
        size = tests.truth[name].size
        part = applied[start : start + size] + (configured - values) @ jacobian[:, start : start + size]
        straight[name], start = part.reshape(tests.truth[name].shape), start + size
    strange = [
        a
        for a, _ in tests.alarms(straight, finding.truth)
        if a.where.startswith("trunk.") and finding.verdict != "CONSISTENT"
    ]
    if strange:
        reason = f"no weights explain it: {max(strange, key=lambda a: a.deviation)}"
        return Combination("not a combination", reason, "beyond", trunk, (), cosines(jacobian))
    if all(a.holds(a.configured) for a in found):
        reason = "the configured weights lie in every interval"
        return Combination("summed", reason, "within", trunk, (), cosines(jacobian))
    verdict, reason, standing = pattern(trunk, "beyond", net, tests.program.batch.size)
    common = common_factor(found) if verdict == "scaled" else None
    factor = None if common is None else sum(common) / 2.0
    return Combination(verdict, reason, standing, trunk, (), cosines(jacobian), factor)


def _fit(tests: GradientTests, names: list[str], applied: F64, jacobian: F64, weights: dict[str, float]) -> Fit:
    norms = np.linalg.norm(jacobian, axis=1)
    scaled = jacobian / np.where(norms > 0.0, norms, 1.0)[:, None]
    # The pseudo-inverse by QR: its K columns are short beside the number of parameters.
    q, r = np.linalg.qr(scaled.T)
    rank = np.linalg.matrix_rank(r)
    inverse = np.linalg.pinv(r) @ q.T
    alpha, values = {}, []
    for k, (loss, weight) in enumerate(weights.items()):
        size = norms[k] if norms[k] > 0.0 else 1.0
        row = inverse[k] / size
        value = float(row @ applied)
        values.append(value)
        radius = np.inf
        if norms[k] > 0.0 and rank == len(weights):
            direction, start = {}, 0
            for n in names:
                shape = tests.truth[n].shape
                direction[n], start = row[start : start + np.prod(shape)].reshape(shape), start + int(np.prod(shape))
            # The coherent part grows with the coefficient that is there, not with the one that was meant.
            radius = tests.test("alpha", "the trunk", direction).limit * max(
                1.0, abs(value / weight) if weight else 1.0
            )
        alpha[loss] = Alpha(value, value - radius, value + radius, float(weight))
    variances = np.concatenate([tests.variances.total[n].ravel() for n in names])
    residual = float(np.linalg.norm(applied - np.array(values) @ jacobian))
    predicted = float(np.sqrt(variances.sum()))
    size = float(np.linalg.norm(applied))
    return Fit("trunk", "all shared layers", (applied.size,), alpha, residual, predicted, size, float("nan"))


def _joined(gradient: Gradient, names: list[str]) -> F64:
    return np.concatenate([gradient[name].ravel() for name in names]) if names else np.zeros(0)
