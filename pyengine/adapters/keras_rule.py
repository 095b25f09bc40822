"""Keras: an optimizer as a float64 rule, with its clipping and with the variables in which it remembers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..optimizers import SGD, Adam, AdamW, RMSprop, Rule
from ..parameters import Array
from ..witnesses import Clip
from .keras_backend import array_of

CLIPS = {"clipnorm": "norm", "global_clipnorm": "global_norm", "clipvalue": "value"}
ODD = ("amsgrad", "use_ema", "gradient_accumulation_steps", "centered")


@dataclass(frozen=True, eq=False)
class Ruled:
    """``rule`` is None where the options go beyond the known ones. ``slots`` maps what the rule remembers to Keras'
    variables, one per trained variable, and the factor by which they differ."""

    rule: Rule | None
    clip: Clip | None
    slots: dict[str, tuple[Any, float]] = field(default_factory=dict)


def innermost(optimizer: Any) -> Any:
    """The optimizer that steps, behind one that scales losses."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def loss_scale(keras: Any, optimizer: Any) -> float:
    """What a training step multiplies the total by before it differentiates it."""
    scale = 1.0
    while optimizer is not None:
        if hasattr(optimizer, "initial_scale"):
            own = array_of(keras, optimizer.dynamic_scale) if optimizer.built else optimizer.initial_scale
        else:
            own = getattr(optimizer, "loss_scale_factor", None) or 1.0
        scale *= float(own)
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return scale


def rule_of(keras: Any, optimizer: Any, value: Callable[[Any], Array]) -> Ruled:
    """Read the optimizer; ``value`` gives the number in one of its variables."""
    config = optimizer.get_config()
    clip = next((Clip(kind, float(config[key]), inside=True) for key, kind in CLIPS.items() if config.get(key)), None)  # type: ignore[arg-type]
    odd = [key for key in ODD if config.get(key)]
    kind, optimizers = type(optimizer).__name__, keras.optimizers
    known = isinstance(optimizer, (optimizers.Adam, optimizers.SGD, optimizers.RMSprop))
    unknown = Ruled(None, clip)
    if odd or not known or not isinstance(config["learning_rate"], float):
        return unknown
    # Keras keeps it in float32; the shortest decimal that rounds to the same float32 is what the user wrote.
    rate = float(str(np.float32(value(optimizer.learning_rate))))
    decay = config.get("weight_decay")
    rule: Rule
    if kind == "AdamW" or (kind == "Adam" and decay):
        rule = AdamW(rate, config["beta_1"], config["beta_2"], config["epsilon"], float(decay), style="keras")
    elif decay or kind not in ("Adam", "SGD", "RMSprop"):
        return unknown
    elif kind == "Adam":
        rule = Adam(rate, config["beta_1"], config["beta_2"], config["epsilon"], style="keras")
    elif kind == "SGD":
        rule = SGD(rate, float(config["momentum"]), bool(config["nesterov"]))
        if not config["momentum"]:
            return Ruled(rule, clip)
        # Keras keeps -rate times what the rule keeps.
        return Ruled(rule, clip, {"momentum": (getattr(optimizer, "momentums", None), -1.0 / rate)})
    elif config["momentum"]:
        return unknown
    else:
        rule = RMSprop(rate, config["rho"], config["epsilon"], style="keras")
        return Ruled(rule, clip, {"velocity": (optimizer._velocities, 1.0)})
    return Ruled(rule, clip, {"momentum": (optimizer._momentums, 1.0), "velocity": (optimizer._velocities, 1.0)})
