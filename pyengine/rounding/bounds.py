"""Bounds on the gradients of a whole network, for every implementation that evaluates the textbook program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..batch import Batch, checked_batch
from ..errors import sentence
from ..parameters import Layout, Parameters
from .compare import Excess, exceeds, worst
from .precision import EVALUATION, FLOAT64_ROUNDOFF, Precision, accumulated, precision
from .products import matmul_bound
from .running import F64, Kinks, Running, ambiguous, exact
from .sweep import Gradient, HeadLoss, Step, backward, forward, head_loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..engine import Network


@dataclass(frozen=True, eq=False)
class GradientBounds:
    """Bounds on |computed - exact| for all that a gradient computation returns, under the names of :class:`Gradients`.

    ``outputs`` bounds the heads' outputs (batch, n_out). ``ambiguous`` counts, per layer, the pre-activations so
    close to a kink that rounding may put them on either side; the bounds allow both.
    """

    losses: dict[str, float]
    total_loss: float
    per_loss: dict[str, Parameters]
    summed: Parameters
    gramian: F64
    outputs: dict[str, F64]
    ambiguous: dict[str, int]

    def check(self, actual: Any, expected: Any) -> list[Excess]:
        """The worst entry of each array that exceeds its bound; empty when all hold. See :func:`exceeds`."""
        return exceeds(actual, expected, self)

    def worst(self, actual: Any, expected: Any) -> Excess:
        """The entry with the largest ratio of error to bound, within or not."""
        return worst(actual, expected, self)


def gradient_bounds(
    net: Network,
    params: Mapping[str, Any],
    x: Any,
    targets: Mapping[str, Any],
    sample_weight: Any = None,
    *,
    dtype: npt.DTypeLike | None = None,
    against: npt.DTypeLike | None = None,
    flush_to_zero: bool = False,
    kinks_at_zero: Kinks = "convention",
) -> GradientBounds:
    """How far an implementation's gradients may lie from the truth, or from another implementation's.

    The first five arguments are those of :meth:`Network.gradients`. ``dtype`` is the implementation's precision
    (default: that of the parameters, which it may widen). The bounds hold for products in any order, with or without
    fused multiply-add, for derivatives from z or from h, for 1/N rounded or divided by, and for weights within the
    loss or after.

    ``against`` is the precision of the other side: None for exact numbers (the oracle, balls; for float32 also a
    float64 reference), a dtype for another implementation. ``flush_to_zero`` allows subnormal numbers to vanish.
    ``kinks_at_zero="any"`` allows any one-sided derivative at an exact zero, where ``"convention"`` insists on
    pyengine's own.

    Refuses what :meth:`Network.gradients` refuses, and a ``dtype`` narrower than the parameters' (``ValueError``).
    Assumes that nothing overflows in the implementation: where it might, the bound is infinite.
    Source: docs/tolerances.md; the running error analysis is that of Higham 2002, section 3.3.

    >>> import numpy as np, pyengine as pe
    >>> net = pe.Network(n_in=1, trunk=[], heads={"a": pe.Head([pe.Dense(1)], loss="mse")})
    >>> params = net.parameters({"heads.a.0.weight": np.array([[3.0]]), "heads.a.0.bias": np.array([1.0])})
    >>> bounds = pe.rounding.gradient_bounds(net, params, np.array([[2.0]]), {"a": np.array([[5.0]])})
    >>> bool(0.0 < bounds.summed["heads.a.0.weight"][0, 0] < 1e-13)
    True
    """
    own = net._own(params)
    batch = checked_batch(x, targets, sample_weight, n_in=net.n_in, heads=net.heads, dtype=own.dtype)
    chosen = own.dtype if dtype is None else np.dtype(dtype)
    p = precision(chosen, flush_to_zero=flush_to_zero)
    if np.finfo(chosen).eps > np.finfo(own.dtype).eps:
        raise ValueError(
            sentence(
                "dtype",
                got=f"is {chosen}, narrower than the parameters' {own.dtype}",
                expected="the parameters' dtype or a wider one",
                remedy="Round the parameters first: that changes the exact gradient.",
            )
        )
    if kinks_at_zero not in {"convention", "any"}:
        raise ValueError(
            sentence("kinks_at_zero", got=f"is {kinks_at_zero!r}", expected='"convention" or "any"', remedy="Use one.")
        )
    if against is not None:
        p = p.together_with(precision(against))
    # The values carried are a float64 implementation too: as far from the truth as any, unless the bound covers both.
    spread = 1.0 if p.u >= precision(chosen).u + FLOAT64_ROUNDOFF or chosen == np.float32 else 2.0
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return _Sweep(net, own, batch, kinks_at_zero, p, spread).bounds()


class _Sweep:
    """One forward pass through trunk and heads, then one backward pass per loss (two where its weight is below 1)."""

    def __init__(self, net: Network, own: Parameters, batch: Batch, kinks: Kinks, p: Precision, spread: float) -> None:
        self.net, self.batch, self.p = net, batch, p
        params = Parameters(net.layout, own.flat.astype(np.float64, copy=False))
        h, self.trunk = forward(net.trunk_layers, params, exact(batch.x, spread), kinks, p)
        self.heads: dict[str, list[Step]] = {}
        self.outputs: dict[str, Running] = {}
        self.losses: dict[str, HeadLoss] = {}
        for name, layers in net.head_layers.items():
            self.outputs[name], self.heads[name] = forward(layers, params, h, kinks, p)
            self.losses[name] = head_loss(
                net.heads[name].loss, batch.heads[name], self.outputs[name], own.dtype, len(net.heads), kinks, p
            )
        self.kinks = kinks
        self.spread = spread

    def bounds(self) -> GradientBounds:
        gradients = {name: self._gradient(name, 1.0) for name in self.net.heads}
        return GradientBounds(
            losses={name: _covered(loss.bound, loss.value) for name, loss in self.losses.items()},
            total_loss=self._total_loss(),
            per_loss={name: _finished(layout, gradients[name]) for name, layout in self.net.loss_layouts.items()},
            summed=self._summed(gradients),
            gramian=self._gramian(gradients),
            outputs={name: _cover(out.bound, out.value) for name, out in self.outputs.items()},
            ambiguous=self._ambiguous(),
        )

    def _gradient(self, name: str, weight: float) -> Gradient:
        layout = self.net.loss_layouts[name]
        gradient = Gradient(*(Parameters(layout, np.empty(layout.size)) for _ in range(2)))
        dh = backward(self.heads[name], self.losses[name].derivative(weight, self.p), self.p, gradient)
        backward(self.trunk, dh, self.p, gradient)
        return gradient

    def _summed(self, gradients: dict[str, Gradient]) -> Parameters:
        """Σ |weight|·bound covers the sum of per-loss gradients, but not the underflow of a small weight in it."""
        total = Gradient(*(Parameters(self.net.layout, np.zeros(self.net.layout.size)) for _ in range(2)))
        for name, head in self.net.heads.items():
            within = gradients[name] if abs(head.weight) >= 1.0 else self._gradient(name, head.weight)
            for parameter, bound in gradients[name].bound.items():
                after = abs(head.weight) * bound
                # The products weight·gradient and their sum underflow last.
                lost = np.where(after > 0.0, 4.0 * self.p.underflow, 0.0)
                total.bound[parameter][...] += np.maximum(after, within.bound[parameter]) + lost
                total.value[parameter][...] += head.weight * gradients[name].value[parameter]
        return _finished(self.net.layout, total)

    def _total_loss(self) -> float:
        heads = self.net.heads
        value = sum(head.weight * self.losses[name].value for name, head in heads.items())
        size = sum(
            abs(head.weight) * (abs(self.losses[name].value) + self.spread * self.losses[name].bound)
            for name, head in heads.items()
        )
        bound = sum(abs(head.weight) * self.losses[name].bound for name, head in heads.items())
        bound += accumulated(len(heads) + 2, self.p.u) * size + 4.0 * self.p.underflow * len(heads)
        return _covered(bound, value)

    def _gramian(self, gradients: dict[str, Gradient]) -> F64:
        size = Layout(self.net.trunk_layers).size
        value, bound = (
            np.array([getattr(g, part).flat[:size] for g in gradients.values()]).reshape(len(gradients), size)
            for part in ("value", "bound")
        )
        most = np.abs(value) + self.spread * bound
        through = bound @ most.T
        return _cover(through + through.T + matmul_bound(most, most.T, self.p), value @ value.T)

    def _ambiguous(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for step in [*self.trunk, *(step for steps in self.heads.values() for step in steps)]:
            if step.layer.activation.name in {"relu", "leaky_relu", "elu"}:
                counts[step.layer.name] = int(ambiguous(step.z.value, step.z.reach, self.kinks).sum())
        return counts


def _finished(layout: Layout, gradient: Gradient) -> Parameters:
    finished = Parameters(layout, np.empty(layout.size))
    for name in layout.names:
        finished[name][...] = _cover(gradient.bound[name], gradient.value[name])
    return finished


def _cover(bound: F64, value: F64) -> F64:
    """Cover the evaluation of the bound in float64, and the rounding of the other side to float64."""
    covered = EVALUATION * (bound + FLOAT64_ROUNDOFF * (np.abs(value) + 2.0 * bound))
    return np.where(np.isnan(covered), np.inf, covered)


def _covered(bound: float, value: float) -> float:
    return float(_cover(np.asarray(bound), np.asarray(value)))
