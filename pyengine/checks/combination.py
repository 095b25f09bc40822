"""The combination: is the gradient G that the trunk received Σ α_k·g_k of the per-loss gradients, and with which α?

G = Σ α_k·g_k is solved by least squares over the whole trunk, and over each shared tensor alone. Terms that are no
losses, as regularizers, take part where they reach the trunk at all. With uncertainty U of G (the rounding spread of
the losses under their weights, plus the roundings of reading G), every α_k comes with the interval
α_k ± Σ_T ‖p_kT‖·‖U_T‖ over the tensors T, where p_k is row k of the pseudo-inverse: no farther can α_k move while G
stays within U (Cauchy-Schwarz). Norms are all that is asked of a spread.

The verdict follows from :func:`pyengine.checks.standing.standing`:

1. If a per-loss gradient is no larger than its own spread, or an interval holds both the configured weight and zero,
   the losses cannot be told apart at this batch: *cannot tell*. A term that is no loss, as a small regularizer, may
   be as small as rounding; then the reason says so.
2. The residual ‖G - Σ α_k·g_k‖ is compared with ‖U‖ and ‖G‖. Beyond: *not a combination*. Between: *cannot tell*.
3. All configured weights within the intervals: *summed*.
4. Otherwise the first pattern whose weights lie in all intervals: *averaged* (weights/K), *weights exchanged* (a
   permutation), *missing loss* (zero for one, the configured weight for the others), *scaled* (one factor for all).
5. Otherwise *other weights* if some α_k is beyond, else *cannot tell*.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import spare
from ..engine import Network
from ..parameters import Array, Layout
from ..witnesses import Step
from .evidence import BLOCK, Evidence
from .least_squares import explained, together
from .standing import Standing, standing, worst

Vector = npt.NDArray[np.float64]

SMALLEST_LOSS_SCALE = 128
"""Mixed-precision training multiplies losses by powers of two; smaller ones would protect nothing in float16."""


ADDED_ROUNDINGS = 4.0
"""Operations from a parameter to its regularizer's gradient, a factor and a product, on both sides of a comparison."""


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
    factor: float | None = None

    @property
    def alpha(self) -> dict[str, Alpha]:
        return self.trunk.alpha


def check_combination(step: Step, evidence: Evidence) -> Combination:
    """Decompose the applied gradient at the shared layers."""
    size, layout = step.trunk_size, step.network.layout
    rows = [gradient.flat[:size] for gradient in evidence.gradients.values()]
    engine = [gradient.flat[:size] for gradient in evidence.engine_32.values()]
    weights = [head.weight for head in step.network.heads.values()]
    applied = step.gradient.flat[:size]
    names = list(step.network.heads)
    added = []
    for name, one in step.added.items():
        # A term that is no loss is a gradient beside the others, of weight 1: a square, a factor and sums by framework.
        row = one.gradient.flat[:size]
        if not row.any():
            continue  # such as a regularizer of a head alone
        names.append(name)
        added.append(row)
        weights.append(1.0)
        applied = applied + row
    rows += added
    parts = {name: _part(layout, name) for name in step.shared}
    # ‖spread‖ of each row, by tensor, and ‖U‖, by the triangle inequality.
    spreads = {
        tensor: [evidence.norm(loss, tensor) for loss in evidence.gradients]
        + [ADDED_ROUNDINGS * step.unit * _norm(row[part]) for row in added]
        for tensor, part in parts.items()
    }
    rounding = step.gradient_roundings * step.unit
    uncertain = {
        tensor: float(np.dot(np.abs(weights), spreads[tensor])) + (rounding and rounding * _norm(applied[part]))
        for tensor, part in parts.items()
    }
    room = spare.empty((len(rows), size))
    found = {name: explained([row[here] for row in rows], applied[here], room[:, here]) for name, here in parts.items()}

    def fit(name: str, native: str, shape: tuple[int, ...], tensors: Sequence[str]) -> Fit:
        here = slice(parts[tensors[0]].start, parts[tensors[-1]].stop)
        by_rows = found[name] if name in found else together([found[tensor] for tensor in tensors])
        within = [uncertain[tensor] for tensor in tensors]
        alpha = by_rows.coefficients(np.linalg.norm([spreads[tensor] for tensor in tensors], axis=0), within)
        return Fit(
            name=name,
            native=native,
            shape=shape,
            alpha={
                head: Alpha(value, value - radius, value + radius, float(weight))
                for head, weight, (value, radius) in zip(names, weights, alpha, strict=True)
            },
            residual=by_rows.left([value for value, _ in alpha]),
            spread=math.hypot(*within),
            size=_norm(applied[here]),
            engine_residual=_left(
                [(weight, row[here]) for weight, row in zip(weights, [*engine, *added], strict=True)],
                [(weight, row[here]) for weight, row in zip(weights, rows, strict=True)],
            )
            if engine
            else math.nan,
        )

    tensors = [fit(name, step.native[name], layout.shapes[name], [name]) for name in step.shared]
    trunk = fit("trunk", "all shared layers", (size,), step.shared)
    verdict, reason, judged = _judge(trunk, tensors, step.network, step.batch, set(step.added))
    factor = likeliest_factor(alpha_of(trunk)) if verdict == "scaled" else None
    return Combination(verdict, reason, judged, trunk, tuple(tensors), cosines(rows), factor)


