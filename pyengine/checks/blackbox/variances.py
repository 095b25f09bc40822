"""The variance of the rounding error of each operation, and what the errors do to a gradient.

Products and sums: roundings independent of one another and of mean zero, uniform in ±u of what they round, terms added
one after the other in random order (Higham & Mary 2019; Ipsen & Zhou 2020). Everything else: uniform within its
rigorous bound. An envelope on data without symmetry; docs/tolerances.md, section 7, states what breaks it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...activations import Linear, ReLU
from ...rounding import activation_bound, behaviour, exact, slope_bound
from ...rounding.losses import samples, target_rows
from .elements import Elements, Weight
from .narrow import Side, linear_form, weighted_square

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ...rounding import Behaviour, Precision
    from .program import Amplitudes, Backward, Program, Visit

F64 = npt.NDArray[np.float64]


def product_variance(
    left: Side, right: Side, product: F64, p: Precision, bias: F64 | None = None, entering: F64 | None = None
) -> F64:
    """Of A·B (+ bias), elementwise: (u²/3)·[(n/6 + 1)·Q + (n/3 + 1)·Z² + Z₀²], Q = A²·B² + bias², Z₀ = A·B.

    ``left`` has the squares of A, ``right`` those of Bᵀ. With ``entering``, the variances of A's elements, what these
    become is in it: the same product with another left side.
    """
    n = left.given.shape[1] + (bias is not None)
    unit = p.u**2 / 3.0
    factor, on_z = unit * (n / 6.0 + 1.0), unit * (n / 3.0 + 1.0)
    rest: F64 | float = n * p.underflow**2
    if bias is not None:
        rest = rest + factor * bias * bias
    if entering is not None:
        left, factor = Side(entering + factor * left.wide, 1), 1.0
    found = linear_form(left, right, factor, product, on_z, rest)
    if bias is not None:
        found += unit * (product - bias) ** 2
    return found


def sum_variance(terms: F64, p: Precision) -> F64:
    """Of a sum over the first axis: (u²/3)·[(n/6 + 1)·Σt² + (n/3)·(Σt)²]."""
    n = terms.shape[0]
    return np.asarray(
        p.u**2 / 3.0 * ((n / 6.0 + 1.0) * (terms * terms).sum(axis=0) + n / 3.0 * terms.sum(axis=0) ** 2)
        + n * p.underflow**2
    )


class Late(Mapping[str, F64]):
    """Arrays by name, each formed when it is first asked for."""

    def __init__(self) -> None:
        self.makers: dict[str, Callable[[], F64]] = {}
        self._made: dict[str, F64] = {}

    def __getitem__(self, name: str) -> F64:
        if name not in self._made:
            self._made[name] = self.makers[name]()
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self.makers

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


def uniform_variance(bound: F64) -> F64:
    """Of an error uniform in ±bound."""
    return np.asarray(bound * bound / 3.0)


class ForwardVariances:
    """V of z and h per layer, and ``reach``: the variance of z with all that came before, errors taken as independent.

    ``seed`` is V of ∂L/∂outputs per loss, unweighted.
    """

    def __init__(self, program: Program, p: Precision) -> None:
        self.program, self.p = program, p
        self.z = Late()
        self.h: dict[str, F64] = {}
        self.reach: dict[str, F64] = {}
        self.seed: dict[str, F64] = {}
        self.h_reach: dict[str, F64] = {}
        self.around: dict[str, Behaviour] = {}
        start = np.zeros_like(program.batch.x, dtype=np.float64)
        top = self._through(program.trunk, start)
        for name, visits in program.heads.items():
            out = self._through(visits, top)
            self.seed[name] = self._seed(name, visits[-1].h)
            self.h_reach[name] = out

    def _through(self, visits: Sequence[Visit], variance: F64) -> F64:
        for visit in visits:
            name = visit.layer.name
            squares, activation = Side(visit.h_in, 2), visit.layer.activation
            own = functools.partial(product_variance, squares, visit.w_squared, visit.z, self.p, visit.b)
            self.reach[name] = own(entering=variance if variance.any() else None)
            if variance.any():
                self.z.makers[name] = own
            else:  # the input is as it was given
                self.z.makers[name] = functools.partial(self.reach.__getitem__, name)
            self.h_reach[f"into {name}"] = variance
            variance = visit.slope**2 * self.reach[name]
            if isinstance(activation, Linear | ReLU):  # a selection rounds nothing
                continue
            around = self.around[name] = behaviour(activation, visit.z, np.zeros_like(visit.z))
            self.h[name] = uniform_variance(activation_bound(activation, around, np.abs(visit.z), self.p))
            variance = variance + self.h[name]
        return variance

    def _seed(self, name: str, z: F64) -> F64:
        loss, given = self.program.net.heads[name].loss, self.program.batch.heads[name]
        curvature = self.program.curvature[name]
        factor, seed, u2 = curvature.factor, self.program.seeds[name], self.p.u**2 / 3.0
        if curvature.softmax:
            m = z - z.max(axis=1, keepdims=True)
            size = np.log(np.exp(m).sum(axis=1, keepdims=True))
            log_p, prob = m - size, curvature.p
            spread = (prob * m * m).sum(axis=1, keepdims=True)
            # exp and log err by up to 8u each, which counts as much as ten roundings.
            v = u2 * prob**2 * (m**2 + log_p**2 + size**2 + 10.0 + z.shape[1] / 3.0 + spread)
            own = (factor * curvature.mass) ** 2 * (v + u2 * prob**2)
        else:
            rows = target_rows(loss, given, z.shape[1], self.p)
            # What jumps at a clip is tried on both sides (:mod:`.loss_kinks`).
            found = samples(loss, exact(z, 1.0), rows, self.program.dtype, "convention", self.p)
            own = factor**2 * uniform_variance(found.d_bound - found.jump)
        return np.asarray(own + 5.0 * u2 * seed**2 + 4.0 * self.p.underflow**2)


@dataclass(eq=False)
class BackwardVariances:
    """V per layer of ∂L/∂z and of the layer's ∂L/∂h_in; ``elements`` those of the gradient."""

    gz: dict[str, F64] = field(default_factory=dict)
    gh_in: Late = field(default_factory=Late)
    seed: dict[str, F64] = field(default_factory=dict)
    elements: Elements = field(default_factory=Elements)


