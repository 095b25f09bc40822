"""Faults of how losses come together: weights, missing and detached losses, surgery, accumulation, scaling, decay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..checks.staged.recording import Place
from ..checks.staged.witnesses import Witnesses
from ..parameters import Array
from .cases import Case
from .fault import Evidence, Fault, another, finished, ran, scaled, tampered, with_head

Gradient = dict[str, Array]
BOTH = {"black-box": 1.0, "combination": 1.0}
ALL = {"staged R": 1.0, **BOTH}


def _parts(case: Case) -> dict[str, Gradient]:
    return {name: dict(one.gradient) for name, one in case.truth.per_loss.items()}


def _sum(case: Case, weights: dict[str, float], *, heads: bool = True) -> Gradient:
    """Σ weight·gradient; the heads' own parameters with their configured weights unless ``heads``."""
    total: dict[str, Array] = {}
    for loss, gradient in _parts(case).items():
        for name, value in gradient.items():
            weight = weights[loss] if heads or name.startswith("trunk.") else case.net.heads[loss].weight
            total[name] = total.get(name, 0.0) + weight * value.astype(np.float64)
    return total


def _configured(case: Case) -> dict[str, float]:
    return {name: head.weight for name, head in case.net.heads.items()}


def _trunk(case: Case, name: str) -> Array:
    return np.concatenate([v.ravel() for n, v in _parts(case)[name].items() if n.startswith("trunk.")]).astype(float)


def _surgery(rule: Callable[[Array, Array], tuple[float, float]]) -> Any:
    """The trunk's gradient by a rule for two weighted gradients; it returns the coefficients of both."""

    def change(case: Case, g: Gradient, size: float) -> Gradient:
        weights = _configured(case)
        (a, b), (first, second) = weights, rule(*(weights[n] * _trunk(case, n) for n in weights))
        return _sum(case, {a: first * weights[a], b: second * weights[b]}, heads=False)

    return finished(change)


def _projected(a: Array, b: Array) -> tuple[float, float]:
    """PCGrad: each gradient loses what opposes the other (Yu et al., NeurIPS 2020)."""
    opposed = min(float(a @ b), 0.0)
    return 1.0 - opposed / float(a @ a), 1.0 - opposed / float(b @ b)


def _least(a: Array, b: Array) -> tuple[float, float]:
    """MGDA: the shortest convex combination (Sener & Koltun, NeurIPS 2018)."""
    share = float(np.clip((b - a) @ b / ((a - b) @ (a - b)), 0.0, 1.0))
    return share, 1.0 - share


def _normalised(a: Array, b: Array) -> tuple[float, float]:
    """Both gradients are brought to their mean norm."""
    first, second = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    return (first + second) / 2.0 / first, (first + second) / 2.0 / second


def _normalised_with_heads(case: Case, g: Gradient, size: float) -> Gradient:
    """The norms are taken over the trunk and the loss's own head, and the head is scaled along."""
    weights = _configured(case)
    (a, b), parts = weights, _parts(case)
    whole = (weights[n] * np.concatenate([np.ravel(v) for v in parts[n].values()]).astype(float) for n in weights)
    first, second = _normalised(*whole)
    return _sum(case, {a: first * weights[a], b: second * weights[b]})


def _unscaled_late(case: Case, g: Gradient, size: float) -> Gradient:
    """The gradient of a loss that is scaled by 1024 is clipped to norm 1, and unscaled only then."""
    norm = float(np.sqrt(sum(np.square(v.astype(np.float64)).sum() for v in g.values())))
    return {name: scaled(value, min(1.0, 1.0 / (1024.0 * norm))) for name, value in g.items()}


def _clipped(case: Case, g: Gradient, size: float) -> Gradient:
    """Clipped to half its norm: a clip that was left on, or that sees the loss scale."""
    return {name: scaled(value, 0.5) for name, value in g.items()}


def _times(factor: float) -> Any:
    return finished(lambda case, g, size: {name: scaled(value, factor) for name, value in g.items()})


def _named(suspect: str) -> dict[str, str]:
    return {"combination": "scaled", "suspect": suspect}


def _decay(case: Case, g: Gradient, size: float) -> Gradient:
    return {n: v + size * case.params[n].astype(np.float64) if n.endswith("weight") else v for n, v in g.items()}


def _older(case: Case, g: Gradient, size: float) -> Gradient:
    """A tenth of the gradient of the batch before."""
    before = replace(case, x=np.roll(case.x, 1, axis=1)).run().summed
    assert before is not None
    return {n: scaled(v, 0.9) + scaled(before.gradient[n], 0.1) for n, v in g.items()}


def _accumulated(case: Case, g: Gradient, size: float) -> Gradient:
    before = replace(case, x=np.roll(case.x, 1, axis=1)).run().summed
    assert before is not None
    return {n: v + before.gradient[n] for n, v in g.items()}


def _noisy(case: Case, g: Gradient, size: float) -> Gradient:
    rng = np.random.default_rng(0)
    return {n: v + size * float(np.abs(v).max()) * rng.standard_normal(v.shape) for n, v in g.items()}


def _detached(case: Case, size: float) -> Evidence:
    """The second head reads a detached trunk: its loss trains the head alone."""
    return ran(case, _cut(case, "b"))


def _cut(case: Case, head: str) -> Witnesses:
    last = case.net.trunk_layers[-1].name

    def tamper(place: Place, value: Array, operands: tuple[Array, ...]) -> Array:
        if (place.part, place.key) != ("dh", last):
            return value
        if place.of == "summed":
            kept = [part for part, name in zip(operands, case.net.heads, strict=True) if name != head]
            return np.asarray(sum(kept, np.zeros_like(value)))
        return np.zeros_like(value) if place.of == f"per_loss[{head!r}]" else value

    return case.run(tamper)


