"""Evidence made of what a framework itself computed, once every operation of it has been certified.

The gradients are the framework's own. The spread of each element is what a second computation of the same gradient may
differ by: ``ELEMENT_LIMIT`` standard deviations of the rounding errors of one (:mod:`pyengine.checks.blackbox`) for
each of the two, and the roundings of the factors that all samples share. Unlike the measured spread of
:mod:`pyengine.checks.evidence` it takes a few gradients' time however large the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..batch import Batch, checked_batch
from ..engine import Network
from ..parameters import Array, Parameters
from ..rounding import precision
from .blackbox.program import Program
from .blackbox.statistics import COHERENT, ELEMENT_LIMIT
from .blackbox.variances import ForwardVariances, backward_variances
from .evidence import Evidence

SIDES = 2.0
"""Both what is judged and what it is judged by were rounded."""


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
    """The evidence for one batch; without ``per_loss`` and ``losses`` those of the engine in float64 stand for them."""
    batch = checked_batch(x, targets, sample_weight, n_in=net.n_in, heads=net.heads, dtype=params.dtype)
    p = precision(params.dtype, flush_to_zero=flush_to_zero)
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        program = Program(net, params, batch)
        forward = ForwardVariances(program, p)
        gradients, spread = {}, {}
        for name, layout in net.loss_layouts.items():
            back = program.backward({name: 1.0})
            elements = backward_variances(forward, back).elements
            gradients[name] = Parameters(layout, np.zeros(layout.size))
            spread[name] = Parameters(layout, np.zeros(layout.size))
            for tensor in layout.names:
                own = back.gradient[tensor] if per_loss is None else np.asarray(per_loss[name][tensor], np.float64)
                gradients[name][tensor][...] = own
                spread[name][tensor][...] = SIDES * (
                    ELEMENT_LIMIT * np.sqrt(elements.whole(tensor)) + COHERENT * p.u * np.abs(own)
                )
    found = net.gradients(params, batch.x, dict(targets), sample_weight)
    own_losses = dict(found.losses) if losses is None else dict(losses)
    return Evidence(
        losses=own_losses,
        loss_spread={
            name: SIDES * p.u * _summands(net, batch, name) * abs(value) for name, value in own_losses.items()
        },
        gradients=gradients,
        spread=spread,
        engine_32={name: found.per_loss[name] for name in net.heads},
        agreement=0.0,
        truth="engine",
    )


def _summands(net: Network, batch: Batch, name: str) -> float:
    """How many terms a loss adds up, and with them the roundings of its own operations (Higham 2002, eq. 4.4)."""
    head = net.heads[name]
    n_out = head.layers[-1].n_out
    return float(batch.size * n_out if head.loss.averages_features else batch.size + n_out) + COHERENT
