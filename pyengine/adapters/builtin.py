"""Without a framework: the engine takes the step itself, in float32, and is judged by the NumPy reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..engine import Network
from ..optimizers import Adam
from ..parameters import Array, Parameters
from ..witnesses import Log, Step


def observe_step(network: Network, params: Parameters, x: Array, targets: Mapping[str, Array]) -> Step:
    """One Adam step on the engine's own summed gradient, its result rounded to the dtype of the parameters."""
    rule = Adam()
    result = network.gradients(params, x, targets)
    before = params.flat.astype(np.float64)
    moved, _ = rule.step(before, result.summed.flat, rule.start(before))
    return Step(
        framework="the built-in engine",
        call="gradients(); Adam().step()",
        network=network,
        x=x,
        targets=dict(targets),
        before=params,
        after=Parameters(network.layout, moved.astype(params.dtype)),
        gradient=Parameters(network.layout, result.summed.flat.astype(np.float64)),
        gradient_source="the engine's fused float32 pass",
        gradient_roundings=0,
        optimizer=rule,
        native={name: name for name in network.layout.names},
        objective={name: head.loss.name for name, head in network.heads.items()},
        log=Log(result.total_loss, dict(result.losses)),
        notes=("The engine is judged by the NumPy reference here; no framework took part.",),
    )
