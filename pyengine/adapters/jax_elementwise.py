"""Which activation a chain of elementwise primitives is: by its values, so that it may be written in any way.

The chain is evaluated in float64 on a fixed set of points; an activation is recognised if all values lie within the
rounding bound that the checks allow it in the model's dtype. What the model then computes is judged by the checks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..activations import ACTIVATIONS, ELU, Activation, LeakyReLU
from ..rounding import Precision, activation_bound, behaviour
from ..rounding.running import F64

POINTS: F64 = np.concatenate([np.linspace(-8.0, 8.0, 257), [-40.0, -19.3, -1e-3, 1e-3, 19.3, 40.0]])
"""Zero is among them, and both tails."""

_erf, _erfc = (np.vectorize(f, otypes=[float]) for f in (math.erf, math.erfc))


def _logistic(z: Any) -> Any:
    return np.where(z >= 0, 1.0 / (1.0 + np.exp(-np.abs(z))), np.exp(-np.abs(z)) / (1.0 + np.exp(-np.abs(z))))


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name) for name in ("abs", "cbrt", "ceil", "exp", "exp2", "expm1", "floor", "log", "log1p",
       "sign", "sqrt", "square", "tan", "tanh", "sin", "cos", "sinh", "cosh", "arctan2")},
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative, "pow": np.power,
    "max": np.maximum, "min": np.minimum, "ge": np.greater_equal, "gt": np.greater, "le": np.less_equal,
    "lt": np.less, "eq": np.equal, "ne": np.not_equal, "and": np.logical_and, "or": np.logical_or,
    "not": np.logical_not, "is_finite": np.isfinite, "logistic": _logistic, "erf": _erf, "erfc": _erfc,
    "rsqrt": lambda z: 1.0 / np.sqrt(z), "clamp": lambda low, z, high: np.clip(z, low, high),
    "atan": np.arctan, "asinh": np.arcsinh, "add_any": np.add,
    "select_n": lambda which, *cases: np.choose(np.asarray(which).astype(int), cases),
}  # fmt: skip


def applied(name: str, params: Any, arguments: list[Any]) -> Any:
    """The primitive on float64 arrays or numbers."""
    with np.errstate(all="ignore"):
        if name == "integer_pow":
            return arguments[0] ** float(params["y"])
        return ELEMENTWISE[name](*arguments)


def is_elementwise(name: str) -> bool:
    return name == "integer_pow" or name in ELEMENTWISE


def plain_number(given: float, dtype: Any) -> float:
    """The number that a user wrote, from its rounding to the dtype: the shortest that rounds to it.

    >>> plain_number(0.009999999776482582, "float32")
    0.01
    """
    return float(str(np.dtype(dtype).type(given)))


def recognised(values: Any, dtype: Any, p: Precision) -> Activation | None:
    """The activation with these values at :data:`POINTS`, or None."""
    if np.shape(values) != POINTS.shape or np.asarray(values).dtype == bool:
        return None
    size = np.abs(POINTS)
    for candidate in _candidates(values, dtype):
        around = behaviour(candidate, POINTS, np.zeros_like(POINTS), "any")
        if bool((np.abs(values - around.value) <= activation_bound(candidate, around, size, p)).all()):
            return candidate
    return None


def _candidates(values: F64, dtype: Any) -> Iterator[Activation]:
    for name, kind in ACTIVATIONS.items():
        if name not in ("leaky_relu", "elu"):
            yield kind()
    slope = -float(values[np.flatnonzero(POINTS == -1.0)[0]])
    tail = -float(values[POINTS.argmin()])
    for make, option in ((LeakyReLU, slope), (ELU, tail)):
        if math.isfinite(option):
            yield make(plain_number(option, dtype))
