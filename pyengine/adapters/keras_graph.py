"""Keras: which dense layers lie between the input and each output, read from the model's own graph.

A functional or Sequential model has that graph. Of a subclassed model it is drawn by calling ``model.call`` on a
symbolic tensor, as Keras itself does to infer shapes; the nodes that this leaves on its layers are taken away again.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..activations import ELU, GELU, Activation, GELUTanh, LeakyReLU, activation
from ..errors import Unsupported, sentence
from ..spec import Dense

SOFTMAX = "softmax"
SHAPING = ("Flatten", "Reshape", "Rescaling", "Masking", "Normalization")
TRANSPARENT = ("Identity", "StopGradient", "ActivityRegularization")
_OPERATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "Softplus": "softplus", "Silu": "silu",
               "Softmax": SOFTMAX, "Elu": "elu", "Gelu": "gelu", "LeakyRelu": "leaky_relu"}  # fmt: skip
_LAYERS = ("Activation", "ReLU", "LeakyReLU", "ELU", "Softmax")


@dataclass(frozen=True, eq=False)
class Place:
    """A dense layer; the operations ``before`` it, which copy, and those ``after`` it: its activation, if that is one
    of its own. ``softmax`` tells that the activation is a softmax, which belongs to the loss: ``dense`` is linear then.
    """

    layer: Any
    dense: Dense
    before: tuple[Any, ...] = ()
    after: tuple[Any, ...] = ()
    softmax: bool = False

    @property
    def identity(self) -> tuple[tuple[int, ...], ...]:
        return tuple(map(id, self.before)), (id(self.layer),), tuple(map(id, self.after))


@dataclass(frozen=True, eq=False)
class Graph:
    """``shaping`` prepares the input and has nothing to train; ``chains`` are the dense layers by output, in order;
    ``structure`` is what the model returns, with the outputs' names in the place of its tensors."""

    shaping: tuple[Any, ...]
    chains: Mapping[str, tuple[Place, ...]]
    structure: Any
    input_shape: tuple[int | None, ...]


def graph_of(keras: Any, model: Any) -> Graph:
    """Read the graph. Raises ``ValueError`` for what the engine does not know, and names it."""
    inputs, outputs, added = _symbolic(keras, model)
    try:
        flat = keras.tree.flatten(outputs)
        names = _names(model, outputs, flat)
        steps = {name: _steps(keras, tensor, inputs) for name, tensor in zip(names, flat, strict=True)}
        structure = keras.tree.pack_sequence_as(outputs, names)
    finally:
        for nodes, length in added:
            del nodes[length:]
    shaping: dict[str, tuple[Any, ...]] = {}
    chains = {}
    for name, found in steps.items():
        shaping[name], chains[name] = _places(keras, found, name)
    first = next(iter(shaping.values()))
    if any(list(map(id, one)) != list(map(id, first)) for one in shaping.values()):
        raise _unknown("model", "prepares its input in more than one way", "one way before the first Dense layer")
    return Graph(first, chains, structure, tuple(inputs[0].shape))


def shared_depth(chains: Mapping[str, tuple[Place, ...]]) -> int:
    """How many layers all outputs share; every output keeps at least one of its own."""
    depth = 0
    while (
        all(len(chain) > depth + 1 for chain in chains.values())
        and len({chain[depth].identity for chain in chains.values()}) == 1
    ):
        depth += 1
    own = [id(place.layer) for chain in chains.values() for place in chain[depth:]]
    if len(set(own)) < len(own):
        raise _unknown("model", "uses one Dense layer at two places", "a trunk that all outputs share, then branches")
    return depth


