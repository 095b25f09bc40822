"""The largest deviation that rounding can cause, whatever it conspires to: every operation at its rigorous bound.

To first order ⟨R, ĝ - g⟩ = Σ amplitude·e over all rounding errors e, so it cannot exceed Σ |amplitude|·τ. No statistics
enter: this holds for copies and constants too, where errors add up in step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...rounding import accumulated, exact, matmul_bound, sum_bound
from ...rounding.losses import samples, target_rows
from ...rounding.variance import SCALE_PRODUCTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...rounding import Precision
    from .program import Amplitudes, Backward, Program
    from .variances import BackwardVariances, ForwardVariances

F64 = npt.NDArray[np.float64]


def worst_case(
    program: Program,
    back: Backward,
    forward: ForwardVariances,
    backward: BackwardVariances,
    amplitudes: Amplitudes,
    direction: Mapping[str, F64],
    p: Precision,
) -> float:
    """Σ |amplitude|·τ for ⟨direction, computed gradient⟩."""
    total = 0.0

    def add(amplitude: F64 | None, bound: F64) -> None:
        nonlocal total
        if amplitude is not None:
            # 0·∞ is nothing: what nobody looks at may overflow.
            total += float(np.where(amplitude == 0.0, 0.0, np.abs(amplitude) * bound).sum())

    for visit in program.visits():
        name = visit.layer.name
        if name not in back.gz:
            continue
        gz = back.gz[name]
        add(amplitudes.z.get(name), matmul_bound(visit.h_in, visit.w.T, p, visit.b))
        for site, variances in (("h", forward.h), ("gz", backward.gz)):
            # Activations have a bound and no model: their variance is that of the uniform distribution on it.
            if name in variances:
                add(getattr(amplitudes, site).get(name), np.sqrt(3.0 * variances[name]))
        if name in backward.gh_in:
            merged = accumulated(len(back.weights), p.u) * np.abs(gz) @ np.abs(visit.w)
            add(amplitudes.gh_in.get(name), matmul_bound(gz, visit.w, p) + merged)
        add(direction.get(f"{name}.weight"), matmul_bound(gz.T, visit.h_in, p))
        if visit.layer.bias:
            add(direction.get(f"{name}.bias"), sum_bound(np.abs(gz).sum(axis=0), gz.shape[0], p))
    for name, weight in back.weights.items():
        add(amplitudes.seed.get(name), abs(weight) * _seed_bound(program, name, p))
    return total


def _seed_bound(program: Program, name: str, p: Precision) -> F64:
    """Bound of ∂L/∂outputs of an unweighted loss, but for the factor that all samples share."""
    loss, given, z = program.net.heads[name].loss, program.batch.heads[name], program.heads[name][-1].h
    rows = target_rows(loss, given, z.shape[1], p)
    own = samples(loss, exact(z, 1.0), rows, program.dtype, "any", p)
    factor = np.abs(program.curvature[name].factor)
    lost = 4.0 * p.underflow * (1.0 + factor + np.abs(own.d))
    return np.asarray(factor * own.d_bound + SCALE_PRODUCTS * p.u * np.abs(program.seeds[name]) + lost)