def backward_variances(forward: ForwardVariances, back: Backward) -> BackwardVariances:
    """Of one backward pass, each error beside what it becomes in the gradient if all are independent."""
    program, p, found = forward.program, forward.p, BackwardVariances()
    arriving: F64 | float = 0.0
    merging = p.u**2 / 3.0 if len(back.weights) > 1 else 0.0
    for name, weight in back.weights.items():
        visits = program.heads[name]
        found.seed[name] = weight**2 * forward.seed[name]
        variance = weight**2 * program.curvature[name].squared_times(forward.h_reach[name]) + found.seed[name]
        arriving = arriving + _undo(forward, visits, back, variance, found, p, bool(program.trunk))
    if program.trunk:
        merged = merging * back.gh[program.trunk[-1].layer.name] ** 2
        for name in back.weights:
            into = program.heads[name][0].layer.name
            found.gh_in.makers[into] = functools.partial(_added, found.gh_in.makers[into], merged)
        _undo(forward, program.trunk, back, np.asarray(arriving + len(back.weights) * merged), found, p, False)
    return found


def _undo(
    forward: ForwardVariances,
    visits: Sequence[Visit],
    back: Backward,
    variance: F64,
    found: BackwardVariances,
    p: Precision,
    to_input: bool,
) -> F64:
    for number, visit in reversed(list(enumerate(visits))):
        name = visit.layer.name
        gh, gz = back.gh[name], back.gz[name]
        of_gz = visit.slope**2 * variance
        if visit.bent:
            of_gz = of_gz + (gh * visit.bend) ** 2 * forward.reach[name]
        if name in forward.around:
            found.gz[name] = uniform_variance(slope_bound(forward.around[name], np.abs(visit.z), np.abs(gh), p))
            of_gz = of_gz + found.gz[name]
        entering, n, unit = forward.h_reach[f"into {name}"], len(gz), p.u**2 / 3.0
        found.elements.add_weight(
            f"{name}.weight",
            Weight(
                Side(of_gz.T, 1), Side(gz.T, 2), Side(entering.T, 1), visit.h_squared, back, f"{name}.weight",
                unit * (n / 6.0 + 1.0), unit * (n / 3.0 + 1.0), n * p.underflow**2,
            ),
        )  # fmt: skip
        if visit.layer.bias:
            found.elements.add_bias(f"{name}.bias", of_gz, sum_variance(gz, p))
        if number > 0 or to_input:
            gh_in = back.gh[visits[number - 1].layer.name] if number > 0 else gz @ visit.w
            own = functools.partial(product_variance, Side(gz, 2), visit.w_transposed_squared, gh_in, p)
            found.gh_in.makers[name] = own
            variance = own(entering=of_gz)
    return variance


