"""Keras: losses, gradients and all numbers between the layers of a compiled model, without a step.

Everything is read from the live objects: the losses that the model was compiled with, their weights, the regularizers
of its variables and what its layers add by ``add_loss``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..checks.staged.witnesses import Backward, Witnesses
from ..engine import Network
from ..errors import Unsupported, listing, sentence
from ..parameters import Array, Parameters
from ..rounding.storage import NARROW
from ..spec import Head
from .computation import Computation
from .keras_backend import array_of, load, snapshot, versions, view_of
from .keras_differentiation import Differentiated, differentiate
from .keras_forward import Seen, Zeros, forward
from .keras_graph import Graph, graph_of, shared_depth
from .keras_kept import program
from .keras_losses import Term, compiled, terms_of
from .keras_scaled import within_range
from .keras_subject import Subject

REGULARIZERS, ADDED, DATA = "regularizers", "add_loss", "the weighted sum of the losses"
DTYPES = ("float32", "float64")


def subject_of(model: Any, x: Any, targets: Any, sample_weight: Any = None, objective: Any = None) -> Subject:
    """Read a model and check a batch; ``objective`` stands for what the model was compiled with.

    Raises ``ValueError`` for what the engine does not know, and names it.
    """
    keras = load()
    graph = graph_of(keras, model)
    dtype, compute_dtype = _dtypes(graph)
    given = _input(x, dtype)
    _require_shape(graph, given)
    terms = terms_of(keras, compiled(model) if objective is None else objective, graph, targets, sample_weight, dtype)
    _require_targets(terms, len(given))
    chains = {name: graph.chains[name] for name in terms}
    depth = shared_depth(chains)
    first = next(iter(chains.values()))
    places = {f"trunk.{i}": place for i, place in enumerate(first[:depth])}
    heads = {}
    for name, chain in chains.items():
        places |= {f"heads.{name}.{i}": place for i, place in enumerate(chain[depth:])}
        term = terms[name]
        heads[name] = Head([*(place.dense for place in chain[depth:-1]), term.last], term.loss, term.factor)
    network = Network(int(first[0].layer.kernel.shape[0]), [place.dense for place in first[:depth]], heads)
    variables = {}
    for name in network.layout.names:
        layer, _, kind = name.rpartition(".")
        variables[name] = places[layer].layer.kernel if kind == "weight" else places[layer].layer.bias
    frozen = [str(variable.path) for variable in variables.values() if not variable.trainable]
    if frozen:
        raise ValueError(
            sentence("model", got=f"has variables that are not trained ({listing(frozen)})", expected="trained layers",
                     remedy="Set trainable=True on them for the check.")
        )  # fmt: skip
    params = read_parameters(keras, network, variables)
    subject = Subject(model, graph, terms, network, places, variables, given, params, compute_dtype)
    if subject.narrow:
        _require_logits(subject)
    return subject


def read_parameters(keras: Any, network: Network, variables: Mapping[str, Any]) -> Parameters:
    """The variables' values as parameters of the network; Keras keeps kernels as (n_in, n_out)."""
    arrays = {name: _wide(view_of(keras, snapshot(keras, variable))) for name, variable in variables.items()}
    return network.parameters({n: a.T if n.endswith(".weight") else a for n, a in arrays.items()})


def keras_targets(subject: Subject) -> Any:
    """The targets in the structure of the model's outputs."""
    keras = load()
    return keras.tree.map_structure(
        lambda name: subject.terms[name].target if name in subject.terms else None, subject.graph.structure
    )


def batch_of(subject: Subject) -> tuple[Array, dict[str, Array] | None]:
    """The input of the first dense layer, and the weights of samples, as the engine takes them; by a forward pass."""
    keras = load()
    with keras.StatelessScope(state_mapping=[], collect_losses=True) as scope:
        seen = forward(keras, subject.graph.shaping, subject.trunk, subject.heads, subject.logits, subject.x)
    regularized = [str(v.path) for v in subject.model.trainable_variables if getattr(v, "regularizer", None)]
    if regularized or scope.losses:
        more = listing(regularized or ["add_loss"])
        raise Unsupported(
            sentence("model", got=f"adds terms to the total ({more})", expected="losses of outputs alone",
                     remedy="The engine knows these.")
        )  # fmt: skip
    shaped = array_of(keras, seen.shaped).astype(subject.dtype, copy=False)
    return shaped, _weights(keras, subject, seen.masks)


