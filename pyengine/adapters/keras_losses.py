"""Keras: the terms of the total that ``model.compile`` configured, as live objects and as the engine knows them.

How Keras resolves what the user wrote (names, objects, functions, dicts, lists, weights) is its own business: its own
``CompileLoss`` is built from the model's settings, on the model's own outputs, and read.

A cross-entropy of probabilities is computed in two ways. TensorFlow finds the logits behind a softmax or a sigmoid; JAX
and PyTorch clip the probabilities to [1e-7, 1 - 1e-7], which is another function with another gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..activations import Sigmoid
from ..errors import Unsupported, listing, sentence
from ..losses import (
    MAE,
    MSE,
    BinaryCrossEntropy,
    ClippedBinaryCrossEntropy,
    ClippedCrossEntropy,
    Huber,
    Loss,
    SoftmaxCrossEntropy,
)
from ..parameters import Array
from ..spec import Dense
from .keras_graph import Graph, Place

CLIP = 1e-7
"""The clip of probabilities that the engine knows: ``keras.config.epsilon()`` unless it was changed."""


@dataclass(frozen=True, eq=False)
class Term:
    """One output's loss: Keras' own object, the weight that it has in the total (None: it is not multiplied), the loss
    and the last layer as the engine has them, and what Keras is given as target and weights of samples.

    ``smoothing`` pulls binary targets to 1/2; ``over_samples`` tells that Keras' sum is the
    engine's mean, batch times.
    """

    function: Any
    weight: float | None
    loss: Loss
    last: Dense
    target: Any
    sample_weight: Any
    smoothing: float = 0.0
    over_samples: bool = False

    @property
    def factor(self) -> float:
        return 1.0 if self.weight is None else self.weight

    @property
    def name(self) -> str:
        return _function(self.function)[0]

    @property
    def options(self) -> tuple[str, ...]:
        """All that Keras' own loss takes from Python, as text."""
        name, options = _function(self.function)
        return name, repr(sorted(options.items())), str(self.function.reduction), str(self.function.dtype)

    def engine_target(self, dtype: str) -> Array:
        """The target as the engine takes it, in the same numbers."""
        target: Array = self.target
        if (
            target.ndim == 2
            and target.shape[1] == 1
            and self.loss.target_kind == "classes"
            and target.dtype.kind in "iu"
        ):
            return target[:, 0]
        if self.loss.target_kind == "classes":
            return target
        kind = np.dtype(dtype).type
        target = target.astype(dtype)
        target = target[:, None] if target.ndim == 1 and self.last.n_out == 1 else target
        return target * kind(1.0 - self.smoothing) + kind(0.5 * self.smoothing) if self.smoothing else target


def compiled(model: Any) -> Any:
    """What ``compile`` made of the losses. Raises ``ValueError`` for a model that was not compiled with any."""
    own = getattr(model, "_compile_loss", None)
    if not getattr(model, "compiled", False) or own is None:
        raise ValueError(
            sentence("model", got="is not compiled with a loss", expected="a compiled keras.Model",
                     remedy="Call model.compile(optimizer=..., loss=...) first.")
        )  # fmt: skip
    return own


def terms_of(keras: Any, own: Any, graph: Graph, targets: Any, sample_weight: Any, dtype: str) -> dict[str, Term]:
    """The terms by output name, in the order in which Keras adds them up; ``own`` is its ``CompileLoss``."""
    names = list(graph.chains)
    y = by_output("targets", targets, names, required=True)
    w = by_output("sample_weight", sample_weight, names, required=False)
    y = {name: target_array(y.get(name), dtype) for name in names}
    found: dict[str, Term] = {}
    for name, function, weight in _resolved(keras, own, graph, y):
        last = graph.chains[name][-1]
        loss, dense, smoothing = _loss(keras, name, function, last, dtype)
        target = y[name]
        if target is None:
            raise ValueError(
                sentence("targets", got=f"lacks {name}", expected=f"one per output: {listing(names)}",
                         remedy="Name them as the outputs.")
            )  # fmt: skip
        if isinstance(loss, SoftmaxCrossEntropy | ClippedCrossEntropy) and "sparse" not in _function(function)[0]:
            target = one_hot(target, dense.n_out, dtype)
        found[name] = Term(
            function,
            None if weight is None else float(np.asarray(weight)),
            loss,
            dense,
            target,
            w.get(name),
            smoothing,
            function.reduction == "sum" and loss.averages_features,
        )
    if not found:
        raise ValueError(
            sentence("model", got="has no loss on any output", expected="one", remedy="Compile it with a loss.")
        )
    return found


