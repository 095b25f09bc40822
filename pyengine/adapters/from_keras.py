"""Keras 3: read a compiled functional model, and watch one training step without changing anything in it.

What Keras applied is read from Adam's first moment. It starts at zero, and the first step sets it to (1 - β₁)·g, so
g = m/(1 - β₁): the gradient that the compiled step really used, past every tape, graph and scaling. The division costs
two float32 roundings of g: the constant 1 - β₁ and the product.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..engine import Network
from ..errors import sentence
from ..losses import MSE, ClippedCrossEntropy, Loss, SoftmaxCrossEntropy
from ..optimizers import Adam
from ..parameters import Array, Parameters, empty
from ..spec import Dense, Head
from ..witnesses import Log, Step

ACTIVATIONS = ("linear", "relu", "elu", "tanh", "sigmoid", "softplus", "silu", "gelu")
CROSS_ENTROPY = ("categorical_crossentropy", "CategoricalCrossentropy")
SQUARED_ERROR = ("mean_squared_error", "MeanSquaredError", "mse", "MSE")
BACKENDS = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}


def load() -> Any:
    """Import Keras quietly, on the backend that the user chose, or on the first that is installed.

    Raises ``ModuleNotFoundError`` without Keras or without any backend.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # start-up messages only; numerics stay as they are
    if (
        "keras" not in sys.modules
        and "KERAS_BACKEND" not in os.environ
        and importlib.util.find_spec("tensorflow") is None
    ):
        for backend in ("jax", "torch"):
            if importlib.util.find_spec(backend) is not None:
                os.environ["KERAS_BACKEND"] = backend
                break
        else:
            raise ModuleNotFoundError("no Keras backend is installed (TensorFlow, JAX or PyTorch)")
    import keras

    return keras


def network_of(model: Any) -> Network:
    """The engine's twin of a compiled functional model: dense layers shared by all outputs, then one branch per output.

    Raises ``ValueError`` for a model that was not compiled, has other than one input, or has a layer, an activation, a
    regularizer or a loss that the engine does not know; the message names it.
    """
    keras = load()
    if not getattr(model, "compiled", False):
        raise ValueError(
            sentence(
                "model",
                got="is not compiled",
                expected="a compiled keras.Model",
                remedy="Call model.compile(...) first.",
            )
        )
    if len(model.inputs) != 1:
        raise ValueError(
            sentence(
                "model",
                got=f"has {len(model.inputs)} inputs",
                expected="one input",
                remedy="The engine takes one array.",
            )
        )
    config = model.get_compile_config()
    names = list(model.output_names)
    losses = _per_output("loss", config["loss"], names)
    weights = _per_output("loss_weights", config.get("loss_weights"), names)
    chains = {name: _chain(keras, tensor) for name, tensor in zip(names, model.outputs, strict=True)}
    depth = 0
    while (
        all(len(chain) > depth + 1 for chain in chains.values())
        and len({id(chain[depth]) for chain in chains.values()}) == 1
    ):
        depth += 1
    first = next(iter(chains.values()))
    heads = {}
    for name, chain in chains.items():
        own = chain[depth:]
        loss, last = _loss(keras, name, losses[name], own[-1])
        layers = [*(_dense(keras, layer) for layer in own[:-1]), last]
        weight = weights[name]
        heads[name] = Head(layers, loss, weight=1.0 if weight is None else float(weight))
    return Network(int(model.inputs[0].shape[-1]), [_dense(keras, layer) for layer in first[:depth]], heads)


def layers_of(model: Any, network: Network) -> dict[str, Any]:
    """Canonical layer name -> the Keras layer."""
    keras = load()
    found: dict[str, Any] = {}
    for name, tensor in zip(model.output_names, model.outputs, strict=True):
        chain = _chain(keras, tensor)
        places = [layer.name for layer in (*network.trunk_layers, *network.head_layers[name])]
        found.update(zip(places, chain, strict=True))
    return found


