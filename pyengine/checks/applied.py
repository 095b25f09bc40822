"""The gradient that a training loop handed to its optimizer: is it the one that the losses call for, and if not, which?

Every way in which loops are known to go wrong is a *candidate*: a gradient over all parameters, made of the losses'
own gradients, with the uncertainty that rounding leaves (:mod:`pyengine.checks.evidence`). A candidate fits if no
element of the shared layers lies beyond its uncertainty. The first that fits, in the order from the intended gradient
to the strangest, names the diagnosis; where none fits, the least-squares combination does
(:mod:`pyengine.checks.combination`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..witnesses import Step
from .clipping import clipped
from .combination import Combination
from .diagnosis import Diagnosis, diagnosis
from .evidence import Evidence
from .reach import Reach
from .replays import weighted
from .surgery import Uncertain, pcgrad

Vector = npt.NDArray[np.float64]
Surgery = Literal["pcgrad"]

LOSS_SCALES = tuple(2.0**power for power in range(8, 33))
"""What mixed-precision scalers multiply losses by: powers of two, 2¹⁶ at first in PyTorch, 2¹⁵ in Keras."""

USUAL_LIMITS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Norms that people clip to. Any two digits would fit some power of two by chance too often."""

TORCH_PLUS = 1e-6
"""``torch.nn.utils.clip_grad_norm_`` divides by the norm plus this."""


