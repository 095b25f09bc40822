"""The per-loss gradients that a step is judged by, with their rounding spread.

The gradients come from the engine in float64 and, independently, from the NumPy reference. The rounding spread says by
how much a float32 program may differ from them. For each element of a gradient it is

    Σ_b |c_b|·max_j |g_bj(float32) - g_bj(float64)|  +  batch·u·Σ_b |c_b|·|g_b(float64)|

with g_b the gradient of sample b, c_b the factor with which the reduction takes it (1/batch for a mean), u = 2⁻²⁴.

The first sum is *measured*. The engine computes every sample alone in both precisions; the differences are added up in
magnitude, so nothing is gained from their cancelling; and each counts with the largest value that it has at any unit j
of the layer (for the same input of the layer, among the units that the sample reaches at all), so nothing is gained
from one unit's luck. The second is a *theorem*: adding up ``batch`` terms in floating point, in any order, costs at
most batch - 1 roundings of Σ|terms|, and scaling them one more (Higham 2002, eq. 4.4; without restriction, Jeannerod &
Rump 2013). A loss is treated alike; one that averages over its outputs sums batch·n_out terms, a cross-entropy n_out
exponentials before its batch terms. What remains an assumption is that the framework rounds within one sample no worse
than the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from .. import oracle, reference
from ..batch import checked_batch
from ..engine import Network
from ..parameters import Array, Parameters
from ..rounding import gradient_bounds
from ..witnesses import UNIT

Vector = npt.NDArray[np.float64]
Truth = Literal["engine", "reference"]
Some = slice | npt.NDArray[np.intp]
"""Some elements of a flat vector."""
T = TypeVar("T")

BLOCK = 1 << 15
"""Numbers that are taken at a time where there are many: they stay in the cache from one operation to the next."""


class Lazily(Mapping[str, T]):
    """Values by name, each made when it is first asked for."""

    def __init__(self, names: Iterable[str], make: Callable[[str], T]) -> None:
        self._names, self._make, self._made = tuple(names), make, dict[str, T]()

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Quick(Protocol):
    """What some evidence can tell for less than all of it costs."""

    def looked(self, loss: str, some: npt.NDArray[np.intp]) -> tuple[Vector, Vector]:
        """The gradient of a loss and its spread at a few elements."""
        ...

    def norm(self, loss: str, tensor: str) -> float:
        """At least the 2-norm of the spread of one tensor."""
        ...

    def elsewhere(self, loss: str, at: Parameters) -> Parameters:
        """The engine's gradient of a loss at other parameters, in the working precision."""
        ...

    def looked_elsewhere(self, loss: str, at: Parameters, some: npt.NDArray[np.intp]) -> Vector:
        """The same at a few elements."""
        ...


@dataclass(frozen=True, eq=False)
class Evidence:
    """Per head: the loss and its gradient in float64 (trunk first, then that head), and the rounding spread of each.

    ``engine_32`` is the engine's float32 result for the whole batch, empty where it was not computed. ``agreement`` is
    the largest |engine - reference| of the two float64 routes, in units of the spread: the yardstick is worth something
    only while this is far below 1. ``total`` is the gradient of the configured sum of all losses, where it was
    certified and is the very one that was applied: no other route has to be allowed for.
    """

    losses: Mapping[str, float]
    loss_spread: Mapping[str, float]
    gradients: Mapping[str, Parameters]
    spread: Mapping[str, Parameters]
    engine_32: Mapping[str, Parameters]
    agreement: float
    truth: Truth
    quick: Quick | None = None
    total: Parameters | None = None

    def at(self, loss: str, some: Some) -> tuple[Vector, Vector]:
        """The gradient of a loss and its spread at some elements of the trunk, which comes first in every layout."""
        if self.quick is not None and not isinstance(some, slice):
            return self.quick.looked(loss, some)
        return self.gradients[loss].flat[some], self.spread[loss].flat[some]

    def norm(self, loss: str, tensor: str) -> float:
        """At least the 2-norm of the spread of one tensor."""
        return float(np.linalg.norm(self.spread[loss][tensor])) if self.quick is None else self.quick.norm(loss, tensor)

    def moved(self, at: Parameters) -> Evidence | None:
        """Gradients at parameters a step away, with the spread from here; None where they take new evidence."""
        if self.quick is None:
            return None
        moved = _Moved(self.quick, at)
        return replace(self, gradients=Lazily(self.gradients, moved.gradient), quick=moved, total=None)

    def trunk(self, size: int) -> Vector:
        """(K, size): the per-loss gradients of the trunk, the Jacobian."""
        return np.stack([g.flat[:size] for g in self.gradients.values()])

    def trunk_spread(self, size: int) -> Vector:
        """(K, size): their rounding spread."""
        return np.stack([s.flat[:size] for s in self.spread.values()])


class _Moved:
    """:class:`Quick` at parameters a step away."""

    def __init__(self, start: Quick, at: Parameters) -> None:
        self.start, self.place = start, at
        self._found: dict[str, Parameters] = {}
        self._looked: dict[str, tuple[npt.NDArray[np.intp], Vector]] = {}

    def gradient(self, loss: str) -> Parameters:
        if loss not in self._found:
            self._found[loss] = self.start.elsewhere(loss, self.place)
        return self._found[loss]

    def looked(self, loss: str, some: npt.NDArray[np.intp]) -> tuple[Vector, Vector]:
        if loss not in self._looked or self._looked[loss][0] is not some:
            self._looked[loss] = some, self.start.looked_elsewhere(loss, self.place, some)
        return self._looked[loss][1], self.start.looked(loss, some)[1]

    def norm(self, loss: str, tensor: str) -> float:
        return self.start.norm(loss, tensor)

    def elsewhere(self, loss: str, at: Parameters) -> Parameters:
        return self.start.elsewhere(loss, at)

    def looked_elsewhere(self, loss: str, at: Parameters, some: npt.NDArray[np.intp]) -> Vector:
        return self.start.looked_elsewhere(loss, at, some)