def unknown(reason: str, weights: Mapping[str, float], size: int, rows: Sequence[Vector]) -> Combination:
    """No coefficient can be fitted."""
    alpha = {name: Alpha(math.nan, -math.inf, math.inf, weight) for name, weight in weights.items()}
    empty = Fit("trunk", "all shared layers", (size,), alpha, math.nan, math.nan, math.nan, math.nan)
    return Combination("cannot tell", reason, "between", empty, (), cosines(rows))


def nothing_shared(net: Network) -> Combination:
    """The finding on a network whose heads share nothing."""
    weights = {name: head.weight for name, head in net.heads.items()}
    return unknown("there are no shared layers", weights, 0, [np.zeros(0)] * len(weights))


def _part(layout: Layout, name: str) -> slice:
    start = layout.offsets[name]
    return slice(start, start + math.prod(layout.shapes[name]))


def alpha_of(fit: Fit) -> list[Alpha]:
    return list(fit.alpha.values())


def _left(of: Sequence[tuple[float, Array]], by: Sequence[tuple[float, Array]]) -> float:
    """‖Σ factor·row - Σ factor·row‖, block by block in the cache."""
    square = 0.0
    for start in range(0, of[0][1].size, BLOCK):
        here = slice(start, start + BLOCK)
        left = sum((factor * row[here].astype(np.float64) for factor, row in of), np.zeros(1))
        for factor, row in by:
            left -= factor * row[here]
        square += float(np.vdot(left, left))
    return math.sqrt(square)


def _judge(trunk: Fit, tensors: list[Fit], net: Network, batch: int, added: set[str]) -> tuple[str, str, Standing]:
    alpha = list(trunk.alpha.values())
    untold = [
        name
        for name, a in trunk.alpha.items()
        if not math.isfinite(a.radius) or (a.holds(a.configured) and a.holds(0.0) and a.configured != 0.0)
    ]
    if not added.issuperset(untold):
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
        small = f"; {' and '.join(untold)} may be in it or not, too small beside rounding" if untold else ""
        return "summed", f"the configured weights lie in every interval{small}", "within"
    return pattern(trunk, worst([a.standing for a in alpha]), features_of(net), batch)


def features_of(net: Network) -> set[int]:
    """The numbers of features over which losses may average."""
    return {head.layers[-1].n_out for head in net.heads.values()}


