"""Correct gradients in the precision that is judged, with every sum in another order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...parameters import Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...batch import Batch
    from ...engine import Network
    from ...gradients import Gradients

Order = dict[str, tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]
"""Layer -> the units of the original that stand at the permuted layer's rows and columns."""
PERMUTED = 3


def replays(net: Network, params: Parameters, batch: Batch, seed: int) -> list[tuple[Gradients, Order]]:
    """The engine's own gradients: as given, and of the same network with samples and hidden units in other orders.

    Beside each stands how to undo its order.
    """
    rng = np.random.default_rng(seed)
    found = []
    for number in range(PERMUTED + 1):
        samples = rng.permutation(batch.size) if number else np.arange(batch.size)
        rows: dict[str, npt.NDArray[np.intp]] = {}
        columns: dict[str, npt.NDArray[np.intp]] = {}
        order = np.arange(net.n_in)
        for layer in net.trunk_layers:
            columns[layer.name], order = order, rng.permutation(layer.n_out) if number else np.arange(layer.n_out)
            rows[layer.name] = order
        top = order
        for layers in net.head_layers.values():
            order = top
            for layer in layers:
                last = layer is layers[-1] or not number
                columns[layer.name] = order
                order = np.arange(layer.n_out) if last else rng.permutation(layer.n_out)
                rows[layer.name] = order
        moved = Parameters(net.layout, np.empty_like(params.flat))
        for name in net.layout.names:
            layer_name, _, kind = name.rpartition(".")
            tensor = params[name][rows[layer_name]]
            moved[name][...] = tensor[:, columns[layer_name]] if kind == "weight" else tensor
        weights = {name: head.weights[samples] for name, head in batch.heads.items() if head.weights is not None}
        gradients = net.gradients(
            moved,
            np.ascontiguousarray(batch.x[samples]),
            {name: np.ascontiguousarray(head.target[samples]) for name, head in batch.heads.items()},
            sample_weight=weights or None,
        )
        found.append((gradients, {name: (rows[name], columns[name]) for name in rows}))
    return found


def restored(gradient: Mapping[str, Any], order: Order) -> dict[str, npt.NDArray[np.float64]]:
    """A permuted network's gradient in the order of the original."""
    found = {}
    for name in gradient:
        layer, _, kind = name.rpartition(".")
        rows, columns = order[layer]
        tensor = np.empty(gradient[name].shape)
        if kind == "weight":
            tensor[np.ix_(rows, columns)] = gradient[name]
        else:
            tensor[rows] = gradient[name]
        found[name] = tensor
    return found
