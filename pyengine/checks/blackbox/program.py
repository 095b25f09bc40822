"""The gradient program in float64, with every intermediate kept, and its own adjoint.

Differentiating ⟨R, gradient⟩ by all intermediates is a Hessian-vector product, computed as Pearlmutter 1994 does: the
adjoint of the backward pass is the forward pass of tangents with R as the direction of the weights, and the adjoint of
the forward pass follows from it, backwards.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...parameters import Parameters
from ...reference import activation_and_derivative, dense_forward, loss_and_gradient
from .curvature import LossCurvature, second_derivative
from .loss_kinks import LossKinks, place
from .narrow import Side

if TYPE_CHECKING:
    from ...batch import Batch
    from ...engine import Network
    from ...spec import Layer

F64 = npt.NDArray[np.float64]
Flips = Mapping[str, npt.NDArray[Any]]
KINKED = {"relu", "leaky_relu", "elu"}


@dataclass(frozen=True, eq=False)
class Visit:
    """One layer in the forward pass: h_in (batch, n_in); z, h, f'(z) and f''(z) (batch, n_out)."""

    layer: Layer
    w: F64
    b: F64 | None
    h_in: F64
    z: F64
    h: F64
    slope: F64
    bend: F64

    @functools.cached_property
    def w_squared(self) -> Side:
        """As the right side of a product with Wᵀ."""
        return Side(self.w, 2)

    @functools.cached_property
    def w_transposed_squared(self) -> Side:
        """As the right side of a product with W."""
        return Side(self.w.T, 2)

    @functools.cached_property
    def h_squared(self) -> Side:
        """As the right side of a product with h_in."""
        return Side(self.h_in.T, 2)


@dataclass(eq=False)
class Backward:
    """One backward pass: ∂L/∂h and ∂L/∂z per layer, the gradient, and the weights of the losses that it sums."""

    weights: dict[str, float]
    gradient: Parameters
    gh: dict[str, F64] = field(default_factory=dict)
    gz: dict[str, F64] = field(default_factory=dict)


@dataclass(eq=False)
class Amplitudes:
    """∂⟨R, gradient⟩/∂(each intermediate), per layer: of z, h, ∂L/∂z, of the layer's ∂L/∂h_in; of each loss's seed."""

    z: dict[str, F64] = field(default_factory=dict)
    h: dict[str, F64] = field(default_factory=dict)
    gz: dict[str, F64] = field(default_factory=dict)
    gh_in: dict[str, F64] = field(default_factory=dict)
    seed: dict[str, F64] = field(default_factory=dict)


