"""Parameters and gradients: named arrays that are views of one flat vector."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import spare
from .arrays import as_numpy, put
from .errors import listing, sentence
from .spec import Layer

Array = npt.NDArray[Any]
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


class Layout:
    """Where each named array lies in a flat vector: the weight and the bias of every layer, in order."""

    __slots__ = ("names", "offsets", "shapes", "size")

    def __init__(self, layers: Sequence[Layer]) -> None:
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in layers:
            shapes[f"{layer.name}.weight"] = (layer.n_out, layer.n_in)
            if layer.bias:
                shapes[f"{layer.name}.bias"] = (layer.n_out,)
        self._place(shapes)

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> Layout:
        """The layout of arrays of any shapes, one after the other.

        >>> Layout.of({"kernel": (3, 3, 1, 4), "scale": (4,)}).offsets
        {'kernel': 0, 'scale': 36}
        """
        layout = cls(())
        layout._place(dict(shapes))
        return layout

    def _place(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.names = tuple(shapes)
        self.offsets: dict[str, int] = {}
        self.size = 0
        for name, shape in shapes.items():
            self.offsets[name] = self.size
            self.size += math.prod(shape)

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Layout) and self.shapes == other.shapes and self.names == other.names
        )

    __hash__ = None  # type: ignore[assignment]


class Parameters(Mapping[str, Array]):
    """A read-only mapping of names to arrays, each a view of the one vector ``flat`` (whose numbers may be changed).

    ``params["trunk.0.weight"]`` has shape (n_out, n_in), ``params["trunk.0.bias"]`` (n_out,), as in PyTorch.
    """

    __slots__ = ("_views", "flat", "layout")

    def __init__(self, layout: Layout, flat: Array) -> None:
        if flat.shape != (layout.size,):
            raise ValueError(
                sentence(
                    "flat",
                    got=f"has shape {flat.shape}",
                    expected=f"({layout.size},)",
                    remedy="Use the network's own layout.",
                )
            )
        self.layout = layout
        self.flat = flat
        self._views: dict[str, Array] = {}

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.flat.dtype

    def __getitem__(self, name: str) -> Array:
        view = self._views.get(name)
        if view is None:
            offset = self.layout.offsets[name]
            shape = self.layout.shapes[name]
            view = self._views[name] = self.flat[offset : offset + math.prod(shape)].reshape(shape)
        return view

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the views: a copy of them would no longer be views of the copied vector.
        return (Parameters, (self.layout, self.flat))

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.names)

    def __len__(self) -> int:
        return len(self.layout.names)

    def __contains__(self, name: object) -> bool:
        return name in self.layout.offsets

    def __repr__(self) -> str:
        lines = [f"  {name}: {'x'.join(map(str, shape))}" for name, shape in self.layout.shapes.items()]
        return "\n".join([f"Parameters({self.flat.size} numbers, {self.dtype})", *lines])


def empty(layout: Layout, dtype: np.dtype[Any]) -> Parameters:
    """Parameters whose numbers are not set yet."""
    return Parameters(layout, spare.empty(layout.size, dtype))


def widened(given: Parameters) -> Parameters:
    """The same numbers in float64, in memory of their own."""
    found = empty(given.layout, np.dtype(np.float64))
    np.copyto(found.flat, given.flat)
    return found


def wide_of(layout: Layout, given: Mapping[str, Array]) -> Parameters:
    """The layout's tensors out of ``given``, which may hold others too, in float64."""
    found = empty(layout, np.dtype(np.float64))
    for name in layout.names:
        put(found[name], given[name])
    return found


def gather(layout: Layout, mapping: Mapping[str, Any]) -> Parameters:
    """Copy a mapping of arrays into one flat vector, after checking names, shapes and dtypes.

    Raises ``ValueError`` for missing or unexpected names and wrong shapes, ``TypeError`` for dtypes other than one
    common float32 or float64.
    """
    if not isinstance(mapping, Mapping):
        raise TypeError(
            sentence(
                "parameters",
                got=f"is of type {type(mapping).__name__}",
                expected="a mapping of names to arrays",
                remedy="Pass a dict, or a PyTorch state_dict.",
            )
        )
    missing = [name for name in layout.names if name not in mapping]
    unexpected = [name for name in mapping if name not in layout.offsets]
    if missing or unexpected:
        got = f"lacks {listing(missing)}" if missing else f"has the unexpected {listing(unexpected)}"
        if missing and unexpected:
            got += f" and has the unexpected {listing(unexpected)}"
        raise ValueError(
            sentence(
                "parameters", got=got, expected=f"exactly {listing(layout.names)}", remedy="Rename, add or remove them."
            )
        )
    arrays = {name: as_numpy(f"parameters[{name!r}]", mapping[name]) for name in layout.names}
    dtype = next(iter(arrays.values())).dtype
    for name, array in arrays.items():
        if array.dtype not in DTYPES or array.dtype != dtype:
            raise TypeError(
                sentence(
                    f"parameters[{name!r}]",
                    got=f"has dtype {array.dtype}",
                    expected="one dtype for all parameters, float32 or float64",
                    remedy='Convert with .astype("float32").',
                )
            )
        if array.shape != layout.shapes[name]:
            remedy = (
                "Transpose it?" if array.shape == layout.shapes[name][::-1] else "Does it belong to another network?"
            )
            raise ValueError(
                sentence(
                    f"parameters[{name!r}]",
                    got=f"has shape {array.shape}",
                    expected=f"{layout.shapes[name]}",
                    remedy=remedy,
                )
            )
    gathered = empty(layout, dtype)
    for name, array in arrays.items():
        put(gathered[name], array)
    return gathered