def observe_step(
    model: Any,
    x: Array,
    targets: Mapping[str, Array],
    step: Callable[[], Any] | None = None,
    call: str = "train_on_batch",
) -> Step:
    """Let the model take one training step, and record it. The model is trained by it, as always.

    ``x`` is (batch, n_in) float32; ``targets`` maps output names to classes (batch,) or to (batch, n_out) float32.
    ``step`` replaces ``model.train_on_batch(x, y)`` for a custom loop. The optimizer must be a fresh
    ``keras.optimizers.Adam``.

    Raises ``ValueError`` for another optimizer, or for one that has already stepped.
    """
    keras = load()
    network = network_of(model)
    rule = _rule(keras, model.optimizer)
    layers = layers_of(model, network)
    before = _parameters(keras, network, layers)
    y = [_one_hot(targets[name], network.heads[name]) for name in model.output_names]
    reported = model.train_on_batch(x, y, return_dict=True) if step is None else step()
    after = _parameters(keras, network, layers)
    steps = int(_array(keras, model.optimizer.iterations))
    notes = () if steps == 1 else (f"The optimizer counts {steps} steps, so its first moment is not one gradient.",)
    return Step(
        framework="Keras",
        call=call,
        network=network,
        x=x,
        targets=dict(targets),
        before=before,
        after=after,
        gradient=_applied(keras, model.optimizer, network, layers, rule),
        gradient_source="Adam's first moment after the step, divided by 1 - β₁ (two roundings)",
        gradient_roundings=2,
        optimizer=rule,
        native=_native(network, layers),
        objective={name: _loss_name(loss) for name, loss in _losses(model).items()},
        log=_log(network, reported),
        versions=_versions(keras),
        notes=notes,
    )


def _chain(keras: Any, tensor: Any) -> list[Any]:
    """The layers from the input to ``tensor``, by the model's own graph."""
    chain: list[Any] = []
    while True:
        layer = tensor._keras_history.operation
        node = layer._inbound_nodes[tensor._keras_history.node_index]
        if isinstance(layer, keras.layers.InputLayer):
            return chain[::-1]
        if not isinstance(layer, keras.layers.Dense):
            raise ValueError(
                sentence(
                    "model",
                    got=f"has the layer {layer.name!r} of type {type(layer).__name__}",
                    expected="Dense layers only",
                    remedy="The engine knows no other layer.",
                )
            )
        chain.append(layer)
        (tensor,) = node.input_tensors


def _dense(keras: Any, layer: Any, *, activation: str | None = None) -> Dense:
    for kind in (
        "kernel_regularizer",
        "bias_regularizer",
        "activity_regularizer",
        "kernel_constraint",
        "bias_constraint",
    ):
        if getattr(layer, kind, None) is not None:
            raise ValueError(
                sentence(
                    "model",
                    got=f"has a {kind} in layer {layer.name!r}",
                    expected="none",
                    remedy="The engine adds no terms of its own.",
                )
            )
    name = activation or keras.activations.serialize(layer.activation)
    if name not in ACTIVATIONS:
        raise ValueError(
            sentence(
                "model",
                got=f"has the activation {name!r} in layer {layer.name!r}",
                expected=f"one of {', '.join(ACTIVATIONS)}",
                remedy="Softmax is known at the end of a branch with categorical_crossentropy.",
            )
        )
    # Keras' gelu is the erf form unless asked otherwise; a string names the default.
    return Dense(int(layer.units), name, bias=bool(layer.use_bias))


def _loss(keras: Any, output: str, given: Any, last: Any) -> tuple[Loss, Dense]:
    """The engine's loss for an output, and its last layer, whose softmax belongs to the loss."""
    name = _loss_name(given)
    plain = isinstance(given, str) or _plain(given)
    activation = keras.activations.serialize(last.activation)
    if plain and name in SQUARED_ERROR and activation != "softmax":
        return MSE(), _dense(keras, last)
    if plain and name in CROSS_ENTROPY and activation == "softmax":
        # TensorFlow's Keras finds the logits behind the softmax; JAX and PyTorch clip the probabilities.
        loss = SoftmaxCrossEntropy() if keras.backend.backend() == "tensorflow" else ClippedCrossEntropy()
        return loss, _dense(keras, last, activation="linear")
    raise ValueError(
        sentence(
            "model",
            got=f"has the loss {name!r} on the output {output!r}, which ends in {activation}",
            expected="categorical_crossentropy on a softmax, or mean_squared_error",
            remedy="Use one of these, without options.",
        )
    )


def _plain(config: Any) -> bool:
    options = config.get("config", {}) if isinstance(config, Mapping) else {}
    return (
        not options.get("from_logits", False)
        and not options.get("label_smoothing", 0.0)
        and options.get("reduction", "sum_over_batch_size") == "sum_over_batch_size"
    )


def _losses(model: Any) -> dict[str, Any]:
    return _per_output("loss", model.get_compile_config()["loss"], list(model.output_names))


def _loss_name(given: Any) -> str:
    if isinstance(given, str):
        return given
    return str(given.get("class_name", given)) if isinstance(given, Mapping) else str(given)