def _added(make: Callable[[], F64], more: F64) -> F64:
    return make() + more


class Groups:
    """Samples that are copies of one another round alike: their amplitudes add up before they are squared.

    ``duplicates`` tells of any copies: samples, units that compute alike, or units that are fed back alike.
    """

    def __init__(self, program: Program, losses: Iterable[str]) -> None:
        self.of = _classes(program.batch.x)
        self.number = int(self.of.max()) + 1
        self.program, self.losses = program, list(losses)

    @functools.cached_property
    def duplicates(self) -> bool:
        heads = [self.program.heads[name] for name in self.losses]
        visits = [*self.program.trunk, *(visit for head in heads for visit in head)]
        # What a unit feeds decides its ∂L/∂h; the trunk's last layer feeds every head.
        fed = [visit.w for part in (self.program.trunk, *heads) for visit in part[1:]]
        if self.program.trunk:
            fed.append(np.concatenate([head[0].w for head in heads]))
        return (
            self.number < self.program.batch.size
            or any(_repeats(v.w if v.b is None else np.column_stack([v.w, v.b])) for v in visits)
            or any(_repeats(w.T[w.any(axis=0)]) for w in fed)
        )

    def variance(self, amplitude: F64, v: F64) -> float:
        """Σ amplitude²·V, the amplitudes of copies added before."""
        if self.number == len(self.of):
            return float(np.einsum("ij,ij,ij->", amplitude, amplitude, v))
        size = np.abs(amplitude) * np.sqrt(v)
        together = np.zeros((self.number, size.shape[1]))
        np.add.at(together, self.of, size)
        return float(np.vdot(together, together))


def _repeats(rows: F64) -> bool:
    return len(rows) > 0 and int(_classes(rows).max()) + 1 < len(rows)


def _classes(rows: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Equal rows get equal numbers, counted from 0."""
    # Rows that differ differ in almost every direction: only where one number is shared need they be compared.
    key = rows.astype(np.float64) @ np.random.default_rng(0).standard_normal(rows.shape[1])
    if len(np.unique(key)) == len(rows):
        return np.arange(len(rows))
    return np.asarray(np.unique(rows, axis=0, return_inverse=True)[1]).reshape(-1)


def projection_variance(
    forward: ForwardVariances,
    backward: BackwardVariances,
    amplitudes: Amplitudes,
    factor: float,
    direction: Mapping[str, F64],
    groups: Groups,
) -> float:
    """The variance of ⟨direction, computed gradient⟩, with ``factor``·``amplitudes``."""
    inside = sum(groups.variance(amplitude, v) for amplitude, v in _sites(forward, backward, amplitudes))
    return factor * inside * factor + sum(weighted_square(row, v) for row, v in result_variances(backward, direction))


def _sites(forward: ForwardVariances, backward: BackwardVariances, amplitudes: Amplitudes) -> Iterator[tuple[F64, F64]]:
    """Each intermediate's amplitude beside the variance of its rounding, where it rounds at all."""
    for source, site in ((forward, "z"), (forward, "h"), (backward, "gz"), (backward, "gh_in"), (backward, "seed")):
        variances = getattr(source, site)
        for name, amplitude in getattr(amplitudes, site).items():
            if name in variances:
                yield amplitude.astype(np.float64, copy=False), variances[name]


def result_variances(backward: BackwardVariances, direction: Mapping[str, F64]) -> Iterator[tuple[F64, F64]]:
    """The direction beside the variance of the last operation of each of its tensors."""
    for name, row in direction.items():
        yield row, backward.elements.own(name)
