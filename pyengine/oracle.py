"""Gradients in double-double arithmetic: about 31 decimal digits, by loops that share nothing with the kernel.

Every sum, product and function is computed to a relative error of about 1e-30 (``_dd.pxd`` states the bound of each
operation, ``tests/test_oracle.py`` measures the functions), so the results, rounded to float64 at the end, are the
gradients of the network as given, for all that float64 can tell. Numbers that overflow become NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import _oracle
from .batch import checked_batch, checked_input
from .errors import sentence
from .losses import ClippedBinaryCrossEntropy, ClippedCrossEntropy, Huber
from .parameters import Layout, Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .batch import HeadTarget
    from .engine import Network
    from .gradients import Gradients
    from .losses import Loss
    from .spec import Head, Layer

Array = npt.NDArray[np.float64]
Pairs = Array
"""Double-double numbers: float64 with a first axis of two, the high parts and the low parts."""


def forward(net: Network, params: Mapping[str, Any], x: Any) -> dict[str, Array]:
    """The outputs of every head, name -> (batch, n_out), rounded from double-double to float64.

    Takes and refuses what :meth:`Network.forward` does.
    """
    own = net._own(params)
    inputs = checked_input(x, net.n_in, own.dtype)
    wide = _Wide(net, own)
    trunk = _forward(wide, net.trunk_layers, _pairs(inputs))
    return {name: _forward(wide, layers, trunk.output).output[0].copy() for name, layers in net.head_layers.items()}


def gradients(
    net: Network,
    params: Mapping[str, Any],
    x: Any,
    targets: Mapping[str, Any],
    sample_weight: Any = None,
    per_loss: bool = True,
    summed: bool = True,
    out: Gradients | None = None,
) -> Gradients:
    """Losses and gradients of one batch, computed in double-double and rounded to float64.

    Takes the arguments of :meth:`Network.gradients` and refuses the same ones; the result is float64 whatever the dtype
    of the parameters, and so must ``out`` be.

    >>> import numpy as np, pyengine as pe
    >>> net = pe.Network(n_in=1, trunk=[], heads={"a": pe.Head([pe.Dense(1)], loss="mse")})
    >>> params = net.parameters({"heads.a.0.weight": np.array([[3.0]]), "heads.a.0.bias": np.array([1.0])})
    >>> g = pe.oracle.gradients(net, params, np.array([[2.0]]), {"a": np.array([[5.0]])})
    >>> g.losses["a"], float(g.summed["heads.a.0.weight"][0, 0])
    (4.0, 8.0)
    """
    return _compute(net, params, x, targets, sample_weight, per_loss, summed, out)[0]


def gradients_dd(
    net: Network,
    params: Mapping[str, Any],
    x: Any,
    targets: Mapping[str, Any],
    sample_weight: Any = None,
    per_loss: bool = True,
    summed: bool = True,
) -> tuple[Gradients, Gradients]:
    """The high and the low parts of what :func:`gradients` computes; their exact sum is the double-double result."""
    return _compute(net, params, x, targets, sample_weight, per_loss, summed, None)


def _compute(
    net: Network,
    params: Mapping[str, Any],
    x: Any,
    targets: Mapping[str, Any],
    sample_weight: Any,
    per_loss: bool,
    summed: bool,
    out: Gradients | None,
) -> tuple[Gradients, Gradients]:
    own = net._own(params)
    batch = checked_batch(x, targets, sample_weight, n_in=net.n_in, heads=net.heads, dtype=own.dtype)
    if not (per_loss or summed):
        raise ValueError(
            sentence("per_loss", got="and `summed` are both False", expected="at least one", remedy="Ask for one.")
        )
    wide = _Wide(net, own)
    if out is not None:
        net._check_out(out, wide.params, batch, per_loss=per_loss, summed=summed)
        per_loss, summed = out._per_loss is not None, out._summed is not None  # what it holds must not go stale
    high = net.empty_gradients(np.float64, per_loss=per_loss, summed=summed) if out is None else out
    low = net.empty_gradients(np.float64, per_loss=per_loss, summed=summed)

    trunk = _forward(wide, net.trunk_layers, _pairs(batch.x))
    heads = {name: _forward(wide, layers, trunk.output) for name, layers in net.head_layers.items()}
    losses = {name: _loss(net.heads[name], tape.output, batch.heads[name], own.dtype) for name, tape in heads.items()}
    _report_losses(net, {name: value for name, (value, _) in losses.items()}, high, low)

    if per_loss:
        jacobian = []
        for name, layout in net.loss_layouts.items():
            flat = np.zeros((2, layout.size))
            _backward(wide, trunk, _backward(wide, heads[name], losses[name][1], layout, flat), layout, flat)
            high.per_loss[name].flat[:], low.per_loss[name].flat[:] = flat
            jacobian.append(flat[:, : trunk.size].copy())
        for i, row in enumerate(jacobian):
            for j, other in enumerate(jacobian):
                high.gramian[i, j], low.gramian[i, j] = _oracle.inner(row, other)
    if summed:
        flat = np.zeros((2, net.layout.size))
        dh = np.zeros(trunk.output.shape)
        for name, head in net.heads.items():
            weighted = np.zeros(losses[name][1].shape)
            _add_scaled(weighted, head.weight, losses[name][1])
            _add_scaled(dh, 1.0, _backward(wide, heads[name], weighted, net.layout, flat))
        _backward(wide, trunk, dh, net.layout, flat)
        high.summed.flat[:], low.summed.flat[:] = flat
    return high, low


class _Wide:
    """The parameters as float64, which is exact, with each weight in both orders."""

    def __init__(self, net: Network, own: Parameters) -> None:
        self.params = Parameters(net.layout, own.flat.astype(np.float64, copy=False))

    def bias(self, layer: Layer) -> Array | None:
        return self.params[f"{layer.name}.bias"] if layer.bias else None

    def weight(self, layer: Layer) -> Array:
        return self.params[f"{layer.name}.weight"]

    def weight_transposed(self, layer: Layer) -> Array:
        return np.ascontiguousarray(self.weight(layer).T)


@dataclass(frozen=True, eq=False)
class _Tape:
    """What the forward pass through some layers leaves for the backward pass."""

    layers: Sequence[Layer]
    inputs: list[Pairs]
    derivatives: list[Pairs]
    output: Pairs

    @property
    def size(self) -> int:
        """The number of parameters of these layers."""
        return Layout(self.layers).size


def _forward(wide: _Wide, layers: Sequence[Layer], h: Pairs) -> _Tape:
    inputs, derivatives = [], []
    for layer in layers:
        inputs.append(h)
        z = _oracle.dense_forward(h, wide.weight_transposed(layer), wide.bias(layer))
        value, derivative = _oracle.activation(layer.activation.name, layer.activation.slope, z.reshape(2, -1))
        derivatives.append(derivative)
        h = value.reshape(z.shape)
    return _Tape(layers, inputs, derivatives, h)


def _backward(wide: _Wide, tape: _Tape, dh: Pairs, layout: Layout, flat: Pairs) -> Pairs:
    """Write the gradients of the layers into ``flat`` (2, layout.size) and return ∂L/∂input.

    The input x of a network has no gradient that anyone asked for; it is not computed, and dh is returned as it came.
    """
    for layer, h, derivative in zip(tape.layers[::-1], tape.inputs[::-1], tape.derivatives[::-1], strict=True):
        dz = _oracle.product(dh.reshape(2, -1), derivative).reshape(dh.shape)
        weight, bias = _oracle.dense_backward(dz, h)
        _place(flat, layout, f"{layer.name}.weight", weight)
        if layer.bias:
            _place(flat, layout, f"{layer.name}.bias", bias)
        if layer.name != "trunk.0":
            dh = _oracle.dense_backward_input(dz, wide.weight(layer))
    return dh


def _place(flat: Pairs, layout: Layout, name: str, value: Pairs) -> None:
    start = layout.offsets[name]
    flat[:, start : start + value[0].size] = value.reshape(2, -1)


def _loss(head: Head, z: Pairs, given: HeadTarget, dtype: np.dtype[Any]) -> tuple[Pairs, Pairs]:
    """The loss, (2,), and ∂L/∂z, (2, batch, n_out)."""
    loss = head.loss
    low, high = 0.0, 1.0
    if isinstance(loss, ClippedCrossEntropy | ClippedBinaryCrossEntropy):
        low, high = loss.clip_bounds(dtype)
    delta = float(loss.delta) if isinstance(loss, Huber) else 0.0
    return _oracle.loss(loss.name, z, _target(loss, given, z.shape[2]), _row_factors(loss, given, z), low, high, delta)


def _target(loss: Loss, given: HeadTarget, n_out: int) -> Pairs:
    target = given.target
    if target.ndim == 1:
        target = np.zeros((target.size, n_out))
        target[np.arange(target.shape[0]), given.target] = 1.0
    return _oracle.smoothed(target.astype(np.float64, copy=False), getattr(loss, "label_smoothing", 0.0))


def _row_factors(loss: Loss, given: HeadTarget, z: Pairs) -> Pairs:
    batch, n_out = z.shape[1:]
    weights = np.ones(batch) if given.weights is None else given.weights
    features = n_out if loss.averages_features else 1
    if loss.reduction == "sum":
        return _oracle.row_factors(weights, 1.0, False)
    if loss.reduction == "mean":
        return _oracle.row_factors(weights, float(batch * features), False)
    return _oracle.row_factors(weights, float(features), True)


def _report_losses(net: Network, values: dict[str, Pairs], high: Gradients, low: Gradients) -> None:
    total = np.zeros((2, 1))
    for name, head in net.heads.items():
        high.losses[name], low.losses[name] = values[name].tolist()
        _oracle.add_scaled(total, head.weight, values[name].reshape(2, 1))
    high.total_loss, low.total_loss = total[:, 0].tolist()


def _add_scaled(a: Pairs, factor: float, b: Pairs) -> None:
    _oracle.add_scaled(a.reshape(2, -1), factor, b.reshape(2, -1))


def _pairs(x: npt.NDArray[Any]) -> Pairs:
    pairs = np.zeros((2, *x.shape))
    pairs[0] = x
    return pairs