def compute(subject: Subject) -> tuple[Computation, dict[str, tuple[float, dict[str, Array]]]]:
    """Gradients of every loss and of their weighted sum, with witnesses; beside them the values and gradients of the
    terms that are no losses of outputs (regularizers, ``add_loss``)."""
    keras, terms, network = load(), subject.terms, subject.network
    regularized = {id(v): v for v in subject.model.trainable_variables if getattr(v, "regularizer", None) is not None}

    def run(batch: Any, zeros: Zeros | None) -> tuple[dict[str, Any], Seen]:
        x, targets, weights, scale = batch
        seen = forward(keras, subject.graph.shaping, subject.trunk, subject.heads, subject.logits, x, zeros)
        values, weighted = {}, []
        for name, term in terms.items():
            loss = term.function(targets[name], seen.outputs[name], weights[name])
            value = keras.ops.cast(loss, subject.dtype)
            if scale is not None:
                value = keras.ops.multiply(value, scale)
            values[name] = value
            weighted.append(value if term.weight is None else keras.ops.multiply(value, term.weight))
        extra = {
            REGULARIZERS: [variable.regularizer(variable) for variable in regularized.values()],
            ADDED: [one for layer in _layers(subject) for one in layer._get_own_losses()],
        }
        found = {**values, DATA: sum(weighted)}
        for name, parts in extra.items():
            if parts:
                found[name] = sum(keras.ops.sum(part) for part in parts)
        return found, seen

    targets = {name: term.target for name, term in terms.items()}
    weights = {name: term.sample_weight for name, term in terms.items()}

    def differentiated(scale: float | None) -> Differentiated:
        batch = subject.x, targets, weights, None if scale is None else np.float32(scale)
        for layer in _layers(subject):
            layer._clear_losses()
        try:
            return differentiate(keras, run, subject.variables, batch, program(keras, subject, "gradients"))
        finally:
            for layer in _layers(subject):
                layer._clear_losses()

    scale, notes, (values, seen, gradients) = within_range(keras, subject, DATA, differentiated)

    def numbers(tensor: Any) -> Array:
        # Keras computes some float64 operations in float32. The numbers are kept, so their stage can be refuted.
        array = view_of(keras, tensor)
        return array if subject.narrow else array.astype(subject.dtype, copy=False)

    def canonical(found: Mapping[str, Any], names: Any) -> dict[str, Array]:
        return {name: _gradient(subject, None if found[name] is None else numbers(found[name]), name) for name in names}

    def backward(value: str, names: Any) -> Backward:
        by_variable, by_tensor = gradients[value]
        layers = {name.rpartition(".")[0] for name in names}
        kinds: dict[str, dict[str, Array]] = {"z": {}, "h": {}}
        for (kind, layer), tensor in seen.inner.items():
            if layer in layers:
                given = by_tensor[kind, layer]
                kinds[kind][layer] = np.zeros_like(numbers(tensor)) if given is None else numbers(given)
        return Backward(kinds["h"], kinds["z"], canonical(by_variable, names))

    per_loss = {name: backward(name, layout.names) for name, layout in network.loss_layouts.items()}
    summed = backward(DATA, network.layout.names)
    extra = {
        name: canonical(gradients[name][0], network.layout.names) for name in (REGULARIZERS, ADDED) if name in gradients
    }
    done = Computation(
        framework="Keras",
        network=network,
        params=subject.params,
        x=_wide(numbers(seen.shaped).copy()),
        targets={name: term.engine_target(subject.dtype) for name, term in terms.items()},
        per_loss={name: {n: _wide(a, scale) for n, a in one.gradient.items()} for name, one in per_loss.items()},
        summed={name: _wide(array, scale) for name, array in summed.gradient.items()},
        losses={name: float(array_of(keras, values[name])) / scale for name in terms},
        native=subject.native,
        sample_weight=_weights(keras, subject, seen.masks),
        witnesses=Witnesses(
            z={name: numbers(tensor) for name, tensor in seen.z.items()},
            h={name: numbers(tensor) for name, tensor in seen.h.items()},
            per_loss=per_loss,
            summed=summed,
        ),
        # TensorFlow and XLA let subnormal numbers vanish on the CPU; PyTorch does not.
        flush_to_zero=keras.backend.backend() != "torch",
        versions=versions(keras),
        kept=subject.compute_dtype if subject.narrow else None,
        loss_dtype="float32" if subject.narrow else None,
        narrow_steps=subject.narrow and keras.backend.backend() != "torch",
        narrow_sums=subject.narrow and keras.backend.backend() != "torch",
        loss_scale=scale,
        notes=notes,
    )
    return done, {name: (float(array_of(keras, values[name])), gradient) for name, gradient in extra.items()}


def _layers(subject: Subject) -> list[Any]:
    return list(subject.model._flatten_layers())


def _wide(array: Array, scale: float = 1.0) -> Array:
    """bfloat16 and float16 in float32, which holds all their numbers, without the scale of the losses."""
    wide = array.astype(np.float32) if array.dtype.name in NARROW else array
    return wide if scale == 1.0 else np.asarray(wide / np.float32(scale))