def _zero(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    return np.zeros_like(value)


def _first_only(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    return operands[0]


def _last_only(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    return operands[-1]


def _combined(weights: Any) -> Any:
    return finished(lambda case, g, size: _sum(case, weights(_configured(case))))


def _exchanged(w: dict[str, float]) -> dict[str, float]:
    return dict(zip(w, reversed(list(w.values())), strict=True))


def _trunk_only(case: Case, g: Gradient, size: float) -> Gradient:
    """The weight of a loss reaches the trunk and not its own head."""
    own = _parts(case)["b"]
    return {n: own[n] if n.startswith("heads.b.") else v for n, v in g.items()}


FAULTS = [
    Fault("loss weight", "a loss weight that is off by ε",
          another(lambda c, s: with_head(c, "b", weight=c.net.heads["b"].weight * (1.0 + s))),
          {"staged R": 3e-6, "black-box": 1e-3, "combination": 1e-3}, scalable=True, where="summed.dh['heads.b.0']"),
    Fault("loss weight dropped", "a loss counts with weight 1",
          another(lambda c, s: with_head(c, "b", weight=1.0)), ALL, where="summed.dh['heads.b.0']",
          called={"combination": "other weights"}),
    Fault("loss weight squared", "a loss weight is applied twice",
          another(lambda c, s: with_head(c, "b", weight=c.net.heads["b"].weight ** 2)), ALL,
          where="summed.dh['heads.b.0']", called={"combination": "other weights"}),
    Fault("weights exchanged", "each loss has the weight of the other", _combined(_exchanged), ALL,
          where="summed.gradient", called={"combination": "weights exchanged"}),
    Fault("losses averaged", "the losses are averaged, not summed",
          _combined(lambda w: {n: v / len(w) for n, v in w.items()}), ALL, where="summed.gradient",
          called={"combination": "averaged"}),
    Fault("loss missing", "the trunk's gradient lacks a loss", tampered("dh", "trunk.1", _first_only, "summed"), ALL,
          where="summed.dh['trunk.1']", called={"combination": "missing loss"}),
    Fault("gradient replaced", "the second backward pass replaces the first", tampered(
          "dh", "trunk.1", _last_only, "summed"), ALL, where="summed.dh['trunk.1']",
          called={"combination": "missing loss"}),
    Fault("weight at the trunk only", "the weight of a loss does not reach its own head", finished(_trunk_only),
          {"staged R": 1.0, "black-box": 1.0}, where="summed.gradient['heads.b.0"),
    Fault("sign", "ascent for descent", _times(-1.0), ALL, where="summed.gradient", called=_named("opposite sign")),
    Fault("head detached", "a head reads a detached trunk: its loss does not train it", _detached,
          {**ALL, "reach": 1.0}, where="per_loss['b'].dh['trunk.1']", called={"combination": "missing loss"}),
    Fault("layer frozen", "the first shared layer has no gradient", tampered("gradient", "trunk.0.weight", _zero),
          {**ALL, "reach": 1.0}, where="per_loss['a'].gradient['trunk.0.weight']",
          called={"combination": "not a combination"}),
    Fault("surgery after the sum", "PCGrad is given the summed gradient once per loss", _times(2.0), ALL,
          where="summed.gradient", called=_named("number of losses, 2")),
    Fault("PCGrad", "conflicting gradients are projected before they are summed", _surgery(_projected), ALL,
          "conflicting", where="summed.gradient", called={"combination": "other weights"}),
    Fault("MGDA", "the shortest combination in place of the sum", _surgery(_least), ALL, "conflicting",
          where="summed.gradient", called={"combination": "other weights"}),
    Fault("gradients normalised", "both losses' gradients are brought to one norm", _surgery(_normalised), ALL,
          where="summed.gradient", called={"combination": "other weights"}),
    Fault("head in the shared set", "gradients are balanced over the heads' own parameters too",
          finished(_normalised_with_heads), ALL, where="summed.gradient", called={"combination": "other weights"}),
    Fault("unscaled after the clip", "the clip sees the loss scale", finished(_unscaled_late), ALL,
          where="summed.gradient", called={"combination": "scaled"}),
    Fault("accumulation divided twice", "four accumulated batches are averaged twice", _times(0.25), ALL,
          where="summed.gradient", called=_named("4 accumulated batches or replicas, averaged twice")),
    Fault("averaged over replicas", "eight replicas average where they should add", _times(1.0 / 8.0), ALL,
          where="summed.gradient", called=_named("8 accumulated batches or replicas, averaged twice")),
    Fault("added over replicas", "three replicas add where they should average", _times(3.0), ALL,
          where="summed.gradient", called=_named("3 accumulated batches or replicas, added")),
    Fault("loss scale left in", "a loss scale of 1024 is not divided out", _times(1024.0), ALL,
          where="summed.gradient", called=_named("loss scale")),
    Fault("gradient clipped", "a clip to half the norm is left on", finished(_clipped), ALL, where="summed.gradient",
          called={"combination": "averaged"}),
    Fault("weight decay", "ε times the weights in the gradient", finished(_decay),
          {"staged": 1e-6, "black-box": 1e-4}, scalable=True, where="summed.gradient"),
    Fault("gradient not zeroed", "the gradient of the batch before is still there", finished(_accumulated), ALL,
          where="summed.gradient", called={"combination": "not a combination"}),
    Fault("momentum in the gradient", "a tenth of the gradient is of the batch before", finished(_older), ALL,
          where="summed.gradient", called={"combination": "not a combination"}),
    Fault("noise for privacy", "normal noise of ε times the largest element", finished(_noisy),
          {"staged": 1e-5, "black-box": 1e-4}, scalable=True, where="summed.gradient"),
]  # fmt: skip
