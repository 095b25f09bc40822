"""The losses that a head may end in, by name or as objects with options.

With l_i the loss of sample i and w_i its sample weight (1 where none is given), a head's loss is

* ``reduction="mean"``: Σ w_i·l_i / batch; ``mse``, ``mae``, ``huber`` and the binary cross-entropies also average over
  the features, as Keras and PyTorch do;
* ``reduction="weighted_mean"``: Σ w_i·l_i / Σ w_i, with the same average over the features;
* ``reduction="sum"``: Σ w_i·l_i, summed over the features too, as PyTorch does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import numpy as np

from .errors import listing, require_real, sentence

Reduction = Literal["mean", "sum", "weighted_mean"]
REDUCTIONS: tuple[Reduction, ...] = ("mean", "sum", "weighted_mean")


@dataclass(frozen=True)
class Loss:
    """Base of all losses.

    ``averages_features`` tells whether the mean reductions also divide by the number of outputs; ``target_kind`` tells
    what a target may be: ``"classes"`` (integers, or probabilities), ``"probabilities"`` or ``"values"``.
    """

    name: ClassVar[str]
    averages_features: ClassVar[bool] = True
    target_kind: ClassVar[Literal["classes", "probabilities", "values"]] = "values"

    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise ValueError(
                sentence(
                    "reduction",
                    got=f"is {self.reduction!r}",
                    expected=f"one of {listing(REDUCTIONS)}",
                    remedy="Use one of these names.",
                )
            )


@dataclass(frozen=True)
class _ClassLoss(Loss):
    averages_features: ClassVar[bool] = False
    target_kind: ClassVar[Literal["classes", "probabilities", "values"]] = "classes"

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_real("label_smoothing", self.label_smoothing, expected="a number from 0 to 1")
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise ValueError(
                sentence(
                    "label_smoothing",
                    got=f"is {self.label_smoothing}",
                    expected="a number from 0 to 1",
                    remedy="It is the share of each target that is spread evenly over the classes.",
                )
            )


@dataclass(frozen=True)
class SoftmaxCrossEntropy(_ClassLoss):
    """l_i = -Σ_j y_ij·log softmax(z_i)_j on logits z; ∂l/∂z = (Σ_j y_j)·softmax(z) - y.

    Targets: integer classes (batch,), or probabilities (batch, n_out), which need not sum to one. With label smoothing
    s, y becomes (1 - s)·y + s/n_out.
    """

    name: ClassVar[str] = "softmax_cross_entropy"


@dataclass(frozen=True)
class ClippedCrossEntropy(_ClassLoss):
    """Cross-entropy as Keras computes it from probabilities: softmax, divide by the row sum, clip, then -Σ y·log p.

    The bounds of the clip are 1e-7 and 1 - 1e-7, each rounded to the dtype of the parameters. With U the classes whose
    probability lies within them (bounds included), ∂l/∂z_j = p_j·Σ_{i in U} y_i - [j in U]·y_j: a sample whose true
    class has a probability under 1e-7 gets no gradient at all.
    """

    name: ClassVar[str] = "clipped_cross_entropy"

    @staticmethod
    def clip_bounds(dtype: np.dtype[Any]) -> tuple[float, float]:
        """The two bounds as numbers of the given dtype.

        >>> ClippedCrossEntropy.clip_bounds(np.dtype("float64"))
        (1e-07, 0.9999999)
        """
        return float(dtype.type(1e-7)), float(dtype.type(1.0 - 1e-7))


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """l_ij = max(z, 0) - z·y + log(1 + exp(-|z|)) on logits z; ∂l/∂z = sigmoid(z) - y.

    Targets: probabilities y in [0, 1].
    """

    name: ClassVar[str] = "binary_cross_entropy"
    target_kind: ClassVar[Literal["classes", "probabilities", "values"]] = "probabilities"


@dataclass(frozen=True)
class ClippedBinaryCrossEntropy(Loss):
    """Binary cross-entropy as Keras computes it from probabilities on JAX and PyTorch: p = sigmoid(z), clipped to q.

    l_ij = -y·log q - (1 - y)·log(1 - q), with the bounds of :class:`ClippedCrossEntropy`. ∂l/∂z = p - y where p lies
    within them (bounds included), else 0: an output that is confidently wrong gets no gradient at all.

    Targets: probabilities y in [0, 1].
    """

    name: ClassVar[str] = "clipped_binary_cross_entropy"
    target_kind: ClassVar[Literal["classes", "probabilities", "values"]] = "probabilities"

    clip_bounds = staticmethod(ClippedCrossEntropy.clip_bounds)


@dataclass(frozen=True)
class MSE(Loss):
    """l_ij = (z - y)²; ∂l/∂z = 2·(z - y)."""

    name: ClassVar[str] = "mse"


@dataclass(frozen=True)
class MAE(Loss):
    """l_ij = |z - y|; ∂l/∂z = sign(z - y), 0 where z = y."""

    name: ClassVar[str] = "mae"


@dataclass(frozen=True)
class Huber(Loss):
    """With r = z - y: l_ij = r²/2 where |r| ≤ delta, else delta·(|r| - delta/2); ∂l/∂z = r clipped to ±delta.

    ``form`` says how an implementation that is to be judged forms the derivative within ±delta: ``"clipped"`` has r
    itself (PyTorch, Keras), ``"split"`` delta + (|r| - delta) (autodiff of optax's loss), which rounds more; ``"any"``
    allows both. The loss is the same.
    """

    name: ClassVar[str] = "huber"

    delta: float = 1.0
    form: Literal["any", "clipped", "split"] = field(default="any", compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_real("delta", self.delta, expected="a finite number above 0")
        if not (math.isfinite(self.delta) and self.delta > 0.0):
            raise ValueError(
                sentence(
                    "delta",
                    got=f"is {self.delta}",
                    expected="a finite number above 0",
                    remedy="It is the residual at which the loss turns from a square into a line.",
                )
            )
        if self.form not in ("any", "clipped", "split"):
            raise ValueError(
                sentence("form", got=f"is {self.form!r}", expected='"any", "clipped" or "split"', remedy="Use one.")
            )


LOSSES: dict[str, type[Loss]] = {
    kind.name: kind
    for kind in (
        SoftmaxCrossEntropy,
        ClippedCrossEntropy,
        BinaryCrossEntropy,
        MSE,
        MAE,
        Huber,
        ClippedBinaryCrossEntropy,
    )
}


def loss(given: str | Loss, options: dict[str, Any]) -> Loss:
    """Turn a name and options into a loss; pass an object through.

    >>> loss("huber", {"delta": 0.5})
    Huber(reduction='mean', delta=0.5)
    """
    if isinstance(given, Loss):
        if options:
            raise ValueError(
                sentence(
                    "loss",
                    got=f"is an object, beside the options {listing(options)}",
                    expected="options only with a name",
                    remedy="Give the options to the loss object.",
                )
            )
        return given
    if not isinstance(given, str):
        raise TypeError(
            sentence(
                "loss",
                got=f"is of type {type(given).__name__}",
                expected="a name or a Loss object",
                remedy='Use a name such as "mse".',
            )
        )
    if given not in LOSSES:
        raise ValueError(
            sentence(
                "loss", got=f"is {given!r}", expected=f"one of {listing(LOSSES)}", remedy="Use one of these names."
            )
        )
    kind = LOSSES[given]
    known = [field.name for field in fields(kind)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(
            sentence(
                "loss",
                got=f"{given!r} is given the unknown option {unknown[0]!r}",
                expected=f"options among {listing(known)}",
                remedy="Remove or rename it.",
            )
        )
    return kind(**options)
