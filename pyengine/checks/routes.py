"""Two routes to one gradient, by the framework alone: G = ∇(Σ w_k·loss_k), and Σ w_k·g_k with g_k = ∇loss_k.

No operation of the model is known here, so no bound of its rounding can be derived. It can be *measured*: the gradient
of c·loss, divided by c, is the same number, and for a random c in [1, 2) every rounding of the backward pass falls
anew. Each route is taken ``REPEATS`` times. D = G - Σ w_k·g_k then has a mean and a standard error for every element
and for every projection, and a correct framework's mean is zero up to

    t·√(V/REPEATS) + u·Σ|w_k·g_k|,    V = the sample variance + (u²/3)·(G² + Σ (w_k·g_k)²) + λ²

where t is Student's limit with REPEATS - 1 degrees of freedom at the chance α, shared among all elements of a tensor.
The second term of V is the variance of rounding the results themselves, which the sample may miss by luck; λ, the
smallest normal number, is what flushing takes. u·Σ|w_k·g_k| is the one rounding that is not drawn anew: that of the
configured weight to the dtype. docs/tolerances.md, section 10, derives this.

The same repeats give α of G = Σ α_k·g_k with an interval each, and so the verdict in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from ..observation import Gradient, Observation
from ..parameters import Array
from ..progress import say
from ..rounding.formats import FORMATS
from ..rounding.precision import smallest_normal
from ..rounding.repeats import student_limit
from .combination import Alpha, Combination, Fit, cosines, likeliest_factor, pattern
from .staged.statistics import ALPHA

F64 = npt.NDArray[np.float64]

REPEATS = 7
"""How often each route is taken. α = 1e-9 needs 64 standard deviations with 6 degrees of freedom, 1300 with 3."""


@dataclass(frozen=True)
class RouteTensor:
    """One parameter: ``ratio`` is the largest deviation over its limit, found at ``where``."""

    name: str
    shape: tuple[int, ...]
    ratio: float
    where: str
    deviation: float
    limit: float
    size: float

    @property
    def holds(self) -> bool:
        return self.ratio <= 1.0


@dataclass(frozen=True)
class Routes:
    """The finding: every parameter, and the combination over those that all losses reach."""

    tensors: tuple[RouteTensor, ...]
    combination: Combination
    smallest_scale: float
    """The smallest common factor 1 + ε of G that would be noticed."""

    bent: str
    """Where the backward pass is not linear in the loss, or not repeatable: then two routes cannot be compared."""

    reach: dict[str, dict[str, str]]
    """Loss -> parameter -> ``"reached"``, ``"zero"`` or ``"untouched"``."""

    @property
    def failures(self) -> tuple[RouteTensor, ...]:
        return tuple(tensor for tensor in self.tensors if not tensor.holds)


def check_routes(seen: Observation, features: set[int], seed: int) -> Routes:
    """Take both routes and compare them."""
    repeats = _Repeats(seen, seed)
    weights = dict(seen.weights)
    tensors = tuple(repeats.test(name, weights) for name in seen.shapes)
    reached = {name: repeats.reaching(name) for name in seen.shapes}
    shared = [name for name, losses in reached.items() if len(losses) == len(weights)]
    combination = _combination(repeats, shared, [t for t in tensors if t.name in shared], features)
    scale = min((a.radius / abs(a.configured) for a in combination.alpha.values() if a.configured), default=math.inf)
    reach = {k: {name: touch(given[0][1][name]) for name in seen.shapes} for k, given in repeats.per_loss.items()}
    return Routes(tensors, combination, scale, repeats.bent(), reach)


def touch(gradient: Array | None) -> str:
    """Whether a gradient is there, is zero, or is not even connected."""
    if gradient is None:
        return "untouched"
    return "reached" if bool((np.asarray(gradient) != 0).any()) else "zero"


class _Repeats:
    """Both routes, ``REPEATS`` times, each gradient with the factor that it carries."""

    def __init__(self, seen: Observation, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.seen = seen
        self.unit = FORMATS[seen.dtype].u
        self.least = smallest_normal(seen.dtype if seen.dtype in {"float16", "float64"} else "float32")

        # The first repeat is the gradient as the user gets it, without a factor.
        def repeat(place: int, route: Callable[[float], Gradient]) -> list[tuple[float, Gradient]]:
            say("routes to the gradient", place, len(seen.weights) + 1)
            return [(c, route(c)) for c in (1.0, *map(float, draw.uniform(1.0, 2.0, REPEATS - 1)))]

        self.summed = repeat(0, seen.summed)
        names = enumerate(seen.weights, 1)
        self.per_loss = {name: repeat(place, partial(seen.per_loss, name)) for place, name in names}
        self.signs = draw

    def bent(self) -> str:
        """A parameter whose gradient is not linear in the loss, or not repeatable; empty if there is none.

        Doubling commutes with every rounding, so a linear backward pass gives exactly twice the gradient.
        """
        routes = {"the total": (self.summed, self.seen.summed(2.0))}
        routes |= {k: (given, self.seen.per_loss(k, 2.0)) for k, given in self.per_loss.items()}
        for route, (given, twice) in routes.items():
            for name in self.seen.shapes:
                once, doubled = given[0][1][name], twice[name]
                if once is None or doubled is None:
                    if once is not doubled:
                        return f"{name} under {route}"
                    continue
                wide, least = np.asarray(once, dtype=np.float64), 2.0 * self.least
                same = 2.0 * wide == np.asarray(doubled, dtype=np.float64)
                if not (same | (np.abs(wide) <= least) | ~np.isfinite(wide)).all():
                    return f"{name} under {route}"
        return ""

    def stack(self, given: list[tuple[float, Gradient]], name: str) -> F64:
        """(REPEATS, elements) in float64, the factors taken out."""
        size = math.prod(self.seen.shapes[name])
        rows = np.zeros((REPEATS, size))
        for row, (c, gradient) in zip(rows, given, strict=True):
            part = gradient[name]
            if part is not None:
                row[:] = np.asarray(part, dtype=np.float64).ravel() / c
        return rows

    def reaching(self, name: str) -> list[str]:
        """The losses whose gradient is not zero there."""
        return [k for k, given in self.per_loss.items() if touch(given[0][1][name]) == "reached"]

    def test(self, name: str, weights: Mapping[str, float]) -> RouteTensor:
        """Is G the given combination at this parameter, element by element and in projections?"""
        summed = self.stack(self.summed, name)
        parts = {k: self.stack(given, name) for k, given in self.per_loss.items()}
        difference = summed - sum((weights[k] * part for k, part in parts.items()), np.zeros_like(summed))
        means = {k: weights[k] * part.mean(axis=0) for k, part in parts.items()}
        whole = summed.mean(axis=0)
        own = self.unit**2 / 3.0 * (whole**2 + sum((m**2 for m in means.values()), np.zeros_like(whole)))
        own += self.least**2
        coherent = self.unit * sum((np.abs(m) for m in means.values()), np.zeros_like(whole))
        size = float(np.linalg.norm(whole))
        if not np.isfinite(difference).all():
            return RouteTensor(
                name, self.seen.shapes[name], math.inf, "a number that is not finite", math.nan, 0.0, size
            )
        # Element by element.
        freedom = REPEATS - 1
        deviation = np.abs(difference.mean(axis=0))
        allowed = student_limit(ALPHA / max(deviation.size, 1), freedom) * np.sqrt(
            (difference.var(axis=0, ddof=1) + own) / REPEATS
        )
        ratio = deviation / (allowed + coherent)
        worst = int(np.argmax(ratio)) if ratio.size else 0
        index = ", ".join(map(str, np.unravel_index(worst, self.seen.shapes[name]))) if ratio.size else ""
        found = (float(ratio[worst]), f"[{index}]", float(deviation[worst]), float((allowed + coherent)[worst]))
        # A sum over many elements sees what no single one shows.
        directions = {"its size": whole, **{f"∇{k}": m for k, m in means.items()}}
        directions |= {
            f"random signs {i}": np.abs(whole) * self.signs.choice((-1.0, 1.0), whole.size) for i in range(2)
        }
        t = student_limit(ALPHA / len(directions), freedom)
        for where, direction in directions.items():
            values = difference @ direction
            limit = t * math.sqrt((float(values.var(ddof=1)) + float(direction**2 @ own)) / REPEATS)
            limit += self.unit * sum(abs(float(direction @ m)) for m in means.values())
            if limit > 0.0 and not abs(float(values.mean())) / limit <= found[0]:
                found = (abs(float(values.mean())) / limit, where, abs(float(values.mean())), limit)
        return RouteTensor(name, self.seen.shapes[name], *found, size)


def _combination(repeats: _Repeats, shared: list[str], tensors: list[RouteTensor], features: set[int]) -> Combination:
    weights = repeats.seen.weights
    if not shared:
        alpha = {name: Alpha(math.nan, -math.inf, math.inf, weight) for name, weight in weights.items()}
        none = Fit("shared", "no parameter", (0,), alpha, math.nan, math.nan, math.nan, math.nan)
        return Combination("cannot tell", "no parameter is reached by every loss", "between", none, (), ())
    fit, jacobian = _fit(repeats, shared)
    found = list(fit.alpha.values())
    cosine = cosines(list(jacobian))
    unclear = any(
        not math.isfinite(a.radius) or (a.holds(a.configured) and a.holds(0.0) and a.configured != 0.0) for a in found
    )
    if unclear:
        reason = "the per-loss gradients are too small or too nearly parallel to be told apart"
        return Combination("cannot tell", reason, "between", fit, (), cosine)
    if all(tensor.holds for tensor in tensors) and all(a.holds(a.configured) for a in found):
        reason = "the configured weights lie in every interval"
        return Combination("summed", reason, "within", fit, (), cosine)
    fitted = {name: a.value for name, a in fit.alpha.items()}
    strange = [t for t in (repeats.test(name, fitted) for name in shared) if not t.holds]
    if strange:
        worst = max(strange, key=lambda t: t.ratio)
        reason = f"no weights explain {worst.name} ({worst.where}): {worst.ratio:.3g} times what rounding explains"
        return Combination("not a combination", reason, "beyond", fit, (), cosine)
    verdict, reason, standing = pattern(fit, "beyond", features, repeats.seen.batch)
    factor = likeliest_factor(found) if verdict == "scaled" else None
    return Combination(verdict, reason, standing, fit, (), cosine, factor)


def _fit(repeats: _Repeats, shared: list[str]) -> tuple[Fit, F64]:
    """α of every repeat by least squares; its mean, and the interval by the repeats and the weights' rounding."""
    names = list(repeats.seen.weights)
    summed = np.concatenate([repeats.stack(repeats.summed, name) for name in shared], axis=1)
    parts = np.stack(
        [np.concatenate([repeats.stack(repeats.per_loss[k], name) for name in shared], axis=1) for k in names]
    )
    jacobian = parts.mean(axis=1)
    norms = np.linalg.norm(jacobian, axis=1)
    unit = np.where(norms > 0.0, norms, 1.0)
    with np.errstate(invalid="ignore"):
        usable = bool(np.isfinite(parts).all() and np.isfinite(summed).all())
    noise = np.sqrt(parts.var(axis=1, ddof=1).sum(axis=1) if usable else np.zeros(len(names)))
    solved = []
    for j in range(REPEATS if usable else 0):
        inverse = np.linalg.pinv((parts[:, j] / unit[:, None]).T)
        solved.append(inverse @ summed[j] / unit)
    alpha = {}
    limit = student_limit(ALPHA, REPEATS - 1)
    for k, name in enumerate(names):
        weight = repeats.seen.weights[name]
        if not usable:
            alpha[name] = Alpha(math.nan, -math.inf, math.inf, weight)
            continue
        values = np.array([row[k] for row in solved])
        others = np.delete(jacobian / unit[:, None], k, axis=0)
        imitated = np.linalg.lstsq(others.T, jacobian[k], rcond=None)[0] @ others if len(names) > 1 else 0.0
        known = float(np.linalg.norm(jacobian[k] - imitated)) > limit * float(noise[k])
        value = float(values.mean())
        own = (repeats.unit * value) ** 2 / 3.0
        radius = limit * math.sqrt((float(values.var(ddof=1)) + own) / REPEATS) + repeats.unit * abs(value)
        radius = radius if known else math.inf
        alpha[name] = Alpha(value, value - radius, value + radius, weight)
    values = np.array([a.value for a in alpha.values()])
    whole = summed.mean(axis=0)
    residual, spread = float(np.linalg.norm(whole - values @ jacobian)), float(noise @ np.abs(values))
    shape = (int(whole.size),)
    return Fit(
        "shared", "all shared parameters", shape, alpha, residual, spread, float(np.linalg.norm(whole)), math.nan
    ), jacobian
