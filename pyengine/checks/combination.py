"""The combination: is the gradient G that the trunk received Σ α_k·g_k of the per-loss gradients, and with which α?

G = Σ α_k·g_k is solved by least squares over the whole trunk, and over each shared tensor alone. With uncertainty U of
G (the rounding spread of the losses under their weights, plus the roundings of reading G), every α_k comes with the
interval α_k ± Σ_i |p_ki|·U_i, where p_k is row k of the pseudo-inverse: the farthest that α_k can move while G stays
within U.

The verdict follows from :func:`pyengine.checks.standing.standing`:

1. If a per-loss gradient is no larger than its own spread, or an interval holds both the configured weight and zero,
   the losses cannot be told apart at this batch: *cannot tell*.
2. The residual ‖G - Σ α_k·g_k‖ is compared with ‖U‖ and ‖G‖. Beyond: *not a combination*. Between: *cannot tell*.
3. All configured weights within the intervals: *summed*.
4. Otherwise the first pattern whose weights lie in all intervals: *averaged* (weights/K), *weights exchanged* (a
   permutation), *missing loss* (zero for one, the configured weight for the others), *scaled by c* (one factor for
   all).
5. Otherwise *other weights* if some α_k is beyond, else *cannot tell*.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..witnesses import Step
from .evidence import Evidence
from .standing import Standing, standing, worst

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Alpha:
    """One fitted coefficient with its interval, beside the configured weight."""

    value: float
    low: float
    high: float
    configured: float

    @property
    def radius(self) -> float:
        return (self.high - self.low) / 2.0

    def holds(self, weight: float) -> bool:
        return self.low <= weight <= self.high

    @property
    def standing(self) -> Standing:
        return standing(abs(self.value - self.configured), self.radius, abs(self.configured))


@dataclass(frozen=True)
class Fit:
    """The decomposition of one tensor, or of the whole trunk: coefficients; norms of residual, spread and gradient."""

    name: str
    native: str
    shape: tuple[int, ...]
    alpha: dict[str, Alpha]
    residual: float
    spread: float
    size: float
    engine_residual: float

    @property
    def standing(self) -> Standing:
        return standing(self.residual, self.spread, self.size)


@dataclass(frozen=True)
class Combination:
    """The finding: ``verdict`` and ``reason`` in words, the whole trunk, its tensors, the cosines of the losses'
    gradients.

    ``engine_residual`` in each fit is what the engine's own float32 gradient leaves against its float64 one, the same
    norm for the same batch.
    """

    verdict: str
    reason: str
    standing: Standing
    trunk: Fit
    tensors: tuple[Fit, ...]
    cosine: tuple[tuple[float, ...], ...]

    @property
    def alpha(self) -> dict[str, Alpha]:
        return self.trunk.alpha


def check_combination(step: Step, evidence: Evidence) -> Combination:
    """Decompose the applied gradient at the shared layers."""
    size = step.trunk_size
    jacobian, jacobian_spread = evidence.trunk(size), evidence.trunk_spread(size)
    weights = np.array([head.weight for head in step.network.heads.values()])
    applied = step.gradient.flat[:size]
    uncertainty = np.abs(weights) @ jacobian_spread + step.gradient_roundings * step.unit * np.abs(applied)
    engine = weights @ np.stack([g.flat[:size].astype(np.float64) for g in evidence.engine_32.values()])

    def fit(name: str, native: str, shape: tuple[int, ...], part: slice) -> Fit:
        alpha = _solve(jacobian[:, part], jacobian_spread[:, part], applied[part], uncertainty[part])
        values = np.array([value for value, _ in alpha])
        return Fit(
            name=name,
            native=native,
            shape=shape,
            alpha={
                head: Alpha(value, value - radius, value + radius, float(weight))
                for head, weight, (value, radius) in zip(step.network.heads, weights, alpha, strict=True)
            },
            residual=_norm(applied[part] - values @ jacobian[:, part]),
            spread=_norm(uncertainty[part]),
            size=_norm(applied[part]),
            engine_residual=_norm(engine[part] - weights @ jacobian[:, part]),
        )

    layout = step.network.layout
    tensors = []
    for name in step.shared:
        start, shape = layout.offsets[name], layout.shapes[name]
        tensors.append(fit(name, step.native[name], shape, slice(start, start + math.prod(shape))))
    trunk = fit("trunk", "all shared layers", (size,), slice(0, size))
    verdict, reason, found = _judge(trunk, tensors)
    return Combination(verdict, reason, found, trunk, tuple(tensors), _cosine(jacobian))


def _solve(
    jacobian: Vector, jacobian_spread: Vector, applied: Vector, uncertainty: Vector
) -> list[tuple[float, float]]:
    """Least-squares coefficients and the radii of their intervals; infinite where a loss has no direction of its
    own."""
    norms = np.linalg.norm(jacobian, axis=1)
    scaled = jacobian / np.where(norms > 0.0, norms, 1.0)[:, None]
    inverse = np.linalg.pinv(scaled.T)
    found = []
    for k, norm in enumerate(norms):
        others = np.delete(scaled, k, axis=0)
        imitated = np.linalg.lstsq(others.T, jacobian[k], rcond=None)[0] @ others
        size = norm if norm > 0.0 else 1.0
        known = _norm(jacobian[k] - imitated) > _norm(jacobian_spread[k])
        radius = float(np.abs(inverse[k]) @ uncertainty) / size if known else math.inf
        found.append((float(inverse[k] @ applied) / size, radius))
    return found


def _judge(trunk: Fit, tensors: list[Fit]) -> tuple[str, str, Standing]:
    alpha = list(trunk.alpha.values())
    if any(
        not math.isfinite(a.radius) or (a.holds(a.configured) and a.holds(0.0) and a.configured != 0.0) for a in alpha
    ):
        return "cannot tell", "the per-loss gradients are too small or too nearly parallel to be told apart", "between"
    by_residual = worst([trunk.standing, *(tensor.standing for tensor in tensors)])
    if by_residual == "beyond":
        culprit = next((t for t in tensors if t.standing == "beyond"), trunk)
        return (
            "not a combination",
            f"no weights explain {culprit.native}: the residual is {culprit.residual / culprit.size:.1e} of it",
            "beyond",
        )
    if by_residual == "between":
        return (
            "cannot tell",
            "the residual exceeds the rounding spread, yet is far smaller than the gradient",
            "between",
        )
    configured = [a.configured for a in alpha]
    if _all_hold(alpha, configured):
        return "summed", "the configured weights lie in every interval", "within"
    return _pattern(trunk, alpha, configured)


def _pattern(trunk: Fit, alpha: list[Alpha], configured: list[float]) -> tuple[str, str, Standing]:
    names, k = list(trunk.alpha), len(alpha)
    if _all_hold(alpha, [w / k for w in configured]):
        return "averaged", f"every weight is divided by the number of losses, {k}", "beyond"
    for order in itertools.islice(itertools.permutations(configured), 720):
        if list(order) != configured and _all_hold(alpha, list(order)):
            return "weights exchanged", "the configured weights are there, at other losses", "beyond"
    missing = [name for name, a in trunk.alpha.items() if a.holds(0.0) and not a.holds(a.configured)]
    if missing and all(trunk.alpha[name].holds(trunk.alpha[name].configured) for name in names if name not in missing):
        return "missing loss", f"the gradient of {', '.join(missing)} is not in it", "beyond"
    bounds = [sorted((a.low / a.configured, a.high / a.configured)) for a in alpha if a.configured != 0.0]
    low, high = max(b[0] for b in bounds), min(b[1] for b in bounds)
    far = worst([a.standing for a in alpha])
    if low <= high and far == "beyond" and all(a.holds(0.0) for a in alpha if a.configured == 0.0):
        return f"scaled by {(low + high) / 2.0:.6g}", "one common factor multiplies every configured weight", "beyond"
    if far == "beyond":
        found = ", ".join(f"{a.value:.6g} for {name}" for name, a in trunk.alpha.items())
        return "other weights", f"it is a weighted sum, but with {found}", "beyond"
    return "cannot tell", "a weight lies outside its interval, but not by enough to call it wrong", "between"


def _all_hold(alpha: list[Alpha], weights: list[float]) -> bool:
    return all(a.holds(w) for a, w in zip(alpha, weights, strict=True))


def _cosine(jacobian: Vector) -> tuple[tuple[float, ...], ...]:
    norms = np.linalg.norm(jacobian, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        matrix = (jacobian @ jacobian.T) / norms[:, None] / norms[None, :]
    return tuple(tuple(float(value) for value in row) for row in matrix)


def _norm(vector: Vector) -> float:
    return float(np.linalg.norm(vector))