def _per_output(argument: str, given: Any, names: Sequence[str]) -> dict[str, Any]:
    if given is None or isinstance(given, str) or (isinstance(given, Mapping) and "class_name" in given):
        return dict.fromkeys(names, given)
    if isinstance(given, Mapping):
        return {name: given.get(name) for name in names}
    if isinstance(given, (int, float)):
        return dict.fromkeys(names, given)
    if len(given) != len(names):
        raise ValueError(
            sentence(
                argument,
                got=f"has {len(given)} entries",
                expected=f"one per output, {len(names)}",
                remedy="Name every output.",
            )
        )
    return dict(zip(names, given, strict=True))


def _rule(keras: Any, optimizer: Any) -> Adam:
    config = optimizer.get_config()
    extras = [
        key
        for key in (
            "weight_decay",
            "clipnorm",
            "global_clipnorm",
            "clipvalue",
            "loss_scale_factor",
            "gradient_accumulation_steps",
        )
        if config.get(key) is not None
    ]
    extras += [key for key in ("amsgrad", "use_ema") if config.get(key)]
    # On PyTorch, Keras makes a subclass of the same name; AdamW is a subclass of another.
    plain = isinstance(optimizer, keras.optimizers.Adam) and type(optimizer).__name__ == "Adam"
    if not plain or extras or not isinstance(config["learning_rate"], float):
        got = f"is {type(optimizer).__name__}" + (f" with {', '.join(extras)}" if extras else "")
        raise ValueError(
            sentence(
                "optimizer", got=got, expected="a plain keras.optimizers.Adam", remedy='Compile with optimizer="adam".'
            )
        )
    if int(_array(keras, optimizer.iterations)) != 0:
        raise ValueError(
            sentence(
                "optimizer",
                got="has already stepped",
                expected="a fresh one",
                remedy="Compile the model again before observing.",
            )
        )
    # Keras keeps it in float32; the shortest decimal that rounds to the same float32 is what the user wrote.
    rate = float(str(np.float32(config["learning_rate"])))
    return Adam(rate, config["beta_1"], config["beta_2"], config["epsilon"], style="keras")


def _parameters(keras: Any, network: Network, layers: Mapping[str, Any]) -> Parameters:
    found = {}
    for name, layer in layers.items():
        # Keras keeps kernels as (n_in, n_out).
        found[f"{name}.weight"] = _array(keras, layer.kernel).T
        if layer.use_bias:
            found[f"{name}.bias"] = _array(keras, layer.bias)
    return network.parameters(found)


def _array(keras: Any, variable: Any) -> Array:
    with warnings.catch_warnings():
        # TensorFlow's variables answer NumPy 2 in NumPy 1's way, and NumPy says so.
        warnings.simplefilter("ignore", DeprecationWarning)
        return np.array(keras.ops.convert_to_numpy(variable))


def _native(network: Network, layers: Mapping[str, Any]) -> dict[str, str]:
    names = {}
    for name in network.layout.names:
        layer, _, kind = name.rpartition(".")
        names[name] = str((layers[layer].kernel if kind == "weight" else layers[layer].bias).path)
    return names


def _applied(keras: Any, optimizer: Any, network: Network, layers: Mapping[str, Any], rule: Adam) -> Parameters:
    slots = {variable.name: variable for variable in optimizer.variables}
    gradient = empty(network.layout, np.dtype(np.float64))
    for name, native in _native(network, layers).items():
        slot = slots.get(f"{native.replace('/', '_')}_momentum")
        if slot is None:
            raise ValueError(
                sentence(
                    "optimizer",
                    got=f"has no momentum for {native!r}",
                    expected="one per variable",
                    remedy="Was it trained at all?",
                )
            )
        moment = _array(keras, slot).astype(np.float64)
        gradient[name][...] = (moment.T if name.endswith(".weight") else moment) / (1.0 - rule.beta_1)
    return gradient


def _one_hot(target: Array, head: Head) -> Array:
    if target.dtype.kind not in "iu":
        return target
    return np.eye(head.layers[-1].n_out, dtype=np.float32)[target]


def _log(network: Network, reported: Any) -> Log | None:
    if not isinstance(reported, Mapping) or "loss" not in reported:
        return None
    if len(network.heads) == 1:
        return Log(float(reported["loss"]), dict.fromkeys(network.heads, float(reported["loss"])), roundings=2)
    # Keras' log is a running mean: one product with the batch size, one division by it.
    return Log(float(reported["loss"]), {name: float(reported[f"{name}_loss"]) for name in network.heads}, roundings=2)


def _versions(keras: Any) -> dict[str, str]:
    backend = keras.backend.backend()
    module = sys.modules.get(BACKENDS.get(backend, backend))
    return {"keras": str(keras.__version__), "backend": f"{backend} {getattr(module, '__version__', '')}".strip()}
