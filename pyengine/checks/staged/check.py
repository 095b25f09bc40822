"""The staged check: every stage that the witnesses allow, judged in the order of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...activations import Linear as LinearActivation
from ...parameters import Array, Parameters
from ...progress import say
from ...rounding import precision, unit_roundoff
from ...rounding.storage import Storage, storage
from .elementwise import Activated, exactly
from .finding import Finding, Kind
from .gaps import Filled
from .linear_stages import judge_linear, judge_sum, judge_weighted_sum
from .loss_stage import judge_loss
from .matrices import Matrix, Product, Room
from .products import Linear
from .witnesses import Backward, Witnesses

if TYPE_CHECKING:
    from ...batch import Batch
    from ...engine import Network
    from ...spec import Layer

Verdict = Literal["CERTIFIED", "REFUTED", "REFUTED_STATISTICAL", "INCONCLUSIVE"]


@dataclass(frozen=True)
class Staged:
    """Every stage that was judged, in the order of the data, and the names of witnesses that could not be."""

    stages: tuple[Finding, ...]
    unjudged: tuple[str, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The stages that fail, in the order of the data: the first is where the computation went wrong."""
        return tuple(stage for stage in self.stages if not stage.holds)

    @property
    def verdict(self) -> Verdict:
        standings = {stage.standing for stage in self.stages}
        if "refuted" in standings:
            return "REFUTED"
        if "refuted statistically" in standings:
            return "REFUTED_STATISTICAL"
        return "INCONCLUSIVE" if self.unjudged or not self.stages else "CERTIFIED"

    @property
    def coherent_rounding(self) -> bool:
        """Whether a statistic was beyond its limit and a replay explained it."""
        return any(stage.replays and not stage.unexplained for stage in self.stages)


def check_staged(
    net: Network,
    params: Parameters,
    batch: Batch,
    witnesses: Witnesses,
    *,
    flush_to_zero: bool,
    seed: int,
    kept: Storage | None = None,
    loss_scale: float = 1.0,
) -> Staged:
    """Judge every stage. The witnesses have been checked by :func:`checked_witnesses`; ``kept`` is where they lie, and
    ``loss_scale`` what every loss was multiplied by before it went back."""
    walk = _Walk(net, params, batch, witnesses, flush_to_zero, seed, kept or storage(params.dtype.name), loss_scale)
    # What is not finite fails its stage; a warning beside that would say no more.
    with np.errstate(all="ignore"):
        walk.forward()
        of_forward = dict(walk.matrices)
        for name, one in witnesses.passes.items():
            walk.backward(name, one)
            # What one pass alone needs makes room for the next: fresh memory is dear.
            walk.matrices = dict(of_forward)
    return Staged(tuple(walk.stages), tuple(walk.unjudged))