@dataclass(frozen=True, eq=False)
class Case:
    """What is known about one step: the step itself, its evidence, and how the loop says that it works.

    ``micro`` has the evidence of each micro-batch of the window, and ``sizes`` how many samples each has; both are
    empty where the batch was not cut. ``accumulation`` is the window that the loop divides by. ``previous`` is the
    evidence of the batch before. ``held``, ``given`` and ``frozen`` are native names: what some optimizer holds, what
    got a gradient, and what is not to be trained.
    """

    step: Step
    evidence: Evidence
    micro: Sequence[Evidence] = ()
    sizes: Sequence[int] = ()
    accumulation: int | None = None
    surgery: Surgery | None = None
    previous: Evidence | None = None
    held: frozenset[str] = field(default_factory=frozenset)
    given: frozenset[str] = field(default_factory=frozenset)
    frozen: frozenset[str] = field(default_factory=frozenset)

    @property
    def weights(self) -> dict[str, float]:
        return {name: head.weight for name, head in self.step.network.heads.items()}

    def of(self, weights: Mapping[str, float], at: Evidence | None = None) -> Uncertain:
        return weighted(self.step.network.layout, self.evidence if at is None else at, dict(weights))

    @property
    def parts(self) -> list[Uncertain]:
        """w_k·g_k over all parameters, for every loss."""
        return [self.of({name: weight}) for name, weight in self.weights.items()]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A gradient over all parameters with its uncertainty; ``found`` is None for the intended one."""

    gradient: Vector
    error: Vector
    found: Diagnosis | None


def explain_gradient(case: Case, combination: Combination) -> tuple[Candidate | None, list[Diagnosis]]:
    """The candidate that fits at the shared layers, if any, and what is to be said about the gradient."""
    step = case.step
    applied, size = step.gradient.flat.astype(np.float64), step.trunk_size
    roundings = step.gradient_roundings * step.unit * np.abs(applied)
    mask, said = _reached(case)
    trunk = mask[:size]
    if size and not trunk.any():
        return None, said
    for candidate in _candidates(case):
        apart = np.abs(applied - candidate.gradient)[:size]
        if bool((apart <= (candidate.error + roundings)[:size])[trunk].all()):
            if candidate.found is not None:
                said.append(candidate.found)
            return candidate, [*said, *_heads(case, candidate, roundings)]
    if said or combination.standing == "between":
        return None, said
    known = combination.verdict == "scaled" and combination.reason.endswith("?")
    named = None if known else _by_norm(case)
    return None, [named or _by_combination(combination)]


def _reached(case: Case) -> tuple[npt.NDArray[np.bool_], list[Diagnosis]]:
    """Which elements got a gradient at all, and the shared parameters that should have and did not."""
    layout, native = case.step.network.layout, case.step.native
    gradient, error = case.of(case.weights)
    mask = np.ones(layout.size, dtype=bool)
    missing: dict[str, list[str]] = {"no gradient": [], "not stepped": []}
    for name in layout.names:
        part = slice(layout.offsets[name], layout.offsets[name] + math.prod(layout.shapes[name]))
        if native[name] in case.given and (case.step.gradient.flat[part] != 0.0).any():
            continue
        if native[name] in case.frozen or not (np.abs(gradient[part]) > error[part]).any():
            mask[part] = native[name] in case.given
            continue
        if name.startswith("trunk."):
            mask[part] = False
            missing["no gradient" if native[name] in case.held else "not stepped"].append(native[name])
    return mask, [diagnosis(kind, names=", ".join(names)) for kind, names in missing.items() if names]


def applied_reach(case: Case, candidate: Candidate | None) -> Reach:
    """Loss -> parameter -> ``"reached"``, ``"untouched"``, or ``"detached"`` where the loss reaches the parameter and
    the gradient that was applied has nothing of it."""
    missing = candidate.found.about if candidate is not None and candidate.found is not None else ""
    found: Reach = {}
    for loss, gradient in case.evidence.gradients.items():
        found[loss] = dict.fromkeys(case.step.network.layout.names, "untouched")
        for name, part in gradient.items():
            if not (np.abs(part) > case.evidence.spread[loss][name]).any():
                continue
            shared = name.startswith("trunk.")
            gone = not (case.step.gradient[name] != 0.0).any() or (shared and missing == loss)
            found[loss][name] = "detached" if gone and case.step.native[name] not in case.frozen else "reached"
    return found


def intended(case: Case) -> Uncertain:
    """The gradient that the losses, weights, surgery and clipping call for."""
    total = next(_sums(case))
    return clipped(case.step.clip, case.step.network.layout, *total, case.step.unit) if _outside(case) else total


def _outside(case: Case) -> bool:
    return case.step.clip is not None and not case.step.clip.inside


def _sums(case: Case) -> Iterator[Uncertain]:
    if case.surgery is None:
        yield case.of(case.weights)
        return
    size = case.step.trunk_size
    plain, error = case.of(case.weights)
    for g, e in pcgrad([(g[:size], e[:size]) for g, e in case.parts], case.step.unit):
        yield np.concatenate([g, plain[size:]]), np.concatenate([e, error[size:]])


def _candidates(case: Case) -> Iterator[Candidate]:
    clip, layout, unit = case.step.clip, case.step.network.layout, case.step.unit

    def candidate(of: Uncertain, found: Diagnosis | None) -> Candidate:
        return Candidate(*(clipped(clip, layout, *of, unit) if _outside(case) else of), found)

    for total in _sums(case):
        yield candidate(total, None)
    for found, of in _deviations(case):
        yield candidate(of, found)
    if _outside(case) and clip is not None:
        plain = next(_sums(case))
        norm = float(np.linalg.norm(plain[0]))
        yield Candidate(*plain, diagnosis("not clipped", norm=norm, limit=clip.limit))
        each = [clipped(clip, layout, *part, unit) for part in case.parts]
        yield Candidate(
            np.sum([g for g, _ in each], axis=0),
            np.sum([e for _, e in each], axis=0),
            diagnosis("clipped before the sum"),
        )
        for scale in LOSS_SCALES:
            # S·g is clipped to the limit, then divided by S.
            early = clipped(clip, layout, scale * plain[0], scale * plain[1], unit)
            found = diagnosis("clipped before unscaling", limit=clip.limit, scale=scale)
            yield Candidate(early[0] / scale, early[1] / scale, found)


def _deviations(case: Case) -> Iterator[tuple[Diagnosis, Uncertain]]:
    """What loops are known to do instead, before any clipping."""
    weights, unit = case.weights, case.step.unit
    names, k = list(weights), len(weights)
    total = case.of(weights)
    if case.surgery is not None and k > 1:
        size = case.step.trunk_size
        part = case.evidence.trunk(size)
        cosine = _least_cosine(part)
        yield diagnosis("surgery without effect", cosine=cosine), total
        for g, e in pcgrad(case.parts, unit):
            yield diagnosis("surgery over heads"), (g, e)
        for g, e in _sums(case):
            # Heads belong to one loss each and are not averaged with the trunk.
            half = np.where(np.arange(g.size) < size, 1.0 / k, 1.0)
            yield diagnosis("surgery averaged", count=k), (half * g, half * e)
    yield from _windows(case)
    if case.step.leftover is not None:
        left = case.step.leftover.flat.astype(np.float64)
        both = left + total[0]
        yield diagnosis("gradients not zeroed"), (both, total[1] + unit * (np.abs(both) + np.abs(left)))
    if case.previous is not None:
        yield diagnosis("previous batch"), case.of(weights, case.previous)
    if k > 1:
        yield diagnosis("averaged", count=k), case.of({name: w / k for name, w in weights.items()})
        for gone in names:
            also = _also(case, gone)
            yield (
                diagnosis("missing loss", loss=repr(gone), also=also, about=gone),
                case.of({name: 0.0 if name == gone else w for name, w in weights.items()}),
            )
        for exchanged in _exchanges(weights):
            found = ", ".join(f"{w:g} for {name}" for name, w in exchanged.items())
            yield diagnosis("weights exchanged", found=found), case.of(exchanged)
    for scale in LOSS_SCALES:
        yield diagnosis("not unscaled", scale=scale), (scale * total[0], scale * total[1])
        yield diagnosis("unscaled too often", scale=scale), (total[0] / scale, total[1] / scale)


def _windows(case: Case) -> Iterator[tuple[Diagnosis, Uncertain]]:
    count, window = len(case.micro), case.accumulation
    if count < 1:
        return
    each = [case.of(case.weights, at) for at in case.micro]
    g, e = np.sum([g for g, _ in each], axis=0), np.sum([e for _, e in each], axis=0)
    e = e + count * case.step.unit * np.sum([np.abs(g) for g, _ in each], axis=0)
    if len(set(case.sizes)) > 1:
        yield diagnosis("mean of means", sizes=", ".join(map(str, case.sizes))), (g / count, e / count)
    if count > 1:
        yield diagnosis("accumulation not divided", count=count), (g, e)
        yield diagnosis("accumulation divided twice", count=count), (g / count**2, e / count**2)
    if window is not None and window != count:
        yield diagnosis("partial window", count=count, accumulation=window), (g / window, e / window)
    for i, (one, error) in enumerate(each if count > 1 else ()):
        for divisor in {1, count, window or count}:
            yield diagnosis("only one micro-batch", which=f"{i + 1} of {count}"), (one / divisor, error / divisor)


def _exchanges(weights: Mapping[str, float]) -> Iterator[dict[str, float]]:
    seen = {tuple(weights.values())}
    for order in itertools.islice(itertools.permutations(weights.values()), 720):
        if order not in seen:
            seen.add(order)
            yield dict(zip(weights, order, strict=True))


def _also(case: Case, loss: str) -> str:
    head = _head(case, loss)
    moved = bool((case.step.gradient.flat[head] != 0.0).any())
    return ", only at its own head: its input is cut off there" if moved else " and nothing at its own head"


def _head(case: Case, loss: str) -> npt.NDArray[np.bool_]:
    layout = case.step.network.layout
    mask = np.zeros(layout.size, dtype=bool)
    for name in layout.names:
        if name.startswith(f"heads.{loss}."):
            start = layout.offsets[name]
            mask[start : start + math.prod(layout.shapes[name])] = True
    return mask


def _heads(case: Case, candidate: Candidate, roundings: Vector) -> list[Diagnosis]:
    """Whether each head got what the candidate says, once the shared layers did."""
    applied = case.step.gradient.flat.astype(np.float64)
    found = []
    for loss in case.step.network.heads:
        head = _head(case, loss)
        apart = np.abs(applied - candidate.gradient)[head]
        gone = candidate.found is not None and candidate.found.name == "missing loss"
        if bool((apart <= (candidate.error + roundings)[head]).all()) or (
            gone and candidate.found is not None and repr(loss) in candidate.found.sentence
        ):
            continue
        if not (applied[head] != 0.0).any():
            names = ", ".join(_natives(case, f"heads.{loss}."))
            held = any(native in case.held for native in _natives(case, f"heads.{loss}."))
            found.append(diagnosis("no gradient" if held else "not stepped", names=names))
            continue
        square = float(candidate.gradient[head] @ candidate.gradient[head])
        factor = float(applied[head] @ candidate.gradient[head]) / square if square > 0.0 else 0.0
        rest = np.abs(applied - factor * candidate.gradient)[head]
        fits = bool((rest <= (abs(factor) * candidate.error + roundings)[head]).all())
        words = f", but {factor:.6g} times it" if fits else ""
        found.append(diagnosis("head differs", names=f"the head {loss!r}", factor=words))
    return found


def _natives(case: Case, prefix: str) -> list[str]:
    return [case.step.native[name] for name in case.step.network.layout.names if name.startswith(prefix)]


def _by_norm(case: Case) -> Diagnosis | None:
    """The intended gradient scaled to a norm of two digits: somebody clips and did not say so."""
    g, e = intended(case)
    applied, size = case.step.gradient.flat.astype(np.float64), float(g @ g)
    factor = float(applied @ g) / size if size > 0.0 else 0.0
    if not 0.0 < factor < 1.0 or bool((np.abs(applied - factor * g) > factor * e).any()):
        return None
    norm = float(np.linalg.norm(applied))
    allowed = float(np.linalg.norm(factor * e)) + case.step.unit * norm * (applied.size + 2) / 2.0
    allowed += TORCH_PLUS * factor
    for scale in (1.0, *LOSS_SCALES):
        limit = float(f"{norm * scale:.2g}")
        if abs(norm * scale - limit) <= allowed * scale and abs(factor - 1.0) > allowed / norm:
            if scale == 1.0:
                return diagnosis("clipped", norm=limit)
            if limit in USUAL_LIMITS:
                return diagnosis("clipped before unscaling", limit=limit, scale=scale)
    return None


def _by_combination(combination: Combination) -> Diagnosis:
    verdict, reason = combination.verdict, combination.reason
    if verdict == "scaled":
        return diagnosis("scaled", reason=reason[:1].upper() + reason[1:])
    if verdict == "summed":
        reason = "single elements lie far outside what rounding explains"
    if verdict == "other weights":
        return diagnosis("other weights", reason=reason)
    return diagnosis("another gradient", reason=reason)


def _least_cosine(jacobian: Vector) -> float:
    norms = np.linalg.norm(jacobian, axis=1)
    found = [
        float(jacobian[i] @ jacobian[j]) / (norms[i] * norms[j])
        for i, j in itertools.combinations(range(len(jacobian)), 2)
        if norms[i] * norms[j] > 0.0
    ]
    return min(found, default=1.0)
