"""The canonical record of a model that only its framework can compute: losses and gradients, asked for when needed.

Adapters write it, the checks that need no engine read it. Parameters have the framework's own names and shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .parameters import Array

Gradient = Mapping[str, Array | None]
"""Parameter name -> gradient; None where the loss is not connected to the parameter at all."""


@dataclass(frozen=True, eq=False)
class Twin:
    """The same model in float64: its parameters, the losses at any parameters, and the losses' gradients at its own.

    ``evaluate`` is deterministic: what is drawn at random is drawn alike in every call.
    """

    parameters: dict[str, npt.NDArray[np.float64]]
    evaluate: Callable[[Mapping[str, npt.NDArray[np.float64]]], dict[str, float]]
    gradients: dict[str, Gradient]


@dataclass(frozen=True, eq=False)
class Observation:
    """One model and one batch.

    ``refusal`` says what the engine does not know. ``losses`` are the unweighted terms of the total, ``weights`` their
    weights; a regularizer is a term of weight 1. ``total`` is the framework's own. ``per_loss(name, c)`` is the
    gradient of c·loss and ``summed(c)`` that of c·total, each by a backward pass of its own, from the same forward
    pass or one with the same random draws. ``dtype`` is the narrowest in which gradients are computed. ``missing`` says
    of checks that cannot run why they cannot; ``notes`` are what one should know beside every verdict.
    """

    framework: str
    refusal: str
    batch: int
    dtype: str
    weights: dict[str, float]
    losses: dict[str, float]
    total: float
    shapes: dict[str, tuple[int, ...]]
    per_loss: Callable[[str, float], Gradient]
    summed: Callable[[float], Gradient]
    twin: Twin | None
    missing: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
