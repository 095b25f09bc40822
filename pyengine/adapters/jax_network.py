"""The dense layers in a JAX program: every value gets a meaning, in the order of the program.

A value is made of x alone (input), of nothing (number), is a parameter seen from some side, the rows of a layer before
or after its activation, or something that the engine does not know; the first operation that leads there is remembered
and named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..activations import Activation
from ..errors import Unsupported, sentence
from ..rounding import Precision
from .jax_elementwise import POINTS, applied, is_elementwise, recognised
from .jax_program import Operation, Program, Value

SAME = {"copy", "copy_p", "stop_gradient", "sharding_constraint", "name", "device_put", "pvary", "optimization_barrier"}


@dataclass(eq=False)
class DenseCall:
    """One dense layer of the program. ``source`` is the rows that enter it, or None for the network's input."""

    kernel: int
    by_in: bool
    n_in: int
    n_out: int
    source: Rows | None
    entry: Value
    z: Value
    z_batch_axis: int
    bias: int | None = None
    outs: dict[Value, int] = field(default_factory=dict)
    activation: Activation | None = None


@dataclass(frozen=True, eq=False)
class Input:
    """Made of x, and of no parameter."""


@dataclass(frozen=True, eq=False)
class Number:
    """One number, whatever shape it is spread to."""

    number: Any


@dataclass(frozen=True, eq=False)
class Fixed:
    """An array that stands in the program."""


@dataclass(frozen=True, eq=False)
class Leaf:
    """A parameter; ``axes`` tells for each axis which one of the parameter it is, None where it is spread along it."""

    index: int
    axes: tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Rows:
    """f(z) of a layer: ``values`` is f at :data:`POINTS`. ``origin`` is the first value that holds these numbers.

    ``feature_axis`` is None where the only feature's axis was dropped. ``product`` marks z without its bias;
    ``last`` describes the operation that made it.
    """

    layer: DenseCall
    values: Any
    origin: Value
    origin_batch_axis: int
    batch_axis: int = 0
    feature_axis: int | None = 1
    product: bool = False
    last: str = ""


@dataclass(frozen=True, eq=False)
class Unknown:
    """What the engine does not know, in the words of a message."""

    why: str


Meaning = Input | Number | Fixed | Leaf | Rows | Unknown


