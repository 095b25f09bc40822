"""One batch, checked: inputs, targets and sample weights, in the form that kernel, reference and oracle take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import as_numpy
from .errors import listing, sentence
from .losses import Loss
from .parameters import DTYPES, Array
from .spec import Head


@dataclass(frozen=True, eq=False)
class HeadTarget:
    """What one loss is measured against.

    ``target`` is (batch,) int64 for classes, else (batch, n_out) of the parameters' dtype; ``weights`` is (batch,)
    float64, or None for ones.
    """

    target: Array
    weights: npt.NDArray[np.float64] | None

    def coefficients(self, loss: Loss, n_out: int) -> npt.NDArray[np.float64]:
        """The factors c with which the samples' losses (summed over the features) enter the loss: L = Σ c_i·l_i."""
        batch = self.target.shape[0]
        weights = np.ones(batch) if self.weights is None else self.weights
        return weights / self.divisor(loss, n_out)

    def divisor(self, loss: Loss, n_out: int) -> float:
        """What the reduction divides Σ w_i·l_i by."""
        if loss.reduction == "sum":
            return 1.0
        batch = self.target.shape[0]
        total = float(batch) if loss.reduction == "mean" or self.weights is None else float(self.weights.sum())
        return total * n_out if loss.averages_features else total


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs (batch, n_in), C-contiguous, and one :class:`HeadTarget` per head, in the order of the network's heads."""

    x: Array
    heads: dict[str, HeadTarget]

    @property
    def size(self) -> int:
        return int(self.x.shape[0])


def checked_input(x: object, n_in: int, dtype: np.dtype[Any]) -> Array:
    """Check x: shape (batch, n_in) with batch ≥ 1, the parameters' dtype, finite. Strided views are copied."""
    array = shaped_input(x, n_in, dtype)
    require_finite("x", array)
    return array


def shaped_input(x: object, n_in: int, dtype: np.dtype[Any]) -> Array:
    """The same, but whether the numbers are finite is for the caller to see."""
    array = as_numpy("x", x)
    _require_dtype("x", array, dtype)
    if array.ndim != 2 or array.shape[1] != n_in:
        remedy = (
            "Transpose it?" if array.ndim == 2 and array.shape[0] == n_in else "Flatten the features of each sample."
        )
        raise ValueError(sentence("x", got=f"has shape {array.shape}", expected=f"(batch, {n_in})", remedy=remedy))
    if array.shape[0] == 0:
        raise ValueError(
            sentence(
                "x",
                got=f"has shape {array.shape}",
                expected="a batch of at least 1 sample",
                remedy="Skip empty batches.",
            )
        )
    return _contiguous(array)


def checked_batch(
    x: object,
    targets: object,
    sample_weight: object,
    *,
    n_in: int,
    heads: Mapping[str, Head],
    dtype: np.dtype[Any],
) -> Batch:
    """Check everything that a gradient needs beside the parameters, before any work.

    NaN and infinities in x, targets or sample weights are refused: a gradient made from them says nothing.
    """
    inputs = checked_input(x, n_in, dtype)
    batch = inputs.shape[0]
    given = _per_head("targets", targets, heads)
    missing = [name for name in heads if name not in given]
    if missing:
        raise ValueError(
            sentence(
                "targets",
                got=f"lacks {listing(missing)}",
                expected=f"one entry per head: {listing(heads)}",
                remedy="Add the missing targets.",
            )
        )
    weights = _sample_weights(sample_weight, batch, heads)
    return Batch(
        inputs,
        {
            name: HeadTarget(_target(f"targets[{name!r}]", given[name], batch, head, dtype), weights[name])
            for name, head in heads.items()
        },
    )


def _target(argument: str, given: object, batch: int, head: Head, dtype: np.dtype[Any]) -> Array:
    n_out = head.layers[-1].n_out
    array = as_numpy(argument, given)
    kind = head.loss.target_kind
    if kind == "classes" and array.dtype.kind in "iu":
        return _classes(argument, array, batch, n_out)
    expected = f"shape ({batch}, {n_out})"
    if kind == "classes":
        expected = f"integer classes of shape ({batch},) or probabilities of shape ({batch}, {n_out})"
    _require_dtype(argument, array, dtype)
    if array.shape != (batch, n_out):
        remedy = "Check the order and number of samples."
        if array.shape == (batch,):
            remedy = "Convert class indices to integers." if kind == "classes" else "Reshape it with [:, None]?"
        raise ValueError(sentence(argument, got=f"has shape {array.shape}", expected=expected, remedy=remedy))
    require_finite(argument, array)
    if kind != "values":
        low, high = float(array.min()), float(array.max())
        if low < 0.0 or (kind == "probabilities" and high > 1.0):
            bounds = "probabilities in [0, 1]" if kind == "probabilities" else "probabilities of at least 0"
            raise ValueError(
                sentence(
                    argument,
                    got=f"has values from {low:g} to {high:g}",
                    expected=bounds,
                    remedy="The loss takes logits from the network but probabilities as targets.",
                )
            )
    return _contiguous(array)


