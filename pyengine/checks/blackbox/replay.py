"""Correct gradients in the precision that is judged, with every sum in another order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...losses import SoftmaxCrossEntropy
from ...parameters import Parameters
from ..staged.loss_stage import through_log_softmax
from ..staged.recording import Place, Tamper, recorded

if TYPE_CHECKING:
    from ...batch import Batch
    from ...engine import Network

Order = dict[str, tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]
"""Layer -> the units of the original that stand at the permuted layer's rows and columns."""
PERMUTED = 3

LANES = 16
"""Of the vectors that add up the classes in one of the routes."""

Again = Callable[[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]], npt.NDArray[Any]]


@dataclass(frozen=True)
class Replay:
    """Correct gradients by name, per loss and summed, of the permuted network."""

    per_loss: Mapping[str, Mapping[str, Any]]
    summed: Mapping[str, Any]


def replays(net: Network, params: Parameters, batch: Batch, seed: int) -> list[tuple[Replay, Order]]:
    """Correct gradients by the engine and by the textbook: as given, samples, units, classes in other orders.

    Four routes, because their exp and their sums over the classes err in ways of their own, alike for samples that are
    nearly alike. Beside each stands how to undo its order.
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
                columns[layer.name] = order
                order = rng.permutation(layer.n_out) if number else np.arange(layer.n_out)
                rows[layer.name] = order
        moved = Parameters(net.layout, np.empty_like(params.flat))
        for name in net.layout.names:
            layer_name, _, kind = name.rpartition(".")
            tensor = params[name][rows[layer_name]]
            moved[name][...] = tensor[:, columns[layer_name]] if kind == "weight" else tensor
        weights = {name: head.weights[samples] for name, head in batch.heads.items() if head.weights is not None}
        targets = {
            name: _target(head.target[samples], rows[net.head_layers[name][-1].name])
            for name, head in batch.heads.items()
        }
        given = (moved, np.ascontiguousarray(batch.x[samples]), targets, weights or None)
        order_of = {name: (rows[name], columns[name]) for name in rows}
        own = net.gradients(*given)
        found.append((Replay(own.per_loss, own.summed), order_of))
        for tamper in (None, *(_losses_again(net, again) for again in (_one_class_after_another, _factors_first))):
            textbook = recorded(net, *given, tamper=tamper)
            assert textbook.summed is not None
            per_loss = {name: one.gradient for name, one in textbook.per_loss.items()}
            found.append((Replay(per_loss, textbook.summed.gradient), order_of))
    return found


def _losses_again(net: Network, again: Again) -> Tamper:
    """∂L/∂outputs of softmax cross-entropies recomputed from outputs, target rows and factors (batch, 1)."""
    last = {
        net.head_layers[name][-1].name for name, head in net.heads.items() if isinstance(head.loss, SoftmaxCrossEntropy)
    }

    def recompute(place: Place, computed: npt.NDArray[Any], of: tuple[npt.NDArray[Any], ...]) -> npt.NDArray[Any]:
        if place.part != "dh" or place.key not in last:
            return computed
        z, y, factors = of
        return np.asarray(again(z, y, factors.reshape(-1, 1)), computed.dtype)

    return recompute


def _one_class_after_another(z: npt.NDArray[Any], y: npt.NDArray[Any], factors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Sums over the classes term by term: Σy of smoothed targets adds constants, and errs alike for every sample."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p = e / np.add.accumulate(e, axis=1)[:, -1:]
    mass = np.add.accumulate(y, axis=1)[:, -1:]
    return np.asarray(factors * (mass * p - y))


def _factors_first(z: npt.NDArray[Any], y: npt.NDArray[Any], factors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Smoothed targets times the factor before they are summed: that rounds alike for every sample, too."""
    return through_log_softmax(z, y * factors, LANES)


def _target(target: npt.NDArray[Any], order: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
    """Targets of a head whose outputs stand in another order: columns move, classes are renamed."""
    if target.ndim == 2:
        return np.ascontiguousarray(target[:, order])
    return np.asarray(np.argsort(order)[target], target.dtype)


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
