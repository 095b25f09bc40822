"""Optimizer steps as small float64 rules with explicit state, each carrying a bound on what rounding may change.

A rule is a description, not a training loop: ``start`` gives the state before the first step, ``step`` returns the new
parameters and the new state, and nothing is modified.

With ``unit`` (the unit roundoff of the arithmetic that the real optimizer used, 2⁻²⁴ for float32) and
``gradient_error`` (elementwise uncertainty of the gradient), ``state.error`` bounds, to first order and elementwise,
how far that optimizer's parameters may lie from these float64 ones. It is a running error analysis (Higham, *Accuracy
and Stability of Numerical Algorithms*, 2nd ed. 2002, section 3.3): every float32 operation adds ``unit`` times its
result, and what came before is passed on through the rule's derivative. Operations are counted so that the Keras and
the PyTorch order of evaluation are both covered. The cost of float32 hyperparameters is included; it is not small:
Keras forms 1 - β₂ᵗ from a float32 β₂, which moves the very first step by up to 3e-5 of its length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from . import _rules
from .errors import sentence

Vector = npt.NDArray[np.float64]
Style = Literal["keras", "torch"]

# The root of the smallest normal float32: what sqrt(v) may lose when v is flushed to zero.
_FLUSHED_ROOT = 2.0**-63


@dataclass(frozen=True, eq=False)
class State:
    """What an optimizer remembers between steps: the step count, its slots, and the error bounds of slots and
    parameters."""

    steps: int
    slots: dict[str, Vector]
    slot_errors: dict[str, Vector]
    error: Vector


def _stepped(
    rule: Literal["adam", "rmsprop", "sgd"], names: tuple[str, ...], parameters: npt.ArrayLike,
    gradient: npt.ArrayLike, state: State, unit: float, gradient_error: npt.ArrayLike, *options: float,
) -> tuple[Vector, State]:  # fmt: skip
    """The new parameters and the new state by a rule of :mod:`pyengine._rules`, which has its slots in this order."""
    p = _vector(parameters)
    given = [p]
    for argument, values in (("gradient", gradient), ("gradient_error", gradient_error)):
        one = _vector(values)
        _require_shape(argument, one.shape or p.shape, p.shape)
        given.append(np.broadcast_to(one, p.shape))
    _require_shape("state", state.error.shape, p.shape)
    held = [*(state.slots[name] for name in names), *(state.slot_errors[name] for name in names), state.error]
    found = [np.empty(p.size) for _ in range(2 + 2 * len(names))]
    flat = [np.ascontiguousarray(one).reshape(-1) for one in (*given, *held)]
    # Exact arithmetic flushes nothing to zero.
    _rules.step(rule, flat, found, unit, _FLUSHED_ROOT if unit > 0.0 else 0.0, *options)
    after, *slots, error = (one.reshape(p.shape) for one in found)
    values, errors = slots[: len(names)], slots[len(names) :]
    slots_after, errors_after = dict(zip(names, values, strict=True)), dict(zip(names, errors, strict=True))
    return after, State(state.steps + 1, slots_after, errors_after, error)


class Rule(Protocol):
    """What the checks need from an optimizer."""

    @property
    def name(self) -> str: ...
    def start(self, parameters: npt.ArrayLike) -> State: ...
    def step(
        self,
        parameters: npt.ArrayLike,
        gradient: npt.ArrayLike,
        state: State,
        *,
        unit: float = 0.0,
        gradient_error: npt.ArrayLike = 0.0,
    ) -> tuple[Vector, State]: ...


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba, ICLR 2015).

    ``style="torch"`` is their Algorithm 1: p ← p - lr·m̂/(√v̂ + ε) with m̂ = m/(1-β₁ᵗ), v̂ = v/(1-β₂ᵗ), as documented
    for ``torch.optim.Adam``. ``style="keras"`` is the reordered form at the end of their section 2: p ← p -
    lr·√(1-β₂ᵗ)/(1-β₁ᵗ)·m/(√v + ε), as documented for ``keras.optimizers.Adam`` ("epsilon hat"). The same ε is therefore
    1/√(1-β₂ᵗ) times as strong in Keras, some 32 times in the first step. ``epsilon`` defaults to Keras' 1e-7; PyTorch's
    is 1e-8.

    Raises ``ValueError`` for hyperparameters out of range.

    >>> rule = Adam(learning_rate=0.1, epsilon=0.0)
    >>> parameters, state = rule.step([1.0, 1.0], [0.5, -2.0], rule.start([1.0, 1.0]))
    >>> [round(float(p), 12) for p in parameters]
    [0.9, 1.1]
    """

    learning_rate: float = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    style: Style = "keras"
    name: str = field(default="Adam", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _require("learning_rate", self.learning_rate, 0.0, math.inf)
        _require("beta_1", self.beta_1, 0.0, 1.0)
        _require("beta_2", self.beta_2, 0.0, 1.0)
        _require("epsilon", self.epsilon, 0.0, math.inf)
        _require_style(self.style)

    def start(self, parameters: npt.ArrayLike) -> State:
        """The state before the first step: both moments zero."""
        return _start(parameters, ("momentum", "velocity"))

    def step(
        self,
        parameters: npt.ArrayLike,
        gradient: npt.ArrayLike,
        state: State,
        *,
        unit: float = 0.0,
        gradient_error: npt.ArrayLike = 0.0,
    ) -> tuple[Vector, State]:
        """One step: the new parameters and the new state, float64, of the shape of ``parameters``."""
        t = state.steps + 1
        left_1, left_2 = 1.0 - self.beta_1**t, 1.0 - self.beta_2**t
        epsilon = self.epsilon if self.style == "keras" else self.epsilon * math.sqrt(left_2)
        scale = self.learning_rate * math.sqrt(left_2) / left_1
        # β rounded to the working precision, the power, the difference: the cancellation in 1 - βᵗ magnifies all three.
        dleft_1 = unit * ((t + 2) * self.beta_1**t / left_1 + 1.0)
        dleft_2 = unit * ((t + 2) * self.beta_2**t / left_2 + 1.0)
        dscale = dleft_1 + dleft_2 / 2.0 + 4.0 * unit
        return _stepped(
            "adam", ("momentum", "velocity"), parameters, gradient, state, unit, gradient_error,
            self.beta_1, self.beta_2, epsilon, scale, dscale,
        )  # fmt: skip


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019): p ← p - lr·weight_decay·p, then Adam's step.

    Both Keras and PyTorch scale the decay by the learning rate and apply it first. ``weight_decay`` defaults to Keras'
    0.004; PyTorch's is 0.01. The rest is as in :class:`Adam`.

    >>> rule = AdamW(learning_rate=0.1, epsilon=0.0, weight_decay=0.5)
    >>> [round(float(p), 12) for p in rule.step([1.0, 1.0], [0.5, -2.0], rule.start([1.0, 1.0]))[0]]
    [0.85, 1.05]
    """

    learning_rate: float = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    weight_decay: float = 0.004
    style: Style = "keras"
    name: str = field(default="AdamW", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _require("weight_decay", self.weight_decay, 0.0, math.inf)
        self._adam()

    def _adam(self) -> Adam:
        return Adam(self.learning_rate, self.beta_1, self.beta_2, self.epsilon, self.style)

    def start(self, parameters: npt.ArrayLike) -> State:
        """The state before the first step: both moments zero."""
        return self._adam().start(parameters)

    def step(
        self,
        parameters: npt.ArrayLike,
        gradient: npt.ArrayLike,
        state: State,
        *,
        unit: float = 0.0,
        gradient_error: npt.ArrayLike = 0.0,
    ) -> tuple[Vector, State]:
        """One step: the new parameters and the new state, float64, of the shape of ``parameters``."""
        p = _vector(parameters)
        _require_shape("state", state.error.shape, p.shape)
        share = self.learning_rate * self.weight_decay
        decayed = p - share * p
        # The two constants, their product, the product with p; 1 - share instead rounds once more.
        error = (1.0 - share) * state.error + unit * (5.0 * share * np.abs(p) + 2.0 * np.abs(decayed))
        before = State(state.steps, state.slots, state.slot_errors, error)
        return self._adam().step(decayed, gradient, before, unit=unit, gradient_error=gradient_error)


@dataclass(frozen=True)
class RMSprop:
    """RMSprop (Tieleman & Hinton 2012): v ← ρ·v + (1 - ρ)·g², p ← p - lr·g/(√v + ε).

    ``style="keras"`` takes the root of v + ε instead, as ``keras.optimizers.RMSprop`` does; ``style="torch"`` adds ε to
    the root, as ``torch.optim.RMSprop`` does, whose ρ is called alpha and is 0.99. Neither is centred nor has momentum.

    >>> rule = RMSprop(learning_rate=0.1, rho=0.75, epsilon=0.0)
    >>> [float(p) for p in rule.step([1.0, 1.0], [0.5, -2.0], rule.start([1.0, 1.0]))[0]]
    [0.8, 1.2]
    """

    learning_rate: float = 1e-3
    rho: float = 0.9
    epsilon: float = 1e-7
    style: Style = "keras"
    name: str = field(default="RMSprop", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _require("learning_rate", self.learning_rate, 0.0, math.inf)
        _require("rho", self.rho, 0.0, 1.0)
        _require("epsilon", self.epsilon, 0.0, math.inf)
        _require_style(self.style)

    def start(self, parameters: npt.ArrayLike) -> State:
        """The state before the first step: the mean square zero."""
        return _start(parameters, ("velocity",))

    def step(
        self,
        parameters: npt.ArrayLike,
        gradient: npt.ArrayLike,
        state: State,
        *,
        unit: float = 0.0,
        gradient_error: npt.ArrayLike = 0.0,
    ) -> tuple[Vector, State]:
        """One step: the new parameters and the new state, float64, of the shape of ``parameters``."""
        return _stepped(
            "rmsprop", ("velocity",), parameters, gradient, state, unit, gradient_error,
            self.learning_rate, self.rho, self.epsilon, self.style == "keras",
        )  # fmt: skip


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with momentum if asked: b ← momentum·b + g, p ← p - lr·b.

    With ``nesterov`` the step is lr·(g + momentum·b) (Sutskever et al., ICML 2013, in the form of ``torch.optim.SGD``).
    ``keras.optimizers.SGD`` keeps -lr·b instead of b, which is the same step as long as the learning rate stays.

    Raises ``ValueError`` for hyperparameters out of range.

    >>> rule = SGD(learning_rate=0.5)
    >>> rule.step([1.0], [0.5], rule.start([1.0]))[0]
    array([0.75])
    """

    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    name: str = field(default="SGD", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _require("learning_rate", self.learning_rate, 0.0, math.inf)
        _require("momentum", self.momentum, 0.0, 1.0)

    def start(self, parameters: npt.ArrayLike) -> State:
        """The state before the first step: no momentum."""
        return _start(parameters, ("momentum",))

    def step(
        self,
        parameters: npt.ArrayLike,
        gradient: npt.ArrayLike,
        state: State,
        *,
        unit: float = 0.0,
        gradient_error: npt.ArrayLike = 0.0,
    ) -> tuple[Vector, State]:
        """One step: the new parameters and the new state, float64, of the shape of ``parameters``."""
        return _stepped(
            "sgd", ("momentum",), parameters, gradient, state, unit, gradient_error,
            self.learning_rate, self.momentum, self.nesterov,
        )  # fmt: skip


def _start(parameters: npt.ArrayLike, slots: tuple[str, ...]) -> State:
    shape = np.shape(parameters)
    return State(
        0, {name: np.zeros(shape) for name in slots}, {name: np.zeros(shape) for name in slots}, np.zeros(shape)
    )


def _vector(values: npt.ArrayLike) -> Vector:
    return np.asarray(values, dtype=np.float64)


def _require_shape(argument: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise ValueError(
            sentence(argument, got=f"has shape {shape}", expected=f"that of parameters, {expected}",
                     remedy="Give a number for each parameter.")
        )  # fmt: skip


def _require(argument: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value < high):
        span = f"[{low:g}, {high:g})" if math.isfinite(high) else f"of at least {low:g}"
        raise ValueError(
            sentence(argument, got=f"is {value}", expected=f"a number {span}", remedy="Check the optimizer's settings.")
        )


def _require_style(style: object) -> None:
    if style not in ("keras", "torch"):
        raise ValueError(
            sentence(
                "style", got=f"is {style!r}", expected='"keras" or "torch"', remedy="They place epsilon differently."
            )
        )