def _classes(argument: str, array: Array, batch: int, n_out: int) -> Array:
    if array.shape != (batch,):
        raise ValueError(
            sentence(
                argument,
                got=f"has shape {array.shape} and dtype {array.dtype}",
                expected=f"integer classes of shape ({batch},) or probabilities of shape ({batch}, {n_out})",
                remedy="Convert one-hot rows to floats, or flatten the column of classes.",
            )
        )
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= n_out:
        worst = low if low < 0 else high
        where = int(np.flatnonzero(array == worst)[0])
        raise ValueError(
            sentence(
                argument,
                got=f"has class {worst} at index {where}",
                expected=f"classes from 0 to {n_out - 1}",
                remedy="Is the head too narrow, or do the classes start at 1?",
            )
        )
    return np.require(array, dtype=np.int64, requirements=["C", "A"])


def _sample_weights(given: object, batch: int, heads: Mapping[str, Head]) -> dict[str, npt.NDArray[np.float64] | None]:
    if given is None:
        return dict.fromkeys(heads)
    if not isinstance(given, Mapping):
        given = dict.fromkeys(heads, given)
    named = _per_head("sample_weight", given, heads)
    checked: dict[str, npt.NDArray[np.float64] | None] = {}
    for name, head in heads.items():
        argument = f"sample_weight[{name!r}]"
        if named.get(name) is None:
            checked[name] = None
            continue
        array = as_numpy(argument, named[name])
        if array.dtype.kind not in "fiu":
            raise TypeError(
                sentence(
                    argument, got=f"has dtype {array.dtype}", expected="real numbers", remedy="Convert it to floats."
                )
            )
        if array.shape != (batch,):
            raise ValueError(
                sentence(
                    argument,
                    got=f"has shape {array.shape}",
                    expected=f"({batch},)",
                    remedy="Give one weight per sample.",
                )
            )
        require_finite(argument, array)
        weights = np.require(array, dtype=np.float64, requirements=["C", "A"])
        if head.loss.reduction == "weighted_mean" and not weights.sum() > 0.0:
            raise ValueError(
                sentence(
                    argument,
                    got=f"sums to {weights.sum():g}",
                    expected='a sum above 0 under reduction="weighted_mean"',
                    remedy="The loss divides by that sum.",
                )
            )
        checked[name] = weights
    return checked


def _per_head(argument: str, given: object, heads: Mapping[str, Head]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise TypeError(
            sentence(
                argument,
                got=f"is of type {type(given).__name__}",
                expected=f"a mapping with the keys {listing(heads)}",
                remedy="Name the head of each array.",
            )
        )
    unknown = [name for name in given if name not in heads]
    if unknown:
        raise ValueError(
            sentence(
                argument,
                got=f"has the unknown key {unknown[0]!r}",
                expected=f"keys among {listing(heads)}",
                remedy="Is it the name of a head?",
            )
        )
    return given


def _require_dtype(argument: str, array: Array, dtype: np.dtype[Any]) -> None:
    if array.dtype != dtype:
        raise TypeError(
            sentence(
                argument,
                got=f"has dtype {array.dtype}",
                expected=f"{dtype}, the dtype of the parameters",
                remedy=f'Convert with .astype("{dtype}"), or make the parameters {array.dtype}.'
                if array.dtype in DTYPES
                else f'Convert with .astype("{dtype}").',
            )
        )


def _contiguous(array: Array) -> Array:
    # np.require asks the same, four times as slowly.
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else np.require(array, requirements=["C", "A"])


def require_finite(argument: str, array: Array) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(
            sentence(
                argument,
                got=f"has {array[where]} at index {where}",
                expected="finite numbers",
                remedy="Remove the sample or mask it before the network.",
            )
        )
