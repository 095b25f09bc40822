"""Witnesses of the textbook program, run by NumPy in the dtype of the parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


def recorded(
    net: Network, params: Mapping[str, Any], x: Any, targets: Mapping[str, Any], sample_weight: Any = None
) -> Witnesses:
    """Forward, one backward pass per loss, and one of the weighted sum, with every number on the way.

    Takes and refuses what :meth:`Network.gradients` does; every array has the dtype of the parameters.
    """
    own = net.parameters(params)
    batch = checked_batch(x, targets, sample_weight, n_in=net.n_in, heads=net.heads, dtype=own.dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        run = _Run(net, own, batch.x)
        seeds = {}
        for name, head in net.heads.items():
            given = batch.heads[name]
            output = run.h[net.head_layers[name][-1].name]
            n_out = output.shape[1]
            y = np.eye(n_out, dtype=own.dtype)[given.target] if given.target.ndim == 1 else given.target
            s = own.dtype.type(getattr(head.loss, "label_smoothing", 0.0))
            y = (1 - s) * y + s / own.dtype.type(n_out) if s else y
            factor = given.coefficients(head.loss, n_out).astype(own.dtype)
            seeds[name] = factor[:, None] * derivative(head.loss, output, y)
        weighted = {name: own.dtype.type(head.weight) * seeds[name] for name, head in net.heads.items()}
        return Witnesses(
            z=run.z,
            h=run.h,
            per_loss={name: run.backward({name: seed}) for name, seed in seeds.items()},
            summed=run.backward(weighted),
            outputs={name: run.h[layers[-1].name] for name, layers in net.head_layers.items()},
        )


class _Run:
    """One forward pass, and backward passes over what it left."""

    def __init__(self, net: Network, params: Mapping[str, Array], x: Array) -> None:
        self.net, self.params = net, params
        self.z: dict[str, Array] = {}
        self.h: dict[str, Array] = {}
        self.inputs: dict[str, Array] = {}
        self.slopes: dict[str, Array] = {}
        shared = self._forward(net.trunk_layers, x)
        for layers in net.head_layers.values():
            self._forward(layers, shared)

    def _forward(self, layers: tuple[Layer, ...], h: Array) -> Array:
        for layer in layers:
            z = h @ self.params[f"{layer.name}.weight"].T
            if layer.bias:
                z = z + self.params[f"{layer.name}.bias"]
            value, slope = activation_and_derivative(layer.activation, z)
            self.inputs[layer.name], self.z[layer.name] = h, z
            self.slopes[layer.name] = slope.astype(z.dtype)
            h = self.h[layer.name] = value.astype(z.dtype)
        return h

    def backward(self, seeds: Mapping[str, Array]) -> Backward:
        """From ∂L/∂output of some heads to all gradients."""
        found: tuple[dict[str, Array], dict[str, Array], dict[str, Array]] = ({}, {}, {})
        shared = None
        for name, seed in seeds.items():
            dh = self._through(self.net.head_layers[name], seed, found)
            shared = dh if shared is None else shared + dh
        assert shared is not None
        self._through(self.net.trunk_layers, shared, found)
        return Backward(*found)

    def _through(
        self, layers: tuple[Layer, ...], dh: Array, found: tuple[dict[str, Array], dict[str, Array], dict[str, Array]]
    ) -> Array:
        all_dh, all_dz, gradient = found
        for layer in reversed(layers):
            dz = dh * self.slopes[layer.name]
            all_dh[layer.name], all_dz[layer.name] = dh, dz
            gradient[f"{layer.name}.weight"] = dz.T @ self.inputs[layer.name]
            if layer.bias:
                gradient[f"{layer.name}.bias"] = dz.sum(axis=0)
            dh = dz @ self.params[f"{layer.name}.weight"]
        return dh