class Reader:
    """Reads a program whose first inputs are the parameters' leaves and whose last is x."""

    def __init__(self, program: Program, dtype: Any, p: Precision) -> None:
        self.dtype, self.p = np.dtype(dtype), p
        self.meaning: dict[Value, Meaning] = {}
        for index, value in enumerate(program.inputs[:-1]):
            self.meaning[value] = Leaf(index, tuple(range(len(value.shape))))
        self.meaning[program.inputs[-1]] = Input()
        self._read(program.operations)

    def of(self, value: Value) -> Meaning:
        """What a value means."""
        if value in self.meaning:
            return self.meaning[value]
        if value.known is None:
            return Unknown("something that is not read")
        content = np.asarray(value.known)
        if content.dtype.kind in "fiub" and content.size and (content == content.flat[0]).all():
            return Number(content.flat[0].item())
        return Fixed()

    def output(self, name: str, value: Value) -> Rows:
        """The rows of an output, its activation recognised. Raises ``ValueError``."""
        found = self.of(value)
        if isinstance(found, Rows):
            self._close(found)
            if found.layer.activation is not None and found.batch_axis == 0:
                return found
            found = Unknown(_not_known(found))
        why = found.why if isinstance(found, Unknown) else "an output that no dense layer computes"
        raise Unsupported(
            sentence("model", got=f"has {why}, on the way to {name!r}", expected="dense layers with known activations",
                     remedy="The engine knows no other operation.")
        )  # fmt: skip

    def _read(self, operations: list[Operation]) -> None:
        for operation in operations:
            if operation.results:
                self._read(operation.inner)
                for out, result in zip(operation.outs, operation.results, strict=True):
                    found = self.of(result)
                    if isinstance(found, Rows) and not found.origin.exposed:
                        # Outside, the function's result is this value.
                        if found.layer.z is found.origin:
                            found.layer.z, found.layer.z_batch_axis = out, found.batch_axis
                        found = replace(found, origin=out, origin_batch_axis=found.batch_axis)
                    self.meaning[out] = found
                continue
            self.meaning.update((out, self._meaning(operation, out)) for out in operation.outs)

    def _meaning(self, operation: Operation, out: Value) -> Meaning:
        given = [self.of(value) for value in operation.ins]
        for meaning in given:
            if isinstance(meaning, Unknown):
                return meaning
        if operation.name in SAME:
            return given[operation.outs.index(out)]
        if all(isinstance(meaning, Number) for meaning in given) and is_elementwise(operation.name):
            numbers = [meaning.number for meaning in given if isinstance(meaning, Number)]
            return Number(np.asarray(applied(operation.name, operation.params, numbers)).item())
        if all(isinstance(meaning, Input | Number | Fixed) for meaning in given):
            if operation.name in ("broadcast_in_dim", "reshape", "convert_element_type", "squeeze") and isinstance(
                given[0], Number
            ):
                return given[0]
            return Input() if any(isinstance(meaning, Input) for meaning in given) else Fixed()
        found: Meaning | None
        if operation.name == "dot_general":
            found = self._dense(operation, given, out)
        elif operation.name in ("transpose", "reshape", "squeeze", "broadcast_in_dim", "convert_element_type", "slice"):
            found = self._reshaped(operation, given[0], out)
        elif is_elementwise(operation.name):
            found = self._biased(operation, given, out) or self._elementwise(operation, given, out)
        else:
            found = None
        return found if found is not None else Unknown(f"{operation.described}")

    def _dense(self, operation: Operation, given: list[Meaning], out: Value) -> Meaning | None:
        (left, right), batched = operation.params["dimension_numbers"]
        sides = list(zip(given, operation.ins, (left, right), strict=True))
        if batched[0] or len(left) != 1 or out.dtype != self.dtype:
            return None
        data_first = isinstance(given[1], Leaf)
        (data, entry, (contracted,)), (leaf, _, (row,)) = sides if data_first else sides[::-1]
        if not isinstance(leaf, Leaf) or not isinstance(data, Input | Rows) or sorted(leaf.axes, key=str) != [0, 1]:
            return None
        if len(entry.shape) != 2 or (isinstance(data, Rows) and data.feature_axis != contracted):
            return None
        if isinstance(data, Rows):
            self._close(data)
            if data.layer.activation is None:
                return Unknown(_not_known(data))
        batch_axis = 0 if data_first else 1
        layer = DenseCall(
            leaf.index, leaf.axes[row] == 0, entry.shape[contracted], out.shape[1 - batch_axis],
            data if isinstance(data, Rows) else None, entry, out, batch_axis,
        )  # fmt: skip
        if layer.source is None and contracted != 1:
            return None
        return Rows(layer, POINTS, out, batch_axis, batch_axis, 1 - batch_axis, product=True)

    def _biased(self, operation: Operation, given: list[Meaning], out: Value) -> Meaning | None:
        """A product plus a vector of parameters along the features is the layer's z."""
        rows = next((meaning for meaning in given if isinstance(meaning, Rows)), None)
        leaf = next((meaning for meaning in given if isinstance(meaning, Leaf)), None)
        if operation.name != "add" or rows is None or leaf is None or not rows.product or rows.feature_axis is None:
            return None
        along = leaf.axes[rows.feature_axis] if len(leaf.axes) == 2 else None
        if len(leaf.axes) != 2 or along != 0 or leaf.axes[rows.batch_axis] is not None:
            return None
        rows.layer.bias, rows.layer.z, rows.layer.z_batch_axis = leaf.index, out, rows.batch_axis
        return replace(rows, origin=out, origin_batch_axis=rows.batch_axis, product=False)

    def _elementwise(self, operation: Operation, given: list[Meaning], out: Value) -> Meaning | None:
        rows = [meaning for meaning in given if isinstance(meaning, Rows)]
        if not rows or not all(isinstance(meaning, Rows | Number) for meaning in given):
            return None
        first = rows[0]
        if any(r.layer is not first.layer for r in rows):
            return Unknown(f"{operation.described}, which joins two layers")
        if any((r.batch_axis, r.feature_axis) != (first.batch_axis, first.feature_axis) for r in rows):
            return None
        arguments = [
            meaning.values if isinstance(meaning, Rows) else getattr(meaning, "number", None) for meaning in given
        ]
        values = np.broadcast_to(applied(operation.name, operation.params, arguments), POINTS.shape)
        return replace(first, values=values, origin=out, origin_batch_axis=first.batch_axis, product=False,
                       last=operation.described)  # fmt: skip

    def _reshaped(self, operation: Operation, given: Meaning, out: Value) -> Meaning | None:
        name, shape, before = operation.name, out.shape, operation.ins[0].shape
        if name == "convert_element_type":
            if isinstance(given, Rows) and np.asarray(given.values).dtype == bool and out.dtype == self.dtype:
                return replace(given, values=np.asarray(given.values).astype(float), origin=out,
                               origin_batch_axis=given.batch_axis)  # fmt: skip
            if operation.ins[0].dtype == out.dtype:
                return given
            return Unknown(f"{operation.described} from {operation.ins[0].dtype} to {out.dtype}")
        if name == "transpose":
            order = operation.params["permutation"]
            if isinstance(given, Leaf):
                return Leaf(given.index, tuple(given.axes[i] for i in order))
            if isinstance(given, Rows) and len(order) == 2 and given.feature_axis is not None:
                return replace(
                    given, batch_axis=order.index(given.batch_axis), feature_axis=order.index(given.feature_axis)
                )
            return None
        if shape == before:
            return given
        if isinstance(given, Leaf):
            return _spread(operation, given, before, shape)
        if isinstance(given, Rows) and given.layer.n_out == 1 and given.batch_axis == 0 and name != "slice":
            batch = before[0]
            if shape == (batch,):
                return replace(given, feature_axis=None)
            if shape == (batch, 1):
                return replace(given, feature_axis=1)
        return None

    def _close(self, rows: Rows) -> None:
        """The layer ends here: its activation, and the value that holds it."""
        layer = rows.layer
        found = recognised(rows.values, self.dtype, self.p)
        if layer.outs and layer.activation != found:
            # One z under two activations is no dense layer.
            layer.activation = None
            return
        layer.activation = found
        layer.outs[rows.origin] = rows.origin_batch_axis