def pattern(trunk: Fit, far: Standing, features: set[int], batch: int) -> tuple[str, str, Standing]:
    """What coefficients that are not the configured ones mean; ``far`` tells whether they are surely others."""
    alpha = list(trunk.alpha.values())
    configured = [a.configured for a in alpha]
    names, k = list(trunk.alpha), len(alpha)
    if k > 1 and _all_hold(alpha, [w / k for w in configured]):
        return "averaged", f"every weight is divided by the number of losses, {k}", "beyond"
    for order in itertools.islice(itertools.permutations(configured), 720):
        if list(order) != configured and _all_hold(alpha, list(order)):
            return "weights exchanged", "the configured weights are there, at other losses", "beyond"
    missing = [name for name, a in trunk.alpha.items() if a.holds(0.0) and not a.holds(a.configured)]
    if missing and all(trunk.alpha[name].holds(trunk.alpha[name].configured) for name in names if name not in missing):
        return "missing loss", f"the gradient of {', '.join(missing)} is not in it", "beyond"
    if far == "beyond" and (common := common_factor(alpha)) is not None:
        suspects = factor_suspects(*common, k, features, batch)
        named = f"; {' or '.join(suspects)}?" if suspects else ""
        return "scaled", f"every configured weight is multiplied by {likeliest_factor(alpha):.7g}{named}", "beyond"
    if far == "beyond":
        found = ", ".join(f"{a.value:.6g} for {name}" for name, a in trunk.alpha.items())
        return "other weights", f"it is a weighted sum, but with {found}", "beyond"
    return "cannot tell", "a weight lies outside its interval, but not by enough to call it wrong", "between"


def common_factor(alpha: list[Alpha]) -> tuple[float, float] | None:
    """The interval of factors that turn all configured weights into the fitted ones, if there is any."""
    bounds = [sorted((a.low / a.configured, a.high / a.configured)) for a in alpha if a.configured != 0.0]
    if not bounds or not all(a.holds(0.0) for a in alpha if a.configured == 0.0):
        return None
    low, high = max(b[0] for b in bounds), min(b[1] for b in bounds)
    return (low, high) if low <= high else None


def likeliest_factor(alpha: list[Alpha]) -> float:
    """The mean of the ratios of fitted to configured weights, each counting by the width of its interval."""
    meant = [a for a in alpha if a.configured != 0.0]
    known = [(a.value / a.configured, (a.configured / a.radius) ** 2 if a.radius > 0.0 else 1.0) for a in meant]
    return sum(ratio * share for ratio, share in known) / sum(share for _, share in known)


def factor_suspects(low: float, high: float, losses: int, features: set[int], batch: int) -> list[str]:
    """Known reasons for a factor in [low, high]: means taken twice or not at all, accumulation, replicas."""
    known = [
        (1.0 / batch, f"divided by the batch, {batch}, once more"),
        (float(batch), f"not divided by the batch, {batch}"),
        (batch / (batch - 1.0) if batch > 1 else 0.0, "divided by batch - 1"),
        *((1.0 / n, f"divided by the features, {n}, once more") for n in sorted(features) if n > 1),
        *((float(n), f"not divided by the features, {n}") for n in sorted(features) if n > 1),
        (1.0 / losses, f"divided by the number of losses, {losses}"),
        (float(losses), f"multiplied by the number of losses, {losses}"),
        (0.5, "a factor 1/2 in a squared error"),
        (2.0, "a factor 2 in a squared error, or the step counted twice"),
        (-1.0, "the opposite sign: ascent instead of descent"),
    ]
    found = [reason for value, reason in known if low <= value <= high and value not in (0.0, 1.0)]
    middle = (low + high) / 2.0
    if middle > 0.0:
        count = round(middle) if middle >= 1.0 else round(1.0 / middle)
        if count > 1 and (low <= count <= high or low <= 1.0 / count <= high):
            found.append(f"{count} accumulated batches or replicas, {'added' if middle > 1.0 else 'averaged twice'}")
            if count >= SMALLEST_LOSS_SCALE and count & (count - 1) == 0:
                found.append(f"a loss scale of {count}, {'left in' if middle > 1.0 else 'divided out twice'}")
    return found


def _all_hold(alpha: list[Alpha], weights: list[float]) -> bool:
    return all(a.holds(w) for a, w in zip(alpha, weights, strict=True))


def cosines(rows: Sequence[Vector]) -> tuple[tuple[float, ...], ...]:
    """The cosines of the angles between the rows; NaN for a row of zeros."""
    products = np.zeros((len(rows), len(rows)))
    for i, one in enumerate(rows):
        for j in range(i, len(rows)):
            products[i, j] = products[j, i] = float(np.vdot(one, rows[j]))
    norms = np.sqrt(np.diagonal(products))
    with np.errstate(divide="ignore", invalid="ignore"):
        matrix = products / norms[:, None] / norms[None, :]
    return tuple(tuple(float(value) for value in row) for row in matrix)


def _norm(vector: Vector) -> float:
    return float(np.linalg.norm(vector))