def by_output(argument: str, given: Any, names: list[str], *, required: bool) -> dict[str, Any]:
    """Arrays by output name, from a mapping, a list in the order of the outputs, or one array."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        unknown = [str(name) for name in given if name not in names]
        if unknown:
            raise ValueError(
                sentence(argument, got=f"has {listing(unknown)}", expected=f"outputs among {listing(names)}",
                         remedy="Name them as the outputs.")
            )  # fmt: skip
        return dict(given)
    if isinstance(given, (list, tuple)):
        if len(given) != len(names):
            raise ValueError(
                sentence(argument, got=f"has {len(given)} entries", expected=f"one per output, {len(names)}",
                         remedy="Name every output.")
            )  # fmt: skip
        return dict(zip(names, given, strict=True))
    if len(names) == 1 or not required:
        return dict.fromkeys(names, given)
    raise TypeError(
        sentence(argument, got=f"is {type(given).__name__}", expected=f"one array per output: {listing(names)}",
                 remedy="Pass a dict.")
    )  # fmt: skip


def _resolved(keras: Any, own: Any, graph: Graph, targets: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(output name, loss object, weight) as Keras resolves them."""
    kind = type(own)
    fresh = kind(loss=own._user_loss, loss_weights=own._user_loss_weights, output_names=own.output_names)
    shapes = {name: (None, chain[-1].dense.n_out) for name, chain in graph.chains.items()}

    def symbolic(name: str) -> Any:
        return keras.KerasTensor(shapes[name], name=name)

    def target(name: str) -> Any:
        given = targets[name]
        return keras.KerasTensor(shapes[name] if given is None else (None, *given.shape[1:]), name=name)

    predicted = keras.tree.map_structure(symbolic, graph.structure)
    wanted = keras.tree.map_structure(target, graph.structure)
    fresh.build(wanted, predicted)
    by_path = dict(_paths(graph.structure))
    found = []
    for path, function, weight, _ in fresh._flat_losses:
        name = by_path.get(tuple(path))
        if name is None and len(path) == 1:
            name = path[0] if path[0] in graph.chains else None
        if name is None:
            raise ValueError(
                sentence("model", got=f"has a loss on the output {path!r}", expected="one loss on each named output",
                         remedy="Give every output its own loss.")
            )  # fmt: skip
        found.append((name, function, weight))
    doubled = [name for name, _, _ in found if [n for n, _, _ in found].count(name) > 1]
    if doubled:
        raise ValueError(
            sentence("model", got=f"has several losses on the output {doubled[0]!r}", expected="one loss per output",
                     remedy="Give it a second head, or write their sum as one loss.")
        )  # fmt: skip
    return found


def _paths(structure: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], str]]:
    if isinstance(structure, Mapping):
        return [pair for key, part in structure.items() for pair in _paths(part, (*path, key))]
    if isinstance(structure, (list, tuple)):
        return [pair for i, part in enumerate(structure) for pair in _paths(part, (*path, i))]
    return [(path, structure)]


def target_array(given: Any, dtype: str) -> Array | None:
    """A target as Keras' losses see it: floats in the dtype of the loss."""
    if given is None:
        return None
    if hasattr(given, "detach"):
        given = given.detach().cpu()
    array = np.asarray(given)
    if array.dtype.kind == "f" or array.dtype.kind == "b":
        array = array.astype(dtype)
    return array


def one_hot(target: Array, classes: int, dtype: str) -> Array:
    """Classes (batch,) as the rows that categorical_crossentropy takes; rows stay, in the loss' dtype."""
    if target.dtype.kind in "iu" and target.ndim == 1:
        return np.eye(classes, dtype=dtype)[target]
    return target.astype(dtype)


def function_name(given: Any) -> str:
    """The name of the function behind a loss object."""
    return _function(given)[0]


def _function(given: Any) -> tuple[str, dict[str, Any]]:
    """The function behind a loss object, by name, and its options."""
    function = getattr(given, "fn", None)
    if function is None:
        return type(given).__name__, {}
    return str(getattr(function, "__name__", type(function).__name__)), dict(given._fn_kwargs)


