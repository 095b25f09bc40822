"""Faults of the objective: samples, divisors, weights, targets, and losses that are not what they are called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..parameters import Array
from .cases import Case
from .fault import Fault, another, scaled, tampered, with_head

A, B = "per_loss['a'].dh['heads.a.", "per_loss['b'].dh['heads.b."


def _weighting(change: Any) -> Any:
    """Other sample weights, the same for all heads; ``change`` gets the batch."""
    return another(
        lambda case, size: replace(case, sample_weight={n: change(len(case.x), size) for n in case.net.heads})
    )


def _without_sample(n: int, size: float) -> Array:
    weights = np.ones(n)
    weights[n // 2] = 0.0
    return weights


def _twice(n: int, size: float) -> Array:
    weights = np.ones(n)
    weights[0] = 2.0
    return weights


def _partial_window(n: int, size: float) -> Array:
    """The mean of two means, of a full batch and of a third of one."""
    first = n - n // 4
    return np.where(np.arange(n) < first, n / (2.0 * first), n / (2.0 * (n - first)))


def _own_weights(change: Any) -> Any:
    """Other sample weights, made from those that are there."""
    return another(lambda case, size: replace(case, sample_weight=change(case, dict(case.sample_weight or {}))))


def _shifted_targets(case: Case, size: float) -> Case:
    return replace(case, targets={name: np.roll(target, 1, axis=0) for name, target in case.targets.items()})


def _class_weight(case: Case, size: float) -> Case:
    weights = np.where(case.targets["a"] == 3, 1.0 + size, 1.0)
    return replace(case, sample_weight={"a": weights, "b": np.ones(len(weights))})


def _softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _seed(change: Any, head: str = "a", layer: int = 0) -> Any:
    """Another derivative of a loss: ``change`` gets outputs, targets, and returns that of the unscaled samples."""
    return tampered("dh", f"heads.{head}.{layer}", lambda value, operands, size: (
        operands[2][:, None] * change(operands[0], operands[1], size)
    ))  # fmt: skip


def _softmax_twice(z: Array, y: Array, size: float) -> Array:
    p = _softmax(z)
    d = _softmax(p) - y
    return np.asarray(p * (d - (d * p).sum(axis=1, keepdims=True)))


def _naive(z: Array, y: Array, size: float) -> Array:
    """Without the subtraction of the row's largest: overflows."""
    e = np.exp(z * z.dtype.type(8))
    return np.asarray(e / e.sum(axis=1, keepdims=True) - y)


def _exp_off(z: Array, y: Array, size: float) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True)).astype(np.float64)
    e *= 1.0 + size * np.sin(np.arange(e.shape[1]) + 1.0)
    return np.asarray(e / e.sum(axis=1, keepdims=True) - y)


def _with_eps(z: Array, y: Array, size: float) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True)).astype(np.float64)
    return np.asarray(e / (e.sum(axis=1, keepdims=True) + size) - y)


def _transposed_weights(case: Case, weights: dict[str, Array]) -> dict[str, Array]:
    return dict(zip(weights, reversed(list(weights.values())), strict=True))


ALL = {"staged R": 1.0, "black-box": 1.0}

