"""Evidence made of what a framework itself computed, once every operation of it has been certified.

The gradients are the framework's own. The spread of each element is what a second computation of the same gradient may
differ by: ``ELEMENT_LIMIT`` standard deviations of the rounding errors of one (:mod:`pyengine.checks.blackbox`) for
each of the two, and the roundings of the factors that all samples share. Unlike the measured spread of
:mod:`pyengine.checks.evidence` it takes a few gradients' time however large the batch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..batch import Batch, checked_batch
from ..engine import Network
from ..gradients import Gradients
from ..parameters import Array, Parameters, empty, wide_of
from ..rounding import precision
from ..spec import Head
from .blackbox.elements import Elements
from .blackbox.narrow import BLOCK
from .blackbox.program import Backward, Program
from .blackbox.statistics import COHERENT, ELEMENT_LIMIT
from .blackbox.variances import ForwardVariances, backward_variances
from .evidence import Evidence, Lazily

F64 = npt.NDArray[np.float64]

SIDES = 2.0
"""Both what is judged and what it is judged by were rounded."""

QUIET: dict[str, Any] = dict.fromkeys(("over", "under", "invalid", "divide"), "ignore")


def witnessed_evidence(
    net: Network,
    params: Parameters,
    x: Array,
    targets: Mapping[str, Array],
    sample_weight: Any = None,
    *,
    per_loss: Mapping[str, Mapping[str, Array]] | None = None,
    losses: Mapping[str, float] | None = None,
    flush_to_zero: bool = False,
    forward: ForwardVariances | None = None,
) -> Evidence:
    """The evidence for one batch; without ``per_loss`` and ``losses`` those of the engine in float64 stand for them.

    A loss is computed when it is first asked for: a step in turn needs one at a time. ``forward`` is what an earlier
    check of the same parameters and batch made already.
    """
    batch = checked_batch(x, targets, sample_weight, n_in=net.n_in, heads=net.heads, dtype=params.dtype)
    p = precision(params.dtype, flush_to_zero=flush_to_zero)
    if forward is None:
        with np.errstate(**QUIET):
            forward = ForwardVariances(Program(net, params, batch), p)
    made = _Made(net, params, batch, sample_weight, per_loss, losses, forward)
    return Evidence(
        losses=Lazily(net.heads, made.loss),
        loss_spread=Lazily(net.heads, made.loss_spread),
        gradients=Lazily(net.heads, made.gradient),
        spread=Lazily(net.heads, made.spread),
        engine_32={},
        agreement=0.0,
        truth="engine",
        quick=made,
    )


class _Made:
    """What the evidence is made of, as far as it was asked for. Nothing here refers to what refers to it: a circle
    would keep all of it until Python looks for such."""

    def __init__(
        self, net: Network, params: Parameters, batch: Batch, sample_weight: Any,
        per_loss: Mapping[str, Mapping[str, Array]] | None, losses: Mapping[str, float] | None,
        forward: ForwardVariances,
    ) -> None:  # fmt: skip
        self.net, self.params, self.batch, self.sample_weight = net, params, batch, sample_weight
        self.per_loss, self.losses, self.forward, self.u = per_loss, losses, forward, forward.p.u
        self._gradients: dict[str, Parameters] = {}
        self._elements: dict[str, Elements] = {}
        self._spread: dict[str, Parameters] = {}
        self._looked: dict[str, tuple[npt.NDArray[np.intp], tuple[F64, F64]]] = {}

    @functools.cached_property
    def engine(self) -> Gradients:
        targets = {name: head.target for name, head in self.batch.heads.items()}
        return self.net.gradients(self.params, self.batch.x, targets, self.sample_weight, summed=False)

    def gradient(self, name: str) -> Parameters:
        if name not in self._gradients:
            given: Mapping[str, Array] = self._back(name).gradient if self.per_loss is None else self.per_loss[name]
            layout = self.net.loss_layouts[name]
            if not isinstance(given, Parameters) or given.layout is not layout:
                given = wide_of(layout, given)
            self._gradients[name] = given
        return self._gradients[name]

    def elsewhere(self, name: str, at: Parameters) -> Parameters:
        """The gradient of one loss at other parameters, by the engine in the working precision."""
        return self._from(0, self.batch.x, name, at)

    def looked_elsewhere(self, name: str, at: Parameters, some: npt.NDArray[np.intp]) -> F64:
        """The same at a few elements of the trunk: those of its last layer need no gradient of the layers before."""
        net, last = self.net, len(self.net.trunk) - 1
        begin = net.layout.offsets[f"{net.trunk_layers[last].name}.weight"]
        if last and (some >= begin).all():
            before = Network(net.n_in, [], {"h": Head(net.trunk[:last], "mse")})
            h = before.forward(Parameters(before.layout, at.flat[:begin]), self.batch.x)["h"]
            if np.isfinite(h).all():
                return np.asarray(self._from(last, h, name, at).flat[some - begin], np.float64)
        return np.asarray(self.elsewhere(name, at).flat[some], np.float64)

    def _from(self, first: int, x: Array, name: str, at: Parameters) -> Parameters:
        """The gradient of one loss for the shared layers from ``first`` on, whose input is ``x``, and for its head."""
        net, head, given = self.net, self.net.heads[name], self.batch.heads[name]
        begin = net.layout.offsets[f"{net.trunk_layers[first].name}.weight"]
        alone = Network(x.shape[1], net.trunk[first:], {name: Head(head.layers, head.loss)})
        names = [tensor for tensor in net.loss_layouts[name].names if net.layout.offsets[tensor] >= begin]
        own = dict(zip(alone.layout.names, map(at.__getitem__, names), strict=True))
        return alone.summed_gradient(alone.parameters(own), x, {name: given.target}, given.weights)

    def _back(self, name: str) -> Backward:
        with np.errstate(**QUIET):
            return self.forward.program.backward({name: 1.0})

    def elements(self, name: str) -> Elements:
        if name not in self._elements:
            with np.errstate(**QUIET):
                self._elements[name] = backward_variances(self.forward, self._back(name)).elements
        return self._elements[name]

    def spread(self, name: str) -> Parameters:
        if name not in self._spread:
            layout, own = self.net.loss_layouts[name], self.gradient(name)
            found = empty(layout, np.dtype(np.float64))
            with np.errstate(**QUIET):
                for tensor in layout.names:
                    _allowed(self.elements(name).whole(tensor), own[tensor], self.u, found[tensor])
            self._spread[name] = found
        return self._spread[name]

    def norm(self, name: str, tensor: str) -> float:
        """By the triangle inequality, from the sum of the variances alone."""
        with np.errstate(**QUIET):
            size = float(np.linalg.norm(self.gradient(name)[tensor]))
            deviation = math.sqrt(self.elements(name).sum(tensor))
        return SIDES * (ELEMENT_LIMIT * deviation + COHERENT * self.u * size)

    def looked(self, name: str, some: npt.NDArray[np.intp]) -> tuple[F64, F64]:
        """A gradient and its spread at a few elements; the last ones are kept."""
        if name not in self._looked or self._looked[name][0] is not some:
            self._looked[name] = (some, self._look(name, some))
        return self._looked[name][1]

    def _look(self, name: str, some: npt.NDArray[np.intp]) -> tuple[F64, F64]:
        if name in self._spread:
            return self.gradient(name).flat[some], self._spread[name].flat[some]
        own, variance, layout = np.empty(some.size), np.empty(some.size), self.net.loss_layouts[name]
        with np.errstate(**QUIET):
            of, back = self.elements(name), self._back(name)
            for tensor, start in layout.offsets.items():
                shape = layout.shapes[tensor]
                here = (some >= start) & (some < start + math.prod(shape))
                if not here.any():
                    continue
                at = some[here] - start
                if len(shape) == 2:
                    own[here], variance[here] = of.some(tensor, *np.divmod(at, shape[1]))
                else:
                    own[here] = back.gz[tensor.rpartition(".")[0]].sum(axis=0)[at]
                    variance[here] = of.whole(tensor)[at]
            if self.per_loss is not None:
                own = self.gradient(name).flat[some]
            spread = np.empty(some.size)
            _allowed(variance, own, self.u, spread)
        return own, spread

    def loss(self, name: str) -> float:
        return float(self.engine.losses[name] if self.losses is None else self.losses[name])

    def loss_spread(self, name: str) -> float:
        return SIDES * self.u * _summands(self.net, self.batch, name) * abs(self.loss(name))


def _allowed(variance: F64, gradient: Array, u: float, out: F64) -> None:
    """SIDES·(ELEMENT_LIMIT·√variance + COHERENT·u·|gradient|), block by block in the cache."""
    v, g, found = variance.reshape(-1), gradient.reshape(-1), out.reshape(-1)
    some = np.empty(min(BLOCK, found.size))
    for start in range(0, found.size, BLOCK):
        here = slice(start, min(start + BLOCK, found.size))
        size = some[: here.stop - start]
        np.abs(g[here], out=size)
        size *= SIDES * COHERENT * u
        np.sqrt(v[here], out=found[here])
        found[here] *= SIDES * ELEMENT_LIMIT
        found[here] += size


def _summands(net: Network, batch: Batch, name: str) -> float:
    """How many terms a loss adds up, and with them the roundings of its own operations (Higham 2002, eq. 4.4)."""
    head = net.heads[name]
    n_out = head.layers[-1].n_out
    return float(batch.size * n_out if head.loss.averages_features else batch.size + n_out) + COHERENT