def _loss(keras: Any, output: str, given: Any, last: Place, dtype: str) -> tuple[Loss, Dense, float]:
    """The engine's loss, the last layer as the engine has it, and the smoothing of binary targets."""
    name, options = _function(given)
    known = getattr(keras.losses, name, None) is getattr(given, "fn", None) is not None
    dense, softmax = last.dense, last.softmax
    if str(given.dtype) != dtype:
        raise _refused(output, name, f"computes in {given.dtype}", f"{dtype}, as the layers", "keras.config.set_floatx")
    if given.reduction in (None, "none"):
        raise _refused(output, name, "is not reduced", "a reduction", "Keras would add up its entries")
    logits = bool(options.pop("from_logits", False))
    smoothing = float(options.pop("label_smoothing", 0.0) or 0.0)
    axis, ignored = options.pop("axis", -1), options.pop("ignore_class", None)
    reduction: Any = {"sum": "sum", "mean_with_sample_weight": "weighted_mean"}.get(given.reduction, "mean")
    recovered = keras.backend.backend() == "tensorflow"
    if name == "huber" and known:
        loss: Loss = Huber(reduction, float(options.pop("delta", 1.0)), form="clipped")
    elif name == "mean_squared_error" and known:
        loss = MSE(reduction)
    elif name == "mean_absolute_error" and known:
        loss = MAE(reduction)
    elif name in ("categorical_crossentropy", "sparse_categorical_crossentropy") and known and axis == -1:
        if logits == softmax or (not logits and not softmax) or ignored is not None:
            found = "softmax" if softmax else dense.activation.name
            raise _refused(output, name, f"takes {'logits' if logits else 'probabilities'} from {found}",
                           "logits from a layer without softmax, or probabilities from a softmax",
                           "Set from_logits as the layer is")  # fmt: skip
        if logits or recovered:
            loss = SoftmaxCrossEntropy(reduction, smoothing)
        else:
            _require_clip(keras, output, name)
            loss = ClippedCrossEntropy(reduction, smoothing)
        smoothing = 0.0
    elif name == "binary_crossentropy" and known and axis == -1:
        loss = _binary(keras, output, name, dense, logits, reduction)
        dense = Dense(dense.n_out, "linear", dense.bias)
    else:
        raise _refused(output, name, "is not known to the engine",
                       "cross-entropy, mean squared or absolute error, or huber", "The engine knows these")  # fmt: skip
    if options or (smoothing and not isinstance(loss, BinaryCrossEntropy | ClippedBinaryCrossEntropy)):
        raise _refused(output, name, f"has {listing(options)}", "no such option", "The engine does not know it")
    if reduction == "sum" and loss.averages_features:
        # Keras averages the features before it adds the samples up.
        loss = replace(loss, reduction="mean")
    return loss, dense, smoothing


def _binary(keras: Any, output: str, name: str, dense: Dense, logits: bool, reduction: Any) -> Loss:
    """From logits, which TensorFlow recovers from a sigmoid, or from probabilities, which the others clip."""
    sigmoid = isinstance(dense.activation, Sigmoid)
    if not logits and not sigmoid:
        raise _refused(output, name, f"takes probabilities from {dense.activation.name}",
                       "logits, or probabilities from a sigmoid",
                       "Use from_logits=True on a linear layer, which loses no digits")  # fmt: skip
    if logits and sigmoid:
        raise _refused(output, name, "takes logits from a sigmoid", "a linear layer", "Remove one of the two")
    if logits or keras.backend.backend() == "tensorflow":
        return BinaryCrossEntropy(reduction)
    _require_clip(keras, output, name)
    return ClippedBinaryCrossEntropy(reduction)


def _require_clip(keras: Any, output: str, name: str) -> None:
    if keras.config.epsilon() != CLIP:
        raise _refused(output, name, f"clips at {keras.config.epsilon()}", f"{CLIP}", "Reset keras.config.set_epsilon")


def _refused(output: str, name: str, got: str, expected: str, remedy: str) -> Unsupported:
    return Unsupported(
        sentence("model", got=f"has {name!r} on the output {output!r}, which {got}", expected=expected,
                 remedy=f"{remedy}.")
    )  # fmt: skip