FAULTS = [
    Fault("sample missing", "one sample of the batch is left out", _weighting(_without_sample), ALL, where=A),
    Fault("sample twice", "one sample counts twice", _weighting(_twice), ALL, where=A),
    Fault("divided by batch - 1", "the mean is over batch - 1", _weighting(lambda n, s: np.full(n, n / (n - 1.0))), ALL,
          where=A),
    Fault("divided by the batch twice", "a mean is averaged once more", _weighting(lambda n, s: np.full(n, 1.0 / n)),
          {**ALL, "combination": 1.0}, where=A, called={"combination": "scaled"}),
    Fault("not divided by the batch", "a sum where a mean is meant", _weighting(lambda n, s: np.full(n, float(n))),
          {**ALL, "combination": 1.0}, where=A, called={"combination": "scaled"}),
    Fault("partial window", "two accumulated windows of unequal size are averaged with equal weight",
          _weighting(_partial_window), ALL, where=A),
    Fault("half the squared error", "mse with a factor 1/2", tampered("dh", "heads.b.0", lambda v, o, s: scaled(v, .5)),
          {**ALL, "combination": 1.0}, where=B),
    Fault("not divided by the features", "mse sums over the features",
          tampered("dh", "heads.b.1", lambda v, o, s: scaled(v, v.shape[1])), ALL, "sample weights", where=B),
    Fault("Σw for the batch", "the weighted mean divides by the batch instead of Σw",
          another(lambda c, s: with_head(c, "a", reduction="mean")), ALL, "sample weights", where=A),
    Fault("batch for Σw", "the mean divides by Σw instead of the batch",
          another(lambda c, s: with_head(c, "b", reduction="weighted_mean")), ALL, "sample weights", where=B),
    Fault("sample weights ignored", "all samples count alike",
          _own_weights(lambda c, w: {n: np.ones_like(v) for n, v in w.items()}), ALL, "sample weights", where=A),
    Fault("sample weights squared", "sample weights are applied twice",
          _own_weights(lambda c, w: {n: v * v for n, v in w.items()}), ALL, "sample weights", where=A),
    Fault("another head's sample weights", "each head gets the sample weights of the other",
          _own_weights(_transposed_weights), ALL, "sample weights", where=A),
    Fault("class weight", "one class counts 1 + ε times", another(_class_weight), {"staged": 1e-5, "black-box": 1e-2},
          scalable=True, where=A),
    Fault("label smoothing", "labels are smoothed by ε", another(lambda c, s: with_head(c, "a", label_smoothing=s)),
          {"staged": 1e-6, "black-box": 1e-4}, scalable=True, where=A),
    Fault("label smoothing left out", "labels that should be smoothed are not",
          another(lambda c, s: with_head(c, "a", label_smoothing=0.0)), ALL, "probabilities", where=A),
    Fault("targets shifted", "every sample has its neighbour's target", another(_shifted_targets), ALL, where=A),
    Fault("unnormalised labels", "softmax - y although the labels of a row do not sum to one",
          _seed(lambda z, y, s: _softmax(z) - y), ALL, "probabilities", where=A),
    Fault("clipped probabilities", "probabilities are clipped at 1e-7: confidently wrong samples get no gradient",
          another(lambda c, s: with_head(c, "a", loss="clipped_cross_entropy")), ALL, "confident", where=A),
    Fault("logits recovered", "logits are used where probabilities should have been clipped",
          another(lambda c, s: with_head(c, "a", loss="softmax_cross_entropy")), ALL, "confident, clipped", where=A),
    Fault("softmax twice", "a softmax before a loss that takes logits", _seed(_softmax_twice), ALL, where=A),
    Fault("softmax over the batch", "the softmax normalises over samples", _seed(lambda z, y, s: _softmax(z.T).T - y),
          ALL, where=A),
    Fault("softmax overflows", "exp without subtracting the largest logit", _seed(_naive), ALL, "confident", where=A),
    Fault("exp inaccurate", "exp is off by a relative ε", _seed(_exp_off), {"staged": 1e-4}, scalable=True, where=A),
    Fault("softmax with epsilon", "Σ exp + 1e-6 below: smaller than what rounding may do",
          _seed(lambda z, y, s: _with_eps(z, y, 1e-6)), {}),
    Fault("huber for mse", "far residuals are clipped",
          another(lambda c, s: with_head(c, "b", loss="huber")), ALL, where=B),
    Fault("huber delta", "huber with its delta off by ε", another(lambda c, s: with_head(c, "b", delta=1.0 + s)),
          {"staged": 1e-5, "black-box": 1e-2}, "every activation", True, where=B),
    Fault("mae for mse", "the sign of the residual for the residual", another(lambda c, s: with_head(c, "b", loss="mae")),
          ALL, where=B),
    Fault("independent classes", "binary cross-entropy over classes that exclude one another",
          _seed(lambda z, y, s: 1 / (1 + np.exp(-z)) - y), ALL, where=A),
    Fault("sum for mean", "reduction sum where mean is meant", another(lambda c, s: with_head(c, "b", reduction="sum")),
          {**ALL, "combination": 1.0}, where=B),
]  # fmt: skip
