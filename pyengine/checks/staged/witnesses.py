"""The record that the staged check takes: the numbers that an implementation itself produced on its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ...arrays import as_wide
from ...errors import listing, sentence
from ...parameters import Array, Layout

if TYPE_CHECKING:
    from ...engine import Network


@dataclass(frozen=True, eq=False)
class Backward:
    """One backward pass, of one loss or of the weighted sum.

    ``dh`` and ``dz`` map layers (``"trunk.0"``, ``"heads.ink.1"``) to ∂L/∂h and ∂L/∂z, both (batch, n_out);
    ``gradient`` maps parameters (``"trunk.0.weight"``) to their gradients, in the parameters' shapes.
    """

    dh: Mapping[str, Any] = field(default_factory=dict)
    dz: Mapping[str, Any] = field(default_factory=dict)
    gradient: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Witnesses:
    """What an implementation computed for one batch, as it computed it: nothing is recomputed, nothing converted.

    ``z`` and ``h`` map layers to what they hold before and after their activation, (batch, n_out); ``per_loss`` maps
    heads to the backward passes of their *unweighted* losses, ``summed`` is that of Σ weight·loss; ``outputs`` may
    repeat the last h of a head under the head's name. All arrays have the dtype of the parameters; where these are
    float32, all may be bfloat16 or float16, as autocast makes them, and gradients either.

    Pieces may be missing. What a linear layer or a ReLU copies is filled in; any other gap leaves the stages on both
    sides of it unjudged, and the report lists them. A ``summed`` that holds nothing but gradients is judged as the
    weighted sum of the per-loss gradients.
    """

    z: Mapping[str, Any] = field(default_factory=dict)
    h: Mapping[str, Any] = field(default_factory=dict)
    per_loss: Mapping[str, Backward] = field(default_factory=dict)
    summed: Backward | None = None
    outputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passes(self) -> dict[str | None, Backward]:
        """The backward passes that there are, by head; None stands for the weighted sum."""
        found: dict[str | None, Backward] = {}
        found.update(self.per_loss.items())
        if self.summed is not None:
            found[None] = self.summed
        return found


def kept_in(given: Witnesses, parameters: str) -> str:
    """The name of the dtype in which a record keeps what lies between the layers; that of the parameters if nothing."""
    places = [given.h, given.z, *(part for one in given.passes.values() for part in (one.dh, one.dz))]
    for place in places:
        for value in place.values():
            return as_wide("witnesses", value)[1]
    return parameters


def checked_witnesses(net: Network, given: Witnesses, batch: int, kept: str, parameters: str) -> Witnesses:
    """The same record with NumPy arrays: names, shapes and dtypes are right. Numbers are not looked at.

    ``kept`` is the dtype of what lies between the layers, ``parameters`` that of the parameters, which gradients may
    have too. Narrow formats become float32.

    Raises ``TypeError`` and ``ValueError`` in the form of every refusal.
    """
    if not isinstance(given, Witnesses):
        raise TypeError(
            sentence(
                "witnesses",
                got=f"is of type {type(given).__name__}",
                expected="pyengine.Witnesses",
                remedy="Put what your framework computed into that record.",
            )
        )
    if not given.passes:
        raise ValueError(
            sentence(
                "witnesses",
                got="has neither `per_loss` nor `summed`",
                expected="at least one backward pass",
                remedy="Without a gradient there is nothing to verify.",
            )
        )
    unknown = [name for name in given.per_loss if name not in net.heads]
    if unknown:
        raise ValueError(
            sentence(
                "witnesses.per_loss",
                got=f"has the unknown key {unknown[0]!r}",
                expected=f"keys among {listing(net.heads)}",
                remedy="Is it the name of a head?",
            )
        )
    shapes = layer_shapes(net, batch)
    ends = {name: shapes[layers[-1].name] for name, layers in net.head_layers.items()}

    def arrays(
        argument: str, named: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], *dtypes: str
    ) -> dict[str, Array]:
        return _arrays(f"witnesses.{argument}", named, expected, (kept, *dtypes))

    def backward(argument: str, one: Backward, layout: Layout) -> Backward:
        layers = {name: shape for name, shape in shapes.items() if f"{name}.weight" in layout.shapes}
        return Backward(
            arrays(f"{argument}.dh", one.dh, layers),
            arrays(f"{argument}.dz", one.dz, layers),
            arrays(f"{argument}.gradient", one.gradient, layout.shapes, parameters),
        )

    return replace(
        given,
        z=arrays("z", given.z, shapes),
        h=arrays("h", given.h, shapes),
        outputs=arrays("outputs", given.outputs, ends),
        per_loss={
            name: backward(f"per_loss[{name!r}]", given.per_loss[name], layout)
            for name, layout in net.loss_layouts.items()
            if name in given.per_loss
        },
        summed=None if given.summed is None else backward("summed", given.summed, net.layout),
    )


def layer_shapes(net: Network, batch: int) -> dict[str, tuple[int, int]]:
    """The shape (batch, n_out) of every layer, trunk first."""
    layers = [*net.trunk_layers, *(layer for layers in net.head_layers.values() for layer in layers)]
    return {layer.name: (batch, layer.n_out) for layer in layers}


def _arrays(
    argument: str, named: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], dtypes: tuple[str, ...]
) -> dict[str, Array]:
    found = {}
    for name, value in named.items():
        where = f"{argument}[{name!r}]"
        if name not in expected:
            raise ValueError(
                sentence(where, got="is unknown", expected=f"names among {listing(expected)}", remedy="Rename it.")
            )
        array, dtype = as_wide(where, value)
        if dtype not in dtypes:
            raise TypeError(
                sentence(
                    where,
                    got=f"has dtype {dtype}",
                    expected=f"{dtypes[-1]}, the dtype of the parameters"
                    if dtypes[0] == dtypes[-1]
                    else listing(dict.fromkeys(dtypes)),
                    remedy="Pass the number that was computed, without converting it.",
                )
            )
        if array.shape != expected[name]:
            remedy = "Transpose it?" if array.shape == expected[name][::-1] else "Is it of this layer and this batch?"
            raise ValueError(
                sentence(where, got=f"has shape {array.shape}", expected=f"{expected[name]}", remedy=remedy)
            )
        found[name] = array
    return found
