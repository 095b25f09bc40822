"""Keras 3: watch one training step of a compiled model.

What Keras applied is read from Adam's first moment. It starts at zero, and the first step sets it to (1 - β₁)·g, so
g = m/(1 - β₁): the gradient that the compiled step really used, past every tape, graph and scaling. The division costs
two float32 roundings of g: the constant 1 - β₁ and the product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..engine import Network
from ..errors import sentence
from ..optimizers import Adam
from ..parameters import Array, Parameters, empty
from ..witnesses import Log, Step
from .keras_backend import array_of, load, versions
from .keras_model import keras_targets, read_parameters, subject_of
from .keras_subject import Subject

__all__ = ["load", "observe_step"]


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

    Raises ``ValueError`` for another optimizer, for one that has already stepped, and for a model that the engine does
    not know.
    """
    keras = load()
    subject = subject_of(model, x, targets)
    network = subject.network
    rule = _rule(keras, model.optimizer)
    before = subject.params
    reported = model.train_on_batch(subject.x, keras_targets(subject), return_dict=True) if step is None else step()
    steps = int(array_of(keras, model.optimizer.iterations))
    notes = () if steps == 1 else (f"The optimizer counts {steps} steps, so its first moment is not one gradient.",)
    return Step(
        framework="Keras",
        call=call,
        network=network,
        x=subject.x,
        targets={name: term.engine_target(subject.dtype) for name, term in subject.terms.items()},
        before=before,
        after=read_parameters(keras, network, subject.variables),
        gradient=_applied(keras, model.optimizer, subject, rule),
        gradient_source="Adam's first moment after the step, divided by 1 - β₁ (two roundings)",
        gradient_roundings=2,
        optimizer=rule,
        native=subject.native,
        objective={name: term.name for name, term in subject.terms.items()},
        log=_log(network, reported),
        versions=versions(keras),
        notes=notes,
    )


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
    if int(array_of(keras, optimizer.iterations)) != 0:
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


def _applied(keras: Any, optimizer: Any, subject: Subject, rule: Adam) -> Parameters:
    slots = {variable.name: variable for variable in optimizer.variables}
    gradient = empty(subject.network.layout, np.dtype(np.float64))
    for name, native in subject.native.items():
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
        moment = array_of(keras, slot).astype(np.float64)
        gradient[name][...] = (moment.T if name.endswith(".weight") else moment) / (1.0 - rule.beta_1)
    return gradient


def _log(network: Network, reported: Any) -> Log | None:
    if not isinstance(reported, Mapping) or "loss" not in reported:
        return None
    if len(network.heads) == 1:
        return Log(float(reported["loss"]), dict.fromkeys(network.heads, float(reported["loss"])), roundings=2)
    # Keras' log is a running mean: one product with the batch size, one division by it.
    return Log(float(reported["loss"]), {name: float(reported[f"{name}_loss"]) for name in network.heads}, roundings=2)
