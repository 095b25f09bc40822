"""Witnesses with the gaps filled that copying fills: a linear layer's h is its z, and ReLU chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...activations import Linear, ReLU
from ...parameters import Array
from .witnesses import Backward, Witnesses

if TYPE_CHECKING:
    from ...engine import Network
    from ...spec import Layer


class Filled:
    """``z`` and ``h`` by layer, and what of the backward passes is there or follows by copying."""

    def __init__(self, net: Network, witnesses: Witnesses) -> None:
        self.z: dict[str, Array] = dict(witnesses.z)
        self.h: dict[str, Array] = dict(witnesses.h)
        for name, layers in net.head_layers.items():
            if (output := witnesses.outputs.get(name)) is not None:
                self.h.setdefault(layers[-1].name, output)
        for layers in (net.trunk_layers, *net.head_layers.values()):
            self._forward(layers)

    def _forward(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            name, copies = layer.name, isinstance(layer.activation, Linear)
            if copies and name in self.h:
                self.z.setdefault(name, self.h[name])
            z = self.z.get(name)
            if z is not None and name not in self.h and (copies or isinstance(layer.activation, ReLU)):
                self.h[name] = z if copies else np.maximum(z, 0)

    def dh(self, one: Backward, layer: Layer) -> Array | None:
        """∂L/∂h of a layer in one backward pass."""
        found = one.dh.get(layer.name)
        copied = one.dz.get(layer.name) if isinstance(layer.activation, Linear) else None
        return copied if found is None else found

    def dz(self, one: Backward, layer: Layer) -> Array | None:
        """∂L/∂z of a layer in one backward pass."""
        z: Array | None = self.z.get(layer.name)
        dh: Array | None = one.dh.get(layer.name)
        found: Array | None = one.dz.get(layer.name)
        if found is not None or dh is None:
            return found
        if isinstance(layer.activation, Linear):
            return dh
        # At z = 0 conventions differ, and what was used there cannot be known.
        if (
            isinstance(layer.activation, ReLU)
            and z is not None
            and not ((z == 0) & (dh != 0)).any()
            and np.isfinite(dh).all()
        ):
            return np.asarray(np.where(z > 0, dh, dh.dtype.type(0)))
        return None
