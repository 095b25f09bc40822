"""Keras: a model's own optimizer over a few of the parameters, for optimizers that take every number alone.

It is another object of the optimizer's class with its configuration, made for one variable that holds these numbers,
and given what the optimizer remembers of them. It is kept as long as the optimizer, and made anew for other options.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..parameters import Array, Layout
from .keras_backend import array_of, view_of
from .keras_stepping import options_of, stepping

Vector = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class _Twin:
    options: Hashable
    size: int
    optimizer: Any
    variable: Any
    slots: tuple[str, ...]


_twins: weakref.WeakKeyDictionary[Any, _Twin] = weakref.WeakKeyDictionary()


class Places:
    """Where some elements of the flat parameters lie: per tensor its name, which of them are its own, their indices.

    ``starts`` has what the optimizer's twin begins with there, by the identity of its variables, once it was gathered.
    """

    def __init__(self, layout: Layout, some: Index) -> None:
        self.some = some
        self.starts: dict[int, Array] = {}
        self.by_tensor = []
        for name in layout.names:
            shape, start = layout.shapes[name], layout.offsets[name]
            here = np.flatnonzero((some >= start) & (some < start + int(np.prod(shape))))
            if here.size:
                self.by_tensor.append((name, here, np.unravel_index(some[here] - start, shape)))


class FewOwn:
    """The optimizer at the elements in these ``places``, from where the step began.

    ``before`` has the values of all variables by id, as tensors of the backend, ``variables`` the trained ones by
    canonical name.
    """

    def __init__(
        self, keras: Any, optimizer: Any, variables: Mapping[str, Any], before: Mapping[int, Any],
        places: Places, added: Vector | None, factor: float, dtype: str,
    ) -> None:  # fmt: skip
        self.keras, self.dtype, self.factor = keras, dtype, factor
        self.added = None if added is None else added[places.some]
        twin = _twin(keras, optimizer, places.some.size, dtype)

        def gathered(of: Callable[[Any], Any]) -> Array:
            found = np.empty(places.some.size, dtype)
            for name, here, at in places.by_tensor:
                given = view_of(keras, before[id(of(variables[name]))])
                found[here] = given.T[at] if name.endswith(".weight") else given[at]
            return found

        def slot(name: str) -> Callable[[Any], Any]:
            return lambda variable: getattr(optimizer, name)[optimizer._get_variable_index(variable)]

        values = places.starts
        if not values:
            values[id(twin.variable)] = gathered(lambda variable: variable)
            values |= {id(getattr(twin.optimizer, name)[0]): gathered(slot(name)) for name in twin.slots}
            for own, given in zip(_scalars(twin.optimizer), _scalars(optimizer), strict=True):
                values[id(own)] = before[id(given)]
        held = [twin.variable, *twin.optimizer.variables]
        self.run = stepping(keras, twin.optimizer, [twin.variable], [twin.variable])
        self.here: Sequence[Any] = [values[id(one)] for one in held]

    def step(self, gradient: Vector) -> Array:
        """Take one step with a gradient at these elements; the parameters there after it."""
        total = gradient if self.added is None else gradient + self.added
        self.here = self.run(self.here, [(total * self.factor).astype(self.dtype)])
        return array_of(self.keras, self.here[0])


def takes_each_alone(keras: Any, optimizer: Any) -> bool:
    """Whether what the optimizer does to a number depends on that number's own past and gradient alone.

    To be asked of one whose rule is known, whose options that go beyond the rule are off.
    """
    config = optimizer.get_config()
    norms = any(config.get(key) for key in ("clipnorm", "global_clipnorm"))
    excluded = getattr(optimizer, "_exclude_from_weight_decay", None)
    return not norms and not excluded and options_of(keras, optimizer, optimizer.variables) is not None


def _twin(keras: Any, optimizer: Any, size: int, dtype: str) -> _Twin:
    options = options_of(keras, optimizer, optimizer.variables)
    found = _twins.get(optimizer)
    if found is None or (found.options, found.size) != (options, size):
        own = type(optimizer).from_config(optimizer.get_config())
        variable = keras.Variable(np.zeros(size, dtype), dtype=dtype)
        own.build([variable])
        found = _twins[optimizer] = _Twin(options, size, own, variable, _slots(own))
    return found


def _slots(optimizer: Any) -> tuple[str, ...]:
    """The lists in which an optimizer of one variable keeps what it remembers of it."""
    known = {id(one) for one in optimizer.variables}
    return tuple(
        name
        for name, held in vars(optimizer).items()
        if isinstance(held, list) and len(held) == 1 and id(held[0]) in known and name != "_variables"
    )


def _scalars(optimizer: Any) -> list[Any]:
    """What it remembers beside, as its count of steps and its rate."""
    return [one for one in optimizer.variables if tuple(one.shape) == ()]
