"""Evidence made of what a framework itself computed, once every operation of it has been certified.

The gradients are the framework's own. The spread of each element is what a second computation of the same gradient may
differ by: ``ELEMENT_LIMIT`` standard deviations of the rounding errors of one (:mod:`pyengine.checks.blackbox`) for
each of the two, and the roundings of the factors that all samples share. Unlike the measured spread of
:mod:`pyengine.checks.evidence` it takes a few gradients' time however large the batch.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..batch import Batch, checked_batch
from ..engine import Network
from ..parameters import Array, Parameters
from ..rounding import precision
from .blackbox.program import Backward, Program
from .blackbox.statistics import COHERENT, ELEMENT_LIMIT
from .blackbox.variances import ForwardVariances, backward_variances
from .evidence import Evidence, Lazily

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
) -> Evidence:
    """The evidence for one batch; without ``per_loss`` and ``losses`` those of the engine in float64 stand for them.

    A loss is computed when it is first asked for: a step in turn needs one at a time.
    """
    batch = checked_batch(x, targets, sample_weight, n_in=net.n_in, heads=net.heads, dtype=params.dtype)
    p = precision(params.dtype, flush_to_zero=flush_to_zero)
    with np.errstate(**QUIET):
        program = Program(net, params, batch)
        forward = ForwardVariances(program, p)

    @functools.cache
    def engine() -> Any:
        return net.gradients(params, batch.x, dict(targets), sample_weight)

    def gradient(name: str) -> Parameters:
        layout = net.loss_layouts[name]
        own = Parameters(layout, np.zeros(layout.size))
        for tensor in layout.names:
            own[tensor][...] = back(name).gradient[tensor] if per_loss is None else per_loss[name][tensor]
        return own

    @functools.cache
    def back(name: str) -> Backward:
        with np.errstate(**QUIET):
            return program.backward({name: 1.0})

    def spread(name: str) -> Parameters:
        layout, own = net.loss_layouts[name], gradients[name]
        found = Parameters(layout, np.zeros(layout.size))
        with np.errstate(**QUIET):
            elements = backward_variances(forward, back(name)).elements
            for tensor in layout.names:
                found[tensor][...] = SIDES * (
                    ELEMENT_LIMIT * np.sqrt(elements.whole(tensor)) + COHERENT * p.u * np.abs(own[tensor])
                )
        return found

    def loss(name: str) -> float:
        return float(engine().losses[name] if losses is None else losses[name])

    def loss_spread(name: str) -> float:
        return SIDES * p.u * _summands(net, batch, name) * abs(loss(name))

    gradients = Lazily(net.heads, gradient)
    return Evidence(
        losses=Lazily(net.heads, loss),
        loss_spread=Lazily(net.heads, loss_spread),
        gradients=gradients,
        spread=Lazily(net.heads, spread),
        engine_32=Lazily(net.heads, lambda name: engine().per_loss[name]),
        agreement=0.0,
        truth="engine",
    )


def _summands(net: Network, batch: Batch, name: str) -> float:
    """How many terms a loss adds up, and with them the roundings of its own operations (Higham 2002, eq. 4.4)."""
    head = net.heads[name]
    n_out = head.layers[-1].n_out
    return float(batch.size * n_out if head.loss.averages_features else batch.size + n_out) + COHERENT
