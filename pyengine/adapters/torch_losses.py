"""PyTorch losses, objects or functions, as losses of the engine with weights of samples.

Weights of classes and ignored classes are weights of samples: PyTorch divides by the sum of the weights of the targets'
classes, which is ``weighted_mean``. SmoothL1Loss(β) is a Huber loss with δ = β, divided by β. BCELoss after a sigmoid
is binary cross-entropy on logits, short of saturation: (p - y)/(p·(1 - p)), times p·(1 - p), rounds no more than the
forms that the engine allows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import Unsupported, sentence
from ..losses import MAE, MSE, BinaryCrossEntropy, Huber, Loss, SoftmaxCrossEntropy
from ..parameters import Array
from ..spec import Dense
from .computation import as_batch
from .torch_graph import Place


@dataclass(frozen=True, eq=False)
class Twin:
    """The engine's loss, the targets in its form, and the weights of the samples (None for ones).

    ``probabilities`` tells that PyTorch's loss takes the sigmoid of what the engine's takes.
    """

    loss: Loss
    target: Array
    weight: Array | None = None
    probabilities: bool = False


def twin_of(torch: Any, name: str, given: Any, target: Any) -> Twin:
    """The engine's twin of a PyTorch loss. Raises :class:`Unsupported` for one that it does not know, by its name."""
    kind, options = _options(torch, given)
    reduction = options.get("reduction", "mean")
    plain = all(options.get(o) is None for o in ("weight", "pos_weight"))
    array = as_batch(target)
    makers: dict[str, Callable[[], Twin]] = {
        "MSELoss": lambda: Twin(MSE(reduction), array),
        "L1Loss": lambda: Twin(MAE(reduction), array),
        "HuberLoss": lambda: Twin(Huber(reduction, delta=float(options.get("delta", 1.0)), form="clipped"), array),
        "BCEWithLogitsLoss": lambda: Twin(BinaryCrossEntropy(reduction), array),
        "BCELoss": lambda: Twin(BinaryCrossEntropy(reduction), array, probabilities=True),
        "SmoothL1Loss": lambda: _smooth_l1(array, reduction, float(options.get("beta", 1.0))),
    }
    if reduction in ("mean", "sum"):
        if kind == "CrossEntropyLoss" and (found := _cross_entropy(array, options, reduction)) is not None:
            return found
        if kind in makers and plain:
            return makers[kind]()
    called = getattr(given, "__name__", type(given).__name__)
    said = [o for o in ("weight", "pos_weight") if options.get(o) is not None]
    raise Unsupported(
        sentence(
            f"losses[{name!r}]",
            got=f"is {called}{' with ' + ', '.join(said) if said else ''}, reduction {reduction!r}",
            expected="CrossEntropyLoss, MSELoss, L1Loss, HuberLoss, SmoothL1Loss, BCEWithLogitsLoss, BCELoss or its "
            "function",
            remedy="The engine knows these, with weights of classes for classes without smoothing.",
        )
    )


SMALLEST_PRODUCT = 1e-12
"""What PyTorch's derivative of BCELoss puts in the place of a smaller p·(1 - p)."""


def before_sigmoid(name: str, last: Place) -> Place:
    """The last layer of a head without its sigmoid, which belongs to the loss. Raises :class:`Unsupported` without."""
    if last.dense.activation.name != "sigmoid":
        raise Unsupported(
            sentence(f"losses[{name!r}]", got=f"is BCELoss after {last.dense.activation.name}", expected="a sigmoid",
                     remedy="It takes probabilities; BCEWithLogitsLoss takes logits.")
        )  # fmt: skip
    return replace(last, dense=Dense(last.dense.n_out, "linear", last.dense.bias), h=last.z)


def require_unsaturated(name: str, p: Array, target: Array) -> None:
    """Raise :class:`Unsupported` where p is so near to 0 or 1 that the derivative of BCELoss is no longer p - y."""
    p, y = np.asarray(p, np.float64), np.asarray(target, np.float64).reshape(p.shape)
    lost = np.argwhere((p * (1.0 - p) < SMALLEST_PRODUCT) & ~((p == 1.0) & (y == 1.0)))
    if len(lost):
        first = tuple(lost[0])
        raise Unsupported(
            sentence(
                f"losses[{name!r}]",
                got=f"is BCELoss of {len(lost)} probabilities within rounding of 0 or 1 (first: sample {first[0]}, "
                f"{p[first]:.9g} for {y[first]:g}), whose gradient it drops or shrinks",
                expected="logits", remedy="Use BCEWithLogitsLoss on the layer without its sigmoid.",
            )
        )  # fmt: skip


def _cross_entropy(array: Array, options: dict[str, Any], reduction: Any) -> Twin | None:
    """None where weights of classes are no weights of samples: for probabilities, and with label smoothing."""
    smoothing = float(options.get("label_smoothing", 0.0))
    by_class = options.get("weight")
    if array.dtype.kind not in "iu":
        return Twin(SoftmaxCrossEntropy(reduction, smoothing), array) if by_class is None else None
    ignored = array == int(options.get("ignore_index", -100))
    if by_class is None and not ignored.any():
        return Twin(SoftmaxCrossEntropy(reduction, smoothing), array)
    if by_class is not None and smoothing:
        return None
    classes = np.where(ignored, 0, array)
    own = np.ones(array.shape) if by_class is None else as_batch(by_class).astype(np.float64)[classes]
    own = np.where(ignored, 0.0, own)
    return Twin(SoftmaxCrossEntropy("weighted_mean" if reduction == "mean" else "sum", smoothing), classes, own)


def _smooth_l1(array: Array, reduction: Any, beta: float) -> Twin:
    if beta == 0.0:
        return Twin(MAE(reduction), array)
    weight = None if beta == 1.0 else np.full(array.shape[:1], 1.0 / beta)
    return Twin(Huber(reduction, delta=beta, form="clipped"), array, weight)


def _options(torch: Any, given: Any) -> tuple[str, dict[str, Any]]:
    """The name of the loss object, and its options; those of a function come from ``functools.partial``."""
    f = torch.nn.functional
    functions = {
        f.cross_entropy: "CrossEntropyLoss",
        f.mse_loss: "MSELoss",
        f.l1_loss: "L1Loss",
        f.huber_loss: "HuberLoss",
        f.smooth_l1_loss: "SmoothL1Loss",
        f.binary_cross_entropy_with_logits: "BCEWithLogitsLoss",
        f.binary_cross_entropy: "BCELoss",
    }
    if isinstance(given, functools.partial):
        known = not given.args and given.func in functions
        return (functions[given.func], dict(given.keywords)) if known else ("", {})
    if not isinstance(given, torch.nn.Module):
        return functions.get(given, ""), {}
    # A subclass may do anything: only PyTorch's own are known.
    own = getattr(torch.nn, type(given).__name__, None) is type(given)
    names = ("weight", "pos_weight", "reduction", "label_smoothing", "ignore_index", "delta", "beta")
    return type(given).__name__ if own else "", {o: getattr(given, o) for o in names if hasattr(given, o)}