class Program:
    """A network on one batch. ``flips`` marks units whose kink is taken on the other side, (batch, n_out) per layer;
    per :func:`place` of a loss, which share of the way to the other side is taken."""

    def __init__(
        self,
        net: Network,
        params: Parameters,
        batch: Batch,
        flips: Flips | None = None,
        dtype: np.dtype[Any] | None = None,
    ) -> None:
        self.net, self.batch, self.dtype = net, batch, params.dtype if dtype is None else dtype
        self.params = Parameters(net.layout, params.flat.astype(np.float64))
        self.flips = flips or {}
        self._signs: dict[tuple[int, int], Parameters] = {}
        self._kept: dict[str, Backward] = {}
        self.trunk = self._forward(net.trunk_layers, batch.x.astype(np.float64))
        top = self.trunk[-1].h if self.trunk else batch.x.astype(np.float64)
        self.heads = {name: self._forward(layers, top) for name, layers in net.head_layers.items()}
        self.losses, self.seeds, self.curvature = {}, {}, {}
        for name, visits in self.heads.items():
            out, loss, given = visits[-1].h, net.heads[name].loss, batch.heads[name]
            self.losses[name], self.seeds[name] = loss_and_gradient(loss, out, given, self.dtype)
            self.curvature[name] = LossCurvature(loss, out, given, self.dtype)
            if place(name) in self.flips:
                kinks = self.loss_kinks(name)
                self.seeds[name] = self.seeds[name] + kinks.change(self.flips[place(name)])

    def visits(self) -> list[Visit]:
        return [*self.trunk, *(visit for visits in self.heads.values() for visit in visits)]

    def loss_kinks(self, head: str) -> LossKinks:
        """Where the derivative of a head's loss jumps."""
        return LossKinks(self.net.heads[head].loss, self.heads[head][-1].h, self.batch.heads[head], self.dtype)

    def _forward(self, layers: Sequence[Layer], h: F64) -> list[Visit]:
        visits = []
        for layer in layers:
            w, b = self.params[f"{layer.name}.weight"], self.params.get(f"{layer.name}.bias")
            z = dense_forward(h, w, b)
            value, slope = activation_and_derivative(layer.activation, z)
            flipped = self.flips.get(layer.name)
            if flipped is not None:
                slope = np.where(flipped, other_slope(layer, slope), slope)
            visits.append(Visit(layer, w, b, h, z, value, slope, second_derivative(layer.activation, z)))
            h = value
        return visits

    def signs(self, seed: int, number: int) -> Parameters:
        """A random ±1 for every parameter, the same for all sums of losses; kept."""
        if (seed, number) not in self._signs:
            size = self.net.layout.size
            drawn = np.frombuffer(np.random.default_rng([seed, number]).bytes(size // 8 + 1), np.uint8)
            signs = np.unpackbits(drawn, count=size).astype(np.float64)
            signs *= 2.0
            signs -= 1.0
            self._signs[seed, number] = Parameters(self.net.layout, signs)
        return self._signs[seed, number]

    # ------------------------------------------------------------------------------ forward beside its adjoint below

    def backward(self, weights: Mapping[str, float]) -> Backward:
        """The gradient of Σ weight·loss over the losses named; the parameters of the others get 0.

        Backpropagation is linear: each loss goes back once, however many sums of them are asked for.
        """
        layout = self.net.layout
        back = Backward(dict(weights), Parameters(layout, np.zeros(layout.size)))
        for name, weight in weights.items():
            one = self._alone(name)
            if weight == 1.0 and len(weights) == 1:
                return one
            back.gradient.flat[:] += weight * one.gradient.flat
            for total, part in ((back.gh, one.gh), (back.gz, one.gz)):
                for layer, value in part.items():
                    if layer in total:
                        total[layer] += weight * value
                    else:
                        total[layer] = weight * value
        return back

    def _alone(self, name: str) -> Backward:
        """The gradient of one loss, unweighted; kept."""
        if name not in self._kept:
            layout = self.net.layout
            back = Backward({name: 1.0}, Parameters(layout, np.zeros(layout.size)))
            gh = self._undo(self.heads[name], self.seeds[name], back, bool(self.trunk))
            if self.trunk:
                self._undo(self.trunk, gh, back, False)
            self._kept[name] = back
        return self._kept[name]

    def _undo(self, visits: Sequence[Visit], gh: F64, back: Backward, to_input: bool) -> F64:
        for number, visit in reversed(list(enumerate(visits))):
            name = visit.layer.name
            gz = gh * visit.slope
            back.gh[name], back.gz[name] = gh, gz
            back.gradient[f"{name}.weight"][...] = gz.T @ visit.h_in
            if visit.layer.bias:
                back.gradient[f"{name}.bias"][...] = gz.sum(axis=0)
            if number > 0 or to_input:
                gh = gz @ visit.w
        return gh

    def amplitudes(self, back: Backward, direction: Mapping[str, Any]) -> Amplitudes:
        """The derivatives of ⟨direction, gradient⟩; ``direction`` maps some parameters to arrays of their shapes."""
        found = Amplitudes()
        tangent = self._tangents(self.trunk, None, direction, found)
        bar: F64 | None = None
        for name, weight in back.weights.items():
            visits = self.heads[name]
            if tangent is not None and self.trunk:
                found.gh_in[visits[0].layer.name] = tangent
            out = self._tangents(visits, tangent, direction, found)
            if out is None:
                continue
            found.seed[name] = out
            through = self._adjoints(
                visits, weight * self.curvature[name].times(out), back, direction, found, bool(self.trunk)
            )
            bar = through if bar is None or through is None else bar + through
        if self.trunk and bar is not None:
            self._adjoints(self.trunk, bar, back, direction, found, False)
        return found

    def _tangents(
        self, visits: Sequence[Visit], tangent: F64 | None, direction: Mapping[str, Any], found: Amplitudes
    ) -> F64 | None:
        for visit in visits:
            name = visit.layer.name
            if tangent is not None and visit is not visits[0]:
                found.gh_in[name] = tangent
            terms = [] if tangent is None else [tangent @ visit.w.T]
            if (weight := direction.get(f"{name}.weight")) is not None:
                terms.append(visit.h_in @ weight.T)
            if (bias := direction.get(f"{name}.bias")) is not None:
                terms.append(np.broadcast_to(bias, visit.z.shape))
            if terms:
                found.gz[name] = np.asarray(sum(terms[1:], terms[0]))
                tangent = found.gz[name] * visit.slope
        return tangent

    def _adjoints(
        self,
        visits: Sequence[Visit],
        bar: F64,
        back: Backward,
        direction: Mapping[str, Any],
        found: Amplitudes,
        to_input: bool,
    ) -> F64 | None:
        for number, visit in reversed(list(enumerate(visits))):
            name = visit.layer.name
            found.h[name] = bar
            bar_z = bar * visit.slope
            if name in found.gz:
                bar_z = bar_z + found.gz[name] * back.gh[name] * visit.bend
            found.z[name] = bar_z
            if number == 0 and not to_input:
                return None
            bar = bar_z @ visit.w
            if (weight := direction.get(f"{name}.weight")) is not None:
                bar = bar + back.gz[name] @ weight
        return bar


def other_slope(layer: Layer, slope: F64) -> F64:
    """The derivative on the other side of the kink at 0, where eᶻ is 1 to first order."""
    below = 0.0 if layer.activation.name == "relu" else layer.activation.slope
    return np.asarray(1.0 + below - slope)