def _require_logits(subject: Subject) -> None:
    """In a narrow format a probability has lost what the loss needs, before the loss sees it."""
    if subject.logits:
        own = listing(sorted(subject.places[name].layer.name for name in subject.logits))
        raise Unsupported(
            sentence("model", got=f"computes probabilities in {subject.compute_dtype} at {own}", expected="logits",
                     remedy='Use from_logits=True on a linear layer, or give the last layer dtype="float32".')
        )  # fmt: skip


def _dtypes(graph: Graph) -> tuple[str, str]:
    """The dtype in which the engine holds what it is given, and that in which the layers compute."""
    found = {
        (str(place.layer.variable_dtype), str(place.layer.compute_dtype))
        for chain in graph.chains.values()
        for place in chain
    }
    kinds = {kind for pair in found for kind in pair}
    if len(kinds) == 1 and kinds <= set(DTYPES):
        own = kinds.pop()
        return own, own
    for narrow in NARROW:
        if found in ({("float32", narrow)}, {(narrow, narrow)}):
            return "float32", narrow
    policy = ", ".join(sorted(kinds))
    raise Unsupported(
        sentence("model", got=f"has layers in {policy}",
                 expected="float32, float64, bfloat16 or float16 throughout, mixed_bfloat16 or mixed_float16",
                 remedy="Set another dtype policy for the check.")
    )  # fmt: skip


def _input(x: Any, dtype: str) -> Array:
    if hasattr(x, "detach"):
        x = x.detach().cpu()
    array = np.asarray(x)
    if array.dtype.kind not in "fiub" or array.ndim < 2 or not len(array):
        raise ValueError(
            sentence("x", got=f"has shape {array.shape} and dtype {array.dtype}", expected="numbers (batch, n_in)",
                     remedy="Pass the model's one input.")
        )  # fmt: skip
    # As Keras converts what it is given.
    return array.astype(dtype, copy=False)


def _require_shape(graph: Graph, x: Array) -> None:
    wanted = tuple(graph.input_shape[1:])
    fits = len(wanted) == x.ndim - 1 and all(n in (None, own) for n, own in zip(wanted, x.shape[1:], strict=True))
    if not fits:
        raise ValueError(
            sentence("x", got=f"has shape {x.shape}", expected=f"(batch, {', '.join(map(str, wanted))})",
                     remedy="Pass what the model takes.")
        )  # fmt: skip


def _require_targets(terms: Mapping[str, Term], batch: int) -> None:
    """Keras would spread or cut what does not fit, or fail inside its backend."""
    for name, term in terms.items():
        target, n_out = term.target, term.last.n_out
        classes = term.loss.target_kind == "classes" and target.dtype.kind in "iu"
        shapes = [(batch,), (batch, 1)] if classes else [(batch, n_out), *([(batch,)] if n_out == 1 else [])]
        if target.shape not in shapes:
            raise ValueError(
                sentence(f"targets[{name!r}]", got=f"has shape {target.shape}",
                         expected=" or ".join(map(str, shapes)), remedy="One target per sample and output.")
            )  # fmt: skip
        if classes and not (target.min() >= 0 and target.max() < n_out):
            raise ValueError(
                sentence(f"targets[{name!r}]", got=f"has classes from {target.min()} to {target.max()}",
                         expected=f"0 to {n_out - 1}", remedy="Number the classes from 0.")
            )  # fmt: skip


def _gradient(subject: Subject, given: Array | None, name: str) -> Array:
    if given is None:
        return np.zeros(subject.network.layout.shapes[name], subject.dtype)
    return given.T if name.endswith(".weight") else given


def _weights(keras: Any, subject: Subject, masks: Mapping[str, Any]) -> dict[str, Array] | None:
    """The weights of samples as the engine takes them: the user's, a mask's, and the batch where Keras adds up."""
    found: dict[str, Array] = {}
    batch = len(subject.x)
    for name, term in subject.terms.items():
        weights: Array | None = None
        if term.sample_weight is not None:
            weights = np.asarray(term.sample_weight).astype(subject.dtype).reshape(batch, -1)
            if weights.shape[1] != 1:
                raise ValueError(
                    sentence(f"sample_weight[{name!r}]", got=f"has {weights.shape[1]} columns", expected=f"({batch},)",
                             remedy="Give one weight per sample.")
                )  # fmt: skip
            weights = weights[:, 0].astype(np.float64)
        if masks[name] is not None:
            mask = array_of(keras, masks[name]).astype(bool).reshape(batch)
            rescaled = mask.any() and term.loss.reduction == "mean" and not term.over_samples
            share = batch / mask.sum() if rescaled else 1.0
            weights = _ones(weights, batch) * np.where(mask, share, 0.0)
        if term.over_samples:
            weights = _ones(weights, batch) * batch
        if weights is not None:
            found[name] = weights
    return found or None


def _ones(weights: Array | None, batch: int) -> Array:
    return np.ones(batch) if weights is None else weights
