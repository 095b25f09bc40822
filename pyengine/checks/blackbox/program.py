"""The gradient program in float64, with every intermediate kept, and its own adjoint.

Differentiating ⟨R, gradient⟩ by all intermediates is a Hessian-vector product, computed as Pearlmutter 1994 does: the
adjoint of the backward pass is the forward pass of tangents with R as the direction of the weights, and the adjoint of
the forward pass follows from it, backwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ... import spare
from ...parameters import Layout, Parameters, widened
from ...reference import activation_and_derivative, dense_forward, loss_and_gradient
from .curvature import LossCurvature, second_derivative
from .loss_kinks import LossKinks, place
from .narrow import BLOCK, Side

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
    def bent(self) -> bool:
        """Whether f'' is anything but 0."""
        return bool(self.bend.any())

    @functools.cached_property
    def narrow(self) -> Visit:
        """What amplitudes are made of, in float32."""
        kept = {part: getattr(self, part).astype(np.float32) for part in ("w", "h_in", "slope", "bend")}
        return replace(self, **kept)

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
    """One backward pass: ∂L/∂h and ∂L/∂z per layer, the gradient, and the weights of the losses that it sums.

    The gradient is formed when it is first asked for: a few of its elements take no more than the rest of the pass.
    """

    weights: dict[str, float]
    form: Callable[[], Parameters]
    gh: dict[str, F64] = field(default_factory=dict)
    gz: dict[str, F64] = field(default_factory=dict)

    @functools.cached_property
    def gradient(self) -> Parameters:
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return self.form()


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
        self.params = widened(params)
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
            signs = np.unpackbits(drawn, count=size).view(np.int8)
            signs *= 2
            signs -= 1
            self._signs[seed, number] = widened(Parameters(self.net.layout, signs))
        return self._signs[seed, number]

    # ------------------------------------------------------------------------------ forward beside its adjoint below

    def backward(self, weights: Mapping[str, float]) -> Backward:
        """The gradient of Σ weight·loss over the losses named; the parameters of the others get 0.

        Backpropagation is linear: each loss goes back once, however many sums of them are asked for.
        """
        if list(weights.values()) == [1.0]:
            return self._alone(next(iter(weights)))
        ones = {name: self._alone(name) for name in weights}
        layout, factors = self.net.layout, dict(weights)
        back = Backward(factors, lambda: Parameters(layout, _sum(factors, ones)))
        for name, weight in weights.items():
            one = ones[name]
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
            visits, layout = [*self.trunk, *self.heads[name]], self.net.layout
            gz: dict[str, F64] = {}
            back = Backward({name: 1.0}, lambda: _products(layout, visits, gz), gz=gz)
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
            if number > 0 or to_input:
                gh = gz @ visit.w
        return gh

    def amplitudes(self, back: Backward, direction: Mapping[str, Any], *, narrow: bool = False) -> Amplitudes:
        """The derivatives of ⟨direction, gradient⟩; ``direction`` maps some parameters to arrays of their shapes.

        ``narrow`` computes them in float32, as the direction is then (:mod:`.rough`).
        """

        def layers(visits: Sequence[Visit]) -> Sequence[Visit]:
            return [visit.narrow for visit in visits] if narrow else visits

        found = Amplitudes()
        trunk = layers(self.trunk)
        tangent = self._tangents(trunk, None, direction, found)
        bar: F64 | None = None
        for name, weight in back.weights.items():
            visits = layers(self.heads[name])
            if tangent is not None and trunk:
                found.gh_in[visits[0].layer.name] = tangent
            out = self._tangents(visits, tangent, direction, found)
            if out is None:
                continue
            found.seed[name] = out
            seed = (weight * self.curvature[name].times(out)).astype(out.dtype, copy=False)
            through = self._adjoints(visits, seed, back, direction, found, bool(trunk))
            bar = through if bar is None or through is None else bar + through
        if trunk and bar is not None:
            self._adjoints(trunk, bar, back, direction, found, False)
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
        kind = bar.dtype
        for number, visit in reversed(list(enumerate(visits))):
            name = visit.layer.name
            found.h[name] = bar
            bar_z = bar * visit.slope
            if name in found.gz and visit.bent:
                bar_z = bar_z + found.gz[name] * back.gh[name].astype(kind, copy=False) * visit.bend
            found.z[name] = bar_z
            if number == 0 and not to_input:
                return None
            bar = bar_z @ visit.w
            if (weight := direction.get(f"{name}.weight")) is not None:
                bar = bar + back.gz[name].astype(kind, copy=False) @ weight
        return bar


def _products(layout: Layout, visits: Sequence[Visit], gz: Mapping[str, F64]) -> Parameters:
    """The gradient of one loss from the ∂L/∂z of its layers; the parameters of the others get 0."""
    found = Parameters(layout, spare.empty(layout.size))
    there = {visit.layer.name for visit in visits}
    for parameter in layout.names:
        if parameter.rpartition(".")[0] not in there:
            found[parameter][...] = 0.0
    for visit in visits:
        name = visit.layer.name
        np.matmul(gz[name].T, visit.h_in, out=found[f"{name}.weight"])
        if visit.layer.bias:
            gz[name].sum(axis=0, out=found[f"{name}.bias"])
    return found


def _sum(weights: Mapping[str, float], ones: Mapping[str, Backward]) -> F64:
    """Σ weight·gradient, flat, block by block in the cache."""
    parts = [(weight, ones[name].gradient.flat) for name, weight in weights.items()]
    total = spare.empty(parts[0][1].size)
    some = np.empty(min(BLOCK, total.size))
    for start in range(0, total.size, BLOCK):
        block = total[start : start + BLOCK]
        np.multiply(parts[0][1][start : start + BLOCK], parts[0][0], out=block)
        for weight, flat in parts[1:]:
            block += np.multiply(flat[start : start + BLOCK], weight, out=some[: block.size])
    return total


def other_slope(layer: Layer, slope: F64) -> F64:
    """The derivative on the other side of the kink at 0, where eᶻ is 1 to first order."""
    below = 0.0 if layer.activation.name == "relu" else layer.activation.slope
    return np.asarray(1.0 + below - slope)
