"""Training steps for the tests of the checks: a correct one by the built-in engine, and with something planted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import pyengine as pe
from pyengine import demo
from pyengine.checks.evidence import Evidence, gather_evidence
from pyengine.parameters import Parameters
from pyengine.witnesses import Step


def correct_step(batch: int = 16, seed: int = 0) -> Step:
    """One step of the built-in engine on real digits."""
    x, targets = demo.draw(seed, batch)
    return demo.ROUTES["builtin"](x, targets, seed)


def evidence_of(step: Step) -> Evidence:
    return gather_evidence(step.network, step.before, step.x, step.targets, truth="reference")


def with_gradient(step: Step, coefficients: dict[str, float], changes: Any = None) -> Step:
    """The step with Σ coefficient·∇loss as its applied gradient, computed in float32 by the engine itself."""
    heads = {name: pe.Head(h.layers, h.loss, coefficients[name]) for name, h in step.network.heads.items()}
    net = pe.Network(step.network.n_in, step.network.trunk, heads)
    flat = net.summed_gradient(step.before, step.x, step.targets).flat.astype(np.float64)
    return replace(step, gradient=Parameters(step.network.layout, flat if changes is None else changes(flat)))


def moved_by(step: Step, rule: pe.Adam | pe.SGD, gradients: list[dict[str, float]], *, apart: bool = False) -> Step:
    """The step with ``after`` as one optimizer leaves it that meets the given sums in turn.

    With ``apart``, each sum has an optimizer of its own, and all are taken at the parameters before.
    """
    before = step.before.flat.astype(np.float64)
    here, state, total = before, rule.start(before), np.zeros_like(before)
    for coefficients in gradients:
        at = replace(step, before=Parameters(step.network.layout, here.astype(np.float32)))
        applied = with_gradient(at, coefficients).gradient.flat
        if apart:
            total += rule.step(before, applied, rule.start(before))[0] - before
        else:
            here, state = rule.step(here, applied, state)
    after = before + total if apart else here
    return replace(step, optimizer=rule, after=Parameters(step.network.layout, after.astype(np.float32)))