def _spread(operation: Operation, leaf: Leaf, before: tuple[int, ...], shape: tuple[int, ...]) -> Meaning | None:
    """A parameter with further axes of size one, or repeated along further axes."""
    if operation.name == "broadcast_in_dim":
        axes: list[int | None] = [None] * len(shape)
        for axis, place in zip(leaf.axes, operation.params["broadcast_dimensions"], strict=True):
            axes[int(place)] = axis
        if any(axis is not None and shape[i] != before[leaf.axes.index(axis)] for i, axis in enumerate(axes)):
            return None
        return Leaf(leaf.index, tuple(axes))
    if operation.name == "slice" or [n for n in before if n != 1] != [n for n in shape if n != 1]:
        return None
    wide = [axis for axis, n in zip(leaf.axes, before, strict=True) if n != 1]
    if any(axis is None for axis in wide):
        return None
    if not wide and len([axis for axis in leaf.axes if axis is not None]) == 1 and shape:
        # One number: its axis is the last, where features are.
        return Leaf(leaf.index, (*(None,) * (len(shape) - 1), 0))
    left = iter(wide)
    return Leaf(leaf.index, tuple(next(left) if n != 1 else None for n in shape))


def _not_known(rows: Rows) -> str:
    if len(rows.layer.outs) > 1:
        return "one layer under two activations"
    return f"an activation that is none of the engine's (its last operation is {rows.last})"


def chain(rows: Rows) -> list[DenseCall]:
    """The layers from the input to these rows."""
    found = []
    at: Rows | None = rows
    while at is not None:
        found.append(at.layer)
        at = at.layer.source
    return found[::-1]


def by_layer(found: Mapping[str, list[DenseCall]], depth: int) -> dict[str, DenseCall]:
    """Canonical layer name -> the layer."""
    first = next(iter(found.values()))
    named = {f"trunk.{i}": layer for i, layer in enumerate(first[:depth])}
    for name, layers in found.items():
        named |= {f"heads.{name}.{i}": layer for i, layer in enumerate(layers[depth:])}
    return named