class _Walk:
    """The state of one check: witnesses with the gaps filled that copying fills, and matrices in their forms."""

    def __init__(
        self,
        net: Network,
        params: Parameters,
        batch: Batch,
        witnesses: Witnesses,
        flush_to_zero: bool,
        seed: int,
        kept: Storage,
        loss_scale: float,
    ) -> None:
        self.loss_scale = loss_scale
        self.net, self.params, self.batch, self.witnesses, self.seed = net, params, batch, witnesses, seed
        self.kept = kept
        own = precision(params.dtype, flush_to_zero=flush_to_zero)
        self.p, self.u = own, own.u
        if params.dtype == np.float64:
            # The evaluation here rounds as much as the witness did, so the two errors add up.
            self.p = own.together_with(precision("float64"))
            self.u = unit_roundoff("float64") * float(np.sqrt(2.0))
        self.stages: list[Finding] = []
        self.count = sum(len(array) for p in witnesses.passes.values() for array in vars(p).values())
        self.count += len(witnesses.z) + len(witnesses.h)
        self.unjudged: list[str] = []
        self.matrices: dict[int, Matrix] = {}
        self.room = Room()
        self.filled = Filled(net, witnesses)
        self.z, self.h = self.filled.z, self.filled.h
        self.activated: dict[str, Activated] = {}

    # ------------------------------------------------------------------------------------------------------- forward

    def forward(self) -> None:
        shared = self._forward(self.net.trunk_layers, self.batch.x)
        for name, layers in self.net.head_layers.items():
            output = self.witnesses.outputs.get(name)
            found = self._forward(layers, shared)
            if output is not None and found is not None and found is not output:
                self.stages.append(exactly(f"outputs[{name!r}]", "output", output, found, self.p))

    def _forward(self, layers: tuple[Layer, ...], h: Array | None) -> Array | None:
        for layer in layers:
            name = layer.name
            copies = isinstance(layer.activation, LinearActivation)
            z = self.z.get(name)
            if z is None or h is None:
                self.unjudged.append(f"z[{name!r}]")
            else:
                bias = self.params[f"{name}.bias"] if layer.bias else None
                product = Product(self.matrix(h), self.matrix(self.params[f"{name}.weight"]), False, True)
                self._linear(f"z[{name!r}]", "product", z, (product,), bias)
            if z is not None:
                self.activated[name] = Activated(layer, z, self.p, self.kept, self.h.get(name))
            h = self.h.get(name)
            if z is None or h is None:
                self.unjudged.append(f"h[{name!r}]")
            elif name in self.witnesses.h and not (copies and h is z):
                self.stages.append(self.activated[name].value(f"h[{name!r}]", h))
        return h

    # ------------------------------------------------------------------------------------------------------ backward

    def backward(self, head: str | None, one: Backward) -> None:
        path = "summed" if head is None else f"per_loss[{head!r}]"
        if head is None and not one.dh and not one.dz:
            self._weighted_sum(one)
            return
        into: list[tuple[Layer, Array | None]] = []
        for name in self.net.heads if head is None else (head,):
            layers = self.net.head_layers[name]
            last = layers[-1]
            dh, output = self.filled.dh(one, last), self.h.get(last.name)
            where = f"{path}.dh[{last.name!r}]"
            if dh is None or output is None:
                self.unjudged.append(where)
            else:
                weight = self.loss_scale * (self.net.heads[name].weight if head is None else 1.0)
                self.stages.append(
                    judge_loss(
                        where, self.net.heads[name].loss, weight, len(self.net.heads), self.batch.heads[name], dh,
                        output, self.p, self.u, self.seed, self.kept,
                    )
                )  # fmt: skip
            trunk_out = self.h.get(self.net.trunk_layers[-1].name) if self.net.trunk_layers else self.batch.x
            into.append((layers[0], self._backward(path, layers, one, trunk_out)))
        if self.net.trunk_layers:
            self._input_gradient(path, one, self.net.trunk_layers[-1], into)
            self._backward(path, self.net.trunk_layers, one, self.batch.x)

    def _backward(self, path: str, layers: tuple[Layer, ...], one: Backward, x: Array | None) -> Array | None:
        """Judge dz, dW and db of these layers and dh between them; the dz of the first."""
        dz: Array | None = None
        for i in reversed(range(len(layers))):
            layer, name = layers[i], layers[i].name
            dh, dz = self.filled.dh(one, layer), self.filled.dz(one, layer)
            where = f"{path}.dz[{name!r}]"
            if dh is None or dz is None or name not in self.activated:
                self.unjudged.append(where)
            elif not (dz is dh and isinstance(layer.activation, LinearActivation)):
                self.stages.append(self.activated[name].slope(where, dz, dh))
            self._parameters(path, layer, one, dz, self.h.get(layers[i - 1].name) if i else x)
            if i:
                self._input_gradient(path, one, layers[i - 1], [(layer, dz)])
        return dz

    def _parameters(self, path: str, layer: Layer, one: Backward, dz: Array | None, h: Array | None) -> None:
        where, claimed = f"{path}.gradient['{layer.name}.weight']", one.gradient.get(f"{layer.name}.weight")
        if claimed is None or dz is None or h is None:
            self.unjudged.append(where)
        else:
            product = Product(self.matrix(dz), self.matrix(h), True, False)
            self._linear(where, "weight gradient", claimed, (product,), None)
        if not layer.bias:
            return
        where, claimed = f"{path}.gradient['{layer.name}.bias']", one.gradient.get(f"{layer.name}.bias")
        if claimed is None or dz is None:
            self.unjudged.append(where)
        else:
            self.stages.append(judge_sum(where, claimed, self.matrix(dz), self.p, self.u, self.seed, self.kept))

    def _input_gradient(self, path: str, one: Backward, layer: Layer, into: list[tuple[Layer, Array | None]]) -> None:
        """Judge ∂L/∂h of a layer from the dz of the layers that it feeds."""
        where, claimed = f"{path}.dh[{layer.name!r}]", self.filled.dh(one, layer)
        products = tuple(
            Product(self.matrix(dz), self.matrix(self.params[f"{fed.name}.weight"]))
            for fed, dz in into
            if dz is not None
        )
        if claimed is None or len(products) < len(into):
            self.unjudged.append(where)
        else:
            self._linear(where, "input gradient" if len(into) == 1 else "sum of heads", claimed, products, None)

    def _weighted_sum(self, one: Backward) -> None:
        """The summed gradient of an implementation that adds the per-loss gradients up."""
        for parameter in self.net.layout.names:
            heads = [name for name, layout in self.net.loss_layouts.items() if parameter in layout.shapes]
            parts = [
                self.witnesses.per_loss[name].gradient[parameter]
                for name in heads
                if name in self.witnesses.per_loss and parameter in self.witnesses.per_loss[name].gradient
            ]
            where, claimed = f"summed.gradient[{parameter!r}]", one.gradient.get(parameter)
            if claimed is None or len(parts) < len(heads):
                self.unjudged.append(where)
            else:
                weights = [self.net.heads[name].weight for name in heads]
                self.stages.append(judge_weighted_sum(where, claimed, parts, weights, self.p, self.kept))

    # ------------------------------------------------------------------------------------------------------- matrices

    def matrix(self, given: Array) -> Matrix:
        """The forms of an array, made once however many products it enters."""
        return self.matrices.setdefault(id(given), Matrix(given))

    def _linear(self, name: str, kind: Kind, claimed: Array, products: tuple[Product, ...], bias: Array | None) -> None:
        say("operations", len(self.stages), self.count)
        stage = Linear(claimed, products, bias, self.p, self.u, self.kept)
        self.stages.append(judge_linear(name, kind, stage, self.seed, self.room))
