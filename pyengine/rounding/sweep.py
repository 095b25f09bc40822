"""Dense layers and losses with running errors: each forward step beside the backward step that undoes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .activations import Behaviour, activation_bound, behaviour, slope_bound
from .losses import Samples, samples, scale_error, target_rows
from .precision import Precision, accumulated
from .products import matmul_bound, sum_bound
from .running import F64, Kinks, Running, row_norms, running, spectral_norm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..batch import HeadTarget
    from ..losses import Loss
    from ..parameters import Array
    from ..spec import Layer


class Weight:
    """A weight matrix (n_out, n_in) with what errors meet on their way through it and back."""

    def __init__(self, w: F64) -> None:
        self.w = w
        self.size = np.abs(w)
        self.spectral = spectral_norm(w)
        self.rows, self.columns = row_norms(w), row_norms(w.T)


@dataclass(frozen=True, eq=False)
class Step:
    """What the forward pass through one layer leaves for the backward pass."""

    layer: Layer
    weight: Weight
    h_in: Running
    z: Running
    around: Behaviour


def dense_forward(weight: Weight, bias: F64 | None, h: Running, p: Precision) -> Running:
    """z = h·Wᵀ + b: the error of h through |W|, and the rounding of the product."""
    value = h.value @ weight.w.T
    if bias is not None:
        value = value + bias
    rounding = matmul_bound(h.most, weight.w.T, p, bias)
    through = np.fmin(h.bound @ weight.size.T, h.norm[:, None] * weight.rows)
    return running(value, through + rounding, h.spread, weight.spectral * h.norm + row_norms(rounding))


def activation_forward(layer: Layer, z: Running, kinks: Kinks, p: Precision) -> tuple[Running, Behaviour]:
    """h = f(z): the error of z times the steepest slope within reach, and the evaluation of f."""
    around = behaviour(layer.activation, z.value, z.reach, kinks)
    rounding = activation_bound(layer.activation, around, z.most, p)
    # A bounded activation cannot err by more than its own range.
    through = np.fmin(around.steepness * z.bound, 2.0 * around.size)
    norm = around.steepness.max(axis=1) * z.norm + row_norms(rounding)
    return running(around.value, through + rounding, z.spread, norm), around


def activation_backward(step: Step, dh: Running, p: Precision) -> Running:
    """∂L/∂z = ∂L/∂h·f'(z): both factors err; at a kink the factor may jump; the product rounds."""
    around, z = step.around, step.z
    slope_error = np.fmin(around.curvature * z.bound, 2.0 * around.steepness) + around.jump
    added = dh.most * slope_error + slope_bound(around, z.most, dh.most, p)
    norm = around.steepness.max(axis=1) * dh.norm + row_norms(added)
    return running(dh.value * around.slope, dh.bound * around.steepness + added, dh.spread, norm)


def dense_backward(step: Step, dz: Running, p: Precision) -> tuple[F64, F64, F64, F64, Running]:
    """dW = dzᵀ·h and db = Σ dz, each with its bound, and dh = dz·W."""
    h, weight = step.h_in, step.weight
    dw_bound = dz.bound.T @ h.most + dz.most.T @ h.bound + matmul_bound(dz.most.T, h.most, p)
    db_bound = dz.bound.sum(axis=0) + sum_bound(dz.most.sum(axis=0), dz.value.shape[0], p)
    rounding = matmul_bound(dz.most, weight.w, p)
    through = np.fmin(dz.bound @ weight.size, dz.norm[:, None] * weight.columns)
    norm = weight.spectral * dz.norm + row_norms(rounding)
    dh = running(dz.value @ weight.w, through + rounding, dz.spread, norm)
    return dz.value.T @ h.value, dw_bound, dz.value.sum(axis=0), db_bound, dh


def forward(
    layers: Sequence[Layer], params: Mapping[str, Array], h: Running, kinks: Kinks, p: Precision
) -> tuple[Running, list[Step]]:
    """Through the layers, in order."""
    steps = []
    for layer in layers:
        weight = Weight(params[f"{layer.name}.weight"])
        z = dense_forward(weight, params[f"{layer.name}.bias"] if layer.bias else None, h, p)
        out, around = activation_forward(layer, z, kinks, p)
        steps.append(Step(layer, weight, h, z, around))
        h = out
    return h, steps


@dataclass(frozen=True, eq=False)
class Gradient:
    """Per parameter, the gradient as computed here and its bound."""

    value: Mapping[str, Array]
    bound: Mapping[str, Array]


def backward(steps: Sequence[Step], dh: Running, p: Precision, into: Gradient) -> Running:
    """Undo :func:`forward`: fill ``into`` with the parameters of these layers and return ∂L/∂input."""
    for step in reversed(steps):
        dz = activation_backward(step, dh, p)
        dw, dw_bound, db, db_bound, dh = dense_backward(step, dz, p)
        name = step.layer.name
        into.value[f"{name}.weight"][...], into.bound[f"{name}.weight"][...] = dw, dw_bound
        if step.layer.bias:
            into.value[f"{name}.bias"][...], into.bound[f"{name}.bias"][...] = db, db_bound
    return dh


@dataclass(frozen=True, eq=False)
class HeadLoss:
    """One loss at the outputs of its head."""

    scale: F64
    scale_error: float
    of_samples: Samples
    value: float
    bound: float
    spread: float

    def derivative(self, weight: float, p: Precision) -> Running:
        """∂(weight·L)/∂outputs, the factor of each sample rounded or divided by."""
        s = self.of_samples
        scale = weight * self.scale[:, None]
        size = np.abs(scale)
        most = np.abs(s.d) + self.spread * s.d_bound
        lost = np.where((most > 0.0) & (size > 0.0), 4.0 * p.underflow * (1.0 + size + most), 0.0)
        return running(scale * s.d, size * (s.d_bound + self.scale_error * most) + lost, self.spread)


def head_loss(
    loss: Loss, given: HeadTarget, outputs: Running, dtype: np.dtype[Any], heads: int, kinks: Kinks, p: Precision
) -> HeadLoss:
    """L = Σ c_i·l_i and its derivatives; each of the ``heads`` that is added may round the factors c_i once more."""
    n_out = outputs.value.shape[1]
    of_samples = samples(loss, outputs, target_rows(loss, given, n_out, p), dtype, kinks, p)
    scale = given.coefficients(loss, n_out)
    factor = scale_error(loss, given, heads, p)
    size = np.abs(scale)[:, None] * (np.abs(of_samples.l) + outputs.spread * of_samples.l_bound)
    terms = of_samples.l.size
    bound = (np.abs(scale)[:, None] * of_samples.l_bound).sum() + (factor + accumulated(terms, p.u)) * size.sum()
    lost = 4.0 * p.underflow * (terms + np.abs(scale).sum())
    value = float((scale[:, None] * of_samples.l).sum())
    return HeadLoss(scale, factor, of_samples, value, float(bound + lost), outputs.spread)
