"""Witnesses of the textbook program, run by NumPy in the dtype of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...batch import checked_batch
from ...parameters import Array
from ...reference import activation_and_derivative
from .loss_stage import derivative
from .witnesses import Backward, Witnesses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...engine import Network
    from ...spec import Layer


class Place(NamedTuple):
    """Where a number stands; as text, the name of the stage that judges it. ``of`` is empty in the forward pass."""

    of: str
    part: str
    key: str

    def __str__(self) -> str:
        return f"{self.of}{'.' if self.of else ''}{self.part}[{self.key!r}]"


Tamper = Callable[[Place, Array, tuple[Array, ...]], Array]
"""Takes a place, what was computed there and from what, and returns what shall stand there. Computed from: z (h, W) or
(h, W, b); h (z,); dh of an output (output, targets as rows, factors), of the trunk's last layer one array per head,
elsewhere (dz, W); dz (dh, f'(z), z); gradients (dz, h) and (dz,)."""


def recorded(
    net: Network,
    params: Mapping[str, Any],
    x: Any,
    targets: Mapping[str, Any],
    sample_weight: Any = None,
    *,
    tamper: Tamper | None = None,
) -> Witnesses:
    """Forward, one backward pass per loss, and one of the weighted sum, with every number on the way.

    Takes and refuses what :meth:`Network.gradients` does; every array has the dtype of the parameters. ``tamper`` may
    change any number where it is computed; what follows goes on from there.
    """
    own = net.parameters(params)
    batch = checked_batch(x, targets, sample_weight, n_in=net.n_in, heads=net.heads, dtype=own.dtype)
    change = _as_computed if tamper is None else tamper
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        run = _Run(net, own, batch.x, change)
        made = {}
        for name, head in net.heads.items():
            given = batch.heads[name]
            output = run.h[net.head_layers[name][-1].name]
            n_out = output.shape[1]
            y = np.eye(n_out, dtype=own.dtype)[given.target] if given.target.ndim == 1 else given.target
            s = own.dtype.type(getattr(head.loss, "label_smoothing", 0.0))
            y = (1 - s) * y + s / own.dtype.type(n_out) if s else y
            factor = given.coefficients(head.loss, n_out).astype(own.dtype)
            made[name] = (factor[:, None] * derivative(head.loss, output, y), output, y, factor)

        def seed(of: str, name: str) -> Array:
            value, *around, factor = made[name]
            weight = own.dtype.type(net.heads[name].weight if of == "summed" else 1.0)
            place = Place(of, "dh", net.head_layers[name][-1].name)
            return change(place, weight * value, (*around, weight * factor))

        per_loss = {}
        for name in net.heads:
            of = f"per_loss[{name!r}]"
            per_loss[name] = run.backward(of, {name: seed(of, name)})
        return Witnesses(
            z=run.z,
            h=run.h,
            per_loss=per_loss,
            summed=run.backward("summed", {name: seed("summed", name) for name in net.heads}),
            outputs={name: run.h[layers[-1].name] for name, layers in net.head_layers.items()},
        )


def _as_computed(_place: Place, value: Array, _operands: tuple[Array, ...]) -> Array:
    return value


class _Run:
    """One forward pass, and backward passes over what it left."""

    def __init__(self, net: Network, params: Mapping[str, Array], x: Array, change: Tamper) -> None:
        self.net, self.params, self.change = net, params, change
        self.z: dict[str, Array] = {}
        self.h: dict[str, Array] = {}
        self.inputs: dict[str, Array] = {}
        self.slopes: dict[str, Array] = {}
        shared = self._forward(net.trunk_layers, x)
        for layers in net.head_layers.values():
            self._forward(layers, shared)

    def _forward(self, layers: tuple[Layer, ...], h: Array) -> Array:
        for layer in layers:
            operands: tuple[Array, ...] = (h, self.params[f"{layer.name}.weight"])
            z = h @ operands[1].T
            if layer.bias:
                operands = (*operands, self.params[f"{layer.name}.bias"])
                z = z + operands[2]
            z = self.change(Place("", "z", layer.name), z, operands)
            value, slope = activation_and_derivative(layer.activation, z)
            self.inputs[layer.name], self.z[layer.name] = h, z
            self.slopes[layer.name] = slope.astype(z.dtype)
            h = self.h[layer.name] = self.change(Place("", "h", layer.name), value.astype(z.dtype), (z,))
        return h

    def backward(self, of: str, seeds: Mapping[str, Array]) -> Backward:
        """From ∂L/∂output of some heads to all gradients."""
        found: tuple[dict[str, Array], dict[str, Array], dict[str, Array]] = ({}, {}, {})
        parts = [self._through(of, self.net.head_layers[name], seed, found) for name, seed in seeds.items()]
        shared = parts[0]
        for part in parts[1:]:
            shared = shared + part
        if self.net.trunk_layers:
            shared = self.change(Place(of, "dh", self.net.trunk_layers[-1].name), shared, tuple(parts))
        self._through(of, self.net.trunk_layers, shared, found)
        return Backward(*found)

    def _through(
        self,
        of: str,
        layers: tuple[Layer, ...],
        dh: Array,
        found: tuple[dict[str, Array], dict[str, Array], dict[str, Array]],
    ) -> Array:
        all_dh, all_dz, gradient = found
        for i in reversed(range(len(layers))):
            layer = layers[i]
            name, slope = layer.name, self.slopes[layer.name]
            dz = self.change(Place(of, "dz", name), dh * slope, (dh, slope, self.z[name]))
            all_dh[name], all_dz[name] = dh, dz
            h, weight, bias = self.inputs[name], f"{name}.weight", f"{name}.bias"
            gradient[weight] = self.change(Place(of, "gradient", weight), dz.T @ h, (dz, h))
            if layer.bias:
                gradient[bias] = self.change(Place(of, "gradient", bias), dz.sum(axis=0), (dz,))
            dh = dz @ self.params[weight]
            if i:
                dh = self.change(Place(of, "dh", layers[i - 1].name), dh, (dz, self.params[weight]))
        return dh