def _symbolic(keras: Any, model: Any) -> tuple[list[Any], Any, list[tuple[Any, int]]]:
    """Symbolic inputs and outputs, and the lists of nodes that grew, with their lengths before."""
    source = getattr(model, "_functional", None) or model
    if hasattr(source, "_run_through_graph") and getattr(source, "inputs", None):
        if len(source.inputs) != 1:
            raise _unknown("model", f"has {len(source.inputs)} inputs", "one input")
        return list(source.inputs), source._outputs_struct, []
    shape = _built_shape(model)
    lengths = [
        (nodes, len(nodes)) for part in model._flatten_layers() for nodes in (part._inbound_nodes, part._outbound_nodes)
    ]
    tensor = keras.Input(batch_shape=shape)
    wanted = {"training": True} if getattr(model, "_call_has_training_arg", False) else {}
    try:
        outputs = model.call(tensor, **wanted)
    except Exception as error:
        raise _unknown("model", f"could not be called on a symbolic input ({error})", "a call of layers") from error
    return [tensor], outputs, lengths


def _built_shape(model: Any) -> tuple[Any, ...]:
    config = getattr(model, "_build_shapes_dict", None) or {}
    shapes = list(config.values())
    if len(shapes) != 1 or not isinstance(shapes[0], (tuple, list)):
        raise ValueError(
            sentence("model", got="is not built", expected="a model that knows the shape of its one input",
                     remedy="Call it once on a batch first.")
        )  # fmt: skip
    return (None, *shapes[0][1:])