def gather_evidence(
    net: Network, params: Parameters, x: Array, targets: Mapping[str, Array], *, truth: Truth = "engine"
) -> Evidence:
    """Compute the evidence for one batch at float32 parameters.

    ``truth`` names the route whose gradients count: ``"engine"``, or ``"reference"`` where the engine itself is judged.
    Raises what ``Network.gradients`` raises.
    """
    wide = Parameters(net.layout, params.flat.astype(np.float64))
    wide_x, wide_targets = _widened(x), {name: _widened(target) for name, target in targets.items()}
    by_engine = net.gradients(wide, wide_x, wide_targets)
    by_reference = reference.gradients(net, wide, wide_x, wide_targets)
    narrow = net.gradients(params, x, targets)
    chosen = by_engine if truth == "engine" else by_reference
    spread, loss_spread = _spread(net, params, wide, x, targets)
    gaps = [
        _largest_ratio(np.abs(by_engine.per_loss[name].flat - by_reference.per_loss[name].flat), spread[name].flat)
        for name in net.heads
    ]
    return Evidence(
        losses=dict(chosen.losses),
        loss_spread=loss_spread,
        gradients={name: chosen.per_loss[name] for name in net.heads},
        spread=spread,
        engine_32={name: narrow.per_loss[name] for name in net.heads},
        agreement=max(gaps),
        truth=truth,
    )


def bounded_evidence(
    net: Network,
    params: Parameters,
    x: Array,
    targets: Mapping[str, Array],
    sample_weight: Mapping[str, Array] | None = None,
) -> Evidence:
    """The evidence with rigorous bounds (:mod:`pyengine.rounding`) in the place of the measured spread.

    Nothing is assumed of the framework but that its operations are correctly rounded or as its documentation says; the
    price is that the bounds are some 20 times the spread. Parameters may be float32, judged by the engine in float64,
    or float64, judged by the double-double oracle.
    """
    narrow = net.gradients(params, x, targets, sample_weight)
    if params.dtype == np.float64:
        exact = oracle.gradients(net, params, x, targets, sample_weight)
    else:
        wide = Parameters(net.layout, params.flat.astype(np.float64))
        exact = net.gradients(
            wide, _widened(x), {name: _widened(target) for name, target in targets.items()}, sample_weight
        )
    # Subnormal numbers may vanish, as JAX and TensorFlow let them: it costs nothing that one could see.
    bounds = gradient_bounds(net, params, x, targets, sample_weight, flush_to_zero=True, kinks_at_zero="any")
    return Evidence(
        losses=dict(exact.losses),
        loss_spread=dict(bounds.losses),
        gradients={name: exact.per_loss[name] for name in net.heads},
        spread={name: bounds.per_loss[name] for name in net.heads},
        engine_32={name: narrow.per_loss[name] for name in net.heads},
        agreement=0.0,
        truth="engine",
    )


def _spread(
    net: Network, params: Parameters, wide: Parameters, x: Array, targets: Mapping[str, Array]
) -> tuple[dict[str, Parameters], dict[str, float]]:
    batch = checked_batch(x, targets, None, n_in=net.n_in, heads=net.heads, dtype=params.dtype)
    unit = UNIT[str(params.dtype)]
    factors, summands = {}, {}
    for name, head in net.heads.items():
        n_out = head.layers[-1].n_out
        summands[name] = batch.size * n_out if head.loss.averages_features else batch.size + n_out
        alone = n_out if head.loss.averages_features and head.loss.reduction != "sum" else 1
        factors[name] = np.abs(batch.heads[name].coefficients(head.loss, n_out)) * alone
    spread = {name: Parameters(layout, np.zeros(layout.size)) for name, layout in net.loss_layouts.items()}
    loss_spread = dict.fromkeys(net.heads, 0.0)
    narrow = net.empty_gradients(params.dtype, summed=False)
    exact = net.empty_gradients(np.float64, summed=False)
    for b in range(batch.size):
        one = slice(b, b + 1)
        net.gradients(params, x[one], {name: target[one] for name, target in targets.items()}, summed=False, out=narrow)
        net.gradients(
            wide,
            _widened(x[one]),
            {name: _widened(target[one]) for name, target in targets.items()},
            summed=False,
            out=exact,
        )
        for name in net.heads:
            factor = float(factors[name][b])
            for tensor, g64 in exact.per_loss[name].items():
                measured = _peak(narrow.per_loss[name][tensor], g64)
                spread[name][tensor][...] += factor * (measured + batch.size * unit * np.abs(g64))
            loss = exact.losses[name]
            loss_spread[name] += factor * (abs(narrow.losses[name] - loss) + summands[name] * unit * abs(loss))
    return spread, loss_spread


def _peak(g32: Array, g64: Vector) -> Vector:
    """The largest |g32 - g64| over the units of a layer (the first axis), given to every unit that has a gradient."""
    return np.asarray(np.where((g32 != 0.0) | (g64 != 0.0), np.abs(g32 - g64).max(axis=0), 0.0))


def _widened(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _largest_ratio(difference: Vector, spread: Vector) -> float:
    """max difference/spread, with 0/0 = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(difference == 0.0, 0.0, difference / spread)
    return float(np.max(ratio, initial=0.0))