def _names(model: Any, outputs: Any, flat: list[Any]) -> list[str]:
    if isinstance(outputs, Mapping):
        return [str(name) for name in sorted(outputs)]
    given = getattr(model, "output_names", None)
    names = list(given) if given else [tensor._keras_history.operation.name for tensor in flat]
    names = [str(name).replace(".", "_") for name in names]
    # Outputs of one nested model bear its name, all of them.
    return [f"{name}_{i}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _steps(keras: Any, tensor: Any, inputs: list[Any]) -> list[Any]:
    """The operations from the input to ``tensor``, those of nested models among them."""
    steps: list[Any] = []
    while not any(tensor is given for given in inputs):
        history = tensor._keras_history
        operation, node = history.operation, history.operation._inbound_nodes[history.node_index]
        if len(node.input_tensors) != 1:
            raise _layer_unknown(operation)
        inner = getattr(operation, "_functional", None) or operation
        if hasattr(inner, "_run_through_graph") and getattr(inner, "inputs", None):
            steps += reversed(_steps(keras, inner.outputs[history.tensor_index], list(inner.inputs)))
        else:
            steps.append(operation)
        (tensor,) = node.input_tensors
    return steps[::-1]


def _places(keras: Any, steps: list[Any], output: str) -> tuple[tuple[Any, ...], tuple[Place, ...]]:
    shaping: list[Any] = []
    found: list[Place] = []
    copying: list[Any] = []
    for step in steps:
        kind = type(step).__name__
        if isinstance(step, keras.layers.Dense):
            if kind != "Dense" or getattr(step, "quantization_mode", None) or getattr(step, "lora_enabled", False):
                raise _layer_unknown(step)
            found.append(replace(_place(keras, step), before=tuple(copying)))
            copying = []
        elif not found and kind in SHAPING:
            shaping += [*copying, step]
            copying = []
        elif _copies(keras, step):
            copying.append(step)
        else:
            act = _activation_of(keras, step)
            if act is None or not found or found[-1].softmax or found[-1].dense.activation.name != "linear":
                raise _layer_unknown(step)
            last = found[-1]
            own = activation("linear") if isinstance(act, str) else act
            dense = Dense(last.dense.n_out, own, last.dense.bias)
            after = (*last.after, *copying, step)
            found[-1] = replace(last, dense=dense, after=after, softmax=act == SOFTMAX)
            copying = []
    if not found:
        raise _unknown("model", f"has no Dense layer before the output {output!r}", "at least one")
    if any(place.softmax for place in found[:-1]):
        raise _unknown("model", "has a softmax between two Dense layers", "a softmax at the end of a branch only")
    found[-1] = replace(found[-1], after=(*found[-1].after, *copying))
    return tuple(shaping), tuple(found)


def _place(keras: Any, layer: Any) -> Place:
    for kind in ("kernel_constraint", "bias_constraint"):
        if getattr(layer, kind, None) is not None:
            raise _unknown("model", f"has a {kind} in layer {layer.name!r}", "none")
    act = function_of(keras, layer.activation)
    if act is None:
        name = getattr(layer.activation, "__name__", type(layer.activation).__name__)
        raise _unknown("model", f"has the activation {name!r} in layer {layer.name!r}", "one of the engine's ten")
    own = activation("linear") if isinstance(act, str) else act
    return Place(layer, Dense(int(layer.units), own, bool(layer.use_bias)), softmax=act == SOFTMAX)


def function_of(keras: Any, function: Any) -> Activation | str | None:
    """The engine's activation for a function of Keras; ``"softmax"`` for that one, None for what is not known."""
    if function is None:
        return activation("linear")
    if isinstance(function, keras.layers.Layer):
        return _activation_of(keras, function)
    options: Mapping[str, Any] = {}
    if isinstance(function, functools.partial) and not function.args:
        function, options = function.func, function.keywords
    found = next(
        (
            name
            for name in (*_OPERATIONS.values(), "linear")
            if function in (getattr(keras.activations, name, None), getattr(keras.ops, name, None))
        ),
        None,
    )
    return None if found is None else _with_options(keras, found, options)


def _leaky(keras: Any, slope: Any) -> Activation:
    """TensorFlow's operation keeps the slope in float32, whatever the dtype of its input."""
    return LeakyReLU(float(np.float32(slope)) if keras.backend.backend() == "tensorflow" else float(slope))


def _with_options(keras: Any, name: str, options: Mapping[str, Any]) -> Activation | str | None:
    if name == SOFTMAX:
        return SOFTMAX if options.get("axis", -1) == -1 else None
    if name == "gelu":
        # The function's default is the erf form; the operation's is the other, and carries it as an attribute.
        return GELUTanh() if options.get("approximate", False) else GELU()
    if name == "leaky_relu":
        return _leaky(keras, options.get("negative_slope", 0.2))
    if name == "elu":
        return ELU(float(options.get("alpha", 1.0)))
    return activation(name) if not options else None


def _activation_of(keras: Any, step: Any) -> Activation | str | None:
    """The activation that a layer or an operation computes, or None."""
    kind = type(step).__name__
    if isinstance(step, keras.layers.Layer):
        if kind not in _LAYERS:
            return None
        if kind == "Activation":
            return function_of(keras, step.activation)
        if kind == "Softmax":
            return SOFTMAX if step.axis == -1 else None
        if kind == "ELU":
            return ELU(float(step.alpha))
        if kind == "LeakyReLU":
            return _leaky(keras, step.negative_slope)
        if step.max_value is not None or step.threshold != 0.0:
            return None
        return _leaky(keras, step.negative_slope) if step.negative_slope else activation("relu")
    if kind not in _OPERATIONS:
        return None
    names = ("axis", "approximate", "negative_slope", "alpha")
    return _with_options(keras, _OPERATIONS[kind], {n: getattr(step, n) for n in names if hasattr(step, n)})


def _copies(keras: Any, step: Any) -> bool:
    kind = type(step).__name__
    if kind == "Dropout" and isinstance(step, keras.layers.Layer):
        return not step.rate
    if kind == "Activation":
        return bool(step.activation is keras.activations.linear)
    return kind in TRANSPARENT


def _layer_unknown(step: Any) -> Unsupported:
    kind = type(step).__name__
    extra = f" with rate {step.rate}" if kind == "Dropout" else ""
    return _unknown("model", f"has {step.name!r} of type {kind}{extra}", "Dense layers, each with one known activation")


def _unknown(argument: str, got: str, expected: str) -> Unsupported:
    return Unsupported(sentence(argument, got=got, expected=expected, remedy="The engine knows no other."))
