"""Judging products and sums: the quick look, the exact evaluation, and the replays of what they flag."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ... import _core
from ...parameters import Array
from ...rounding import Precision, accumulated, sum_bound
from ...rounding.running import F64
from ...rounding.storage import Storage
from ...rounding.variance import sum_variance
from .elementwise import largest_ratio
from .finding import Finding, Kind
from .matrices import Matrix, Room
from .products import Linear
from .screen import screen
from .statistics import REPLAYED, Errors, measured, relative, scale, sign_vectors

SMALL = 1 << 13
"""A product of fewer multiplications is evaluated in float64 throughout."""

FURTHEST = 1000
"""Sums are scaled by at most 2 to this."""

PERMUTATIONS = 4

THREADS = (2, 4, 8, 16)
"""Sums over a batch are replayed as so many threads form them."""


def judge_linear(name: str, kind: Kind, stage: Linear, seed: int, room: Room) -> Finding:
    """Judge a product or a sum of products."""
    m, n = stage.claimed.shape
    signs = sign_vectors(seed, m, n)
    if stage.work > SMALL and stage.kept.plain:
        seen = screen(stage, signs, room)
        if seen.conclusive and seen.ratio <= 1.0 and not seen.statistics.flagged(m * n):
            return Finding(
                name, kind, stage.terms, m * n, seen.ratio, None, seen.statistics, seen.scale,
                actual_error=seen.actual_error, expected_error=seen.expected_error,
            )  # fmt: skip
    unit = float(np.ldexp(1.0, stage.exponent))
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        ratio, worst = largest_ratio(stage.claimed, stage.z * unit, stage.bound * unit)
        errors = stage.errors
    keep = _distinct(stage)
    return judged(
        Finding(name, kind, stage.terms, m * n, ratio, worst), errors, signs, keep, lambda: _replays(stage, seed)
    )


def judged(
    found: Finding,
    errors: Errors,
    signs: tuple[F64, F64],
    keep: Callable[[], tuple[Array, Array]],
    replays: Callable[[], Iterator[F64]],
) -> Finding:
    """Add the statistics; what is beyond its limit counts only without duplicates, and unless a replay explains it."""
    entries = found.entries
    statistics = measured(errors, signs)
    flagged = statistics.flagged(entries)
    explained: dict[str, float] = {}
    if flagged and found.ratio <= 1.0:
        rows, columns = keep()
        part = errors.part(rows, columns)
        some = (signs[0][:, rows], signs[1][:, columns])
        statistics = measured(part, some)
        flagged = statistics.flagged(entries)
        if flagged:
            at = np.ix_(rows, columns)
            again = [measured(replace(part, r=r[at]), some).items() for r in replays()]
            explained = {name: max(one[name] for one in again) for name in flagged}
    actual, expected = relative(errors)
    unexplained = tuple(name for name in flagged if not statistics.items()[name] <= REPLAYED * explained.get(name, 0.0))
    return Finding(
        **{
            **vars(found),
            "statistics": statistics,
            "scale": scale(errors),
            "replays": explained,
            "unexplained": unexplained,
            "actual_error": actual,
            "expected_error": expected,
        }
    )


def judge_sum(name: str, claimed: Array, dz: Matrix, p: Precision, u: float, seed: int, kept: Storage) -> Finding:
    """Judge db = Σ over the batch of dz (batch, n)."""
    # So far from 1 that no square overflows or vanishes; 2 to the ends of float64 has no reciprocal.
    terms, unit = dz.given, float(np.ldexp(1.0, min(max(dz.exponent, -FURTHEST), FURTHEST)))
    count = terms.shape[0]
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        sums = _core.column_sums(np.ascontiguousarray(terms), 1.0 / unit)
        z, size, q = unit * sums[0], unit * sums[1], unit * unit * sums[2]
        bound = sum_bound(size, count, kept.summing(p))
        bound = bound + kept.rounding(np.abs(z) + bound)
        ratio, worst = largest_ratio(claimed, z, bound)
        found = Finding(name, "bias gradient", count, claimed.size, ratio, worst)
        if kept.sums:
            # Partial sums that stagnate round alike: no variance describes them.
            return found
        lost = 2.0 * count * p.smallest_normal if p.flush_to_zero else 0.0
        v = sum_variance(z, q, count, u) + kept.variance(z) + lost**2
        errors = Errors((claimed - z)[None], z[None], v[None], lost, flushed=kept.flushed(z[None]))

    def keep() -> tuple[Array, Array]:
        return np.arange(1), np.unique(terms, axis=1, return_index=True)[1]

    def again(total: Array) -> F64:
        return np.asarray((kept.stored(total.astype(np.float64)) if not kept.plain else total) - z)[None]

    def replays() -> Iterator[F64]:
        for order in orders(count, seed):
            yield again(terms[order].sum(axis=0))
            yield again(np.add.accumulate(terms[order], axis=0)[-1])
            yield again(np.ascontiguousarray(terms[order].T).sum(axis=1))
        for parts in THREADS:
            yield again(_by_threads(terms, parts))

    signs = sign_vectors(seed, 1, claimed.size)
    return judged(found, errors, signs, keep, replays)


def _by_threads(terms: Array, parts: int) -> Array:
    """The sum as threads form it: each adds a run of rows one by one, then their sums are added."""
    sums = [np.add.accumulate(run, axis=0)[-1] for run in np.array_split(terms, min(parts, len(terms)))]
    return np.asarray(np.add.accumulate(sums, axis=0)[-1])


def judge_weighted_sum(
    name: str, claimed: Array, parts: list[Array], weights: list[float], p: Precision, kept: Storage
) -> Finding:
    """Judge a summed gradient that was put together as Σ weight·gradient, by its rigorous bound."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        terms = [weight * part.astype(np.float64) for weight, part in zip(weights, parts, strict=True)]
        expected = np.sum(terms, axis=0)
        size = np.sum(np.abs(terms), axis=0)
        # The weight to the dtype, the product, and the additions.
        lost = np.where(size > 0.0, 2.0 * len(parts) * p.underflow, 0.0)
        bound = accumulated(len(parts) + 1, p.u) * size + lost
        for _ in range(len(parts) + 2):
            bound = bound + kept.rounding(size + bound)
        ratio, worst = largest_ratio(claimed, expected, bound)
    return Finding(name, "weighted sum", len(parts), claimed.size, ratio, worst)


def orders(count: int, seed: int) -> Iterator[Array]:
    """The orders of summation that are replayed: as is, reversed, and random ones."""
    rng = np.random.default_rng([seed, count])
    yield np.arange(count)
    yield np.arange(count)[::-1]
    for _ in range(PERMUTATIONS):
        yield rng.permutation(count)


def _distinct(stage: Linear) -> Callable[[], tuple[Array, Array]]:
    """The rows and columns of a product without repetitions: equal operands make equal errors, which add up."""

    def keep() -> tuple[Array, Array]:
        operands = [product.operands("given") for product in stage.products]
        left = np.concatenate([a for a, _ in operands], axis=1)
        right = [b for _, b in operands]
        right = right if stage.bias is None else [*right, stage.bias[None]]
        columns = np.unique(np.concatenate(right, axis=0), axis=1, return_index=True)[1]
        return np.unique(left, axis=0, return_index=True)[1], columns

    return keep


def _replays(stage: Linear, seed: int) -> Iterator[F64]:
    """Residuals of correct recomputations in the dtype of the witness: other orders, and one term after another."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for kind in range(PERMUTATIONS + 3):
            total = np.zeros(stage.claimed.shape, stage.claimed.dtype)
            for product in stage.products:
                a, b = product.operands("given")
                if not stage.kept.plain:
                    a, b = (stage.kept.read(o.astype(np.float64)).astype(o.dtype) for o in (a, b))
                total = total + _again(a, b, kind, seed)
                if stage.bias is None:
                    total = stage.kept.stored(total.astype(np.float64)).astype(total.dtype)
            if stage.bias is not None:
                total = total + stage.bias
                total = stage.kept.stored(total.astype(np.float64)).astype(total.dtype)
            yield np.ldexp(total, -stage.exponent, dtype=np.float64) - stage.z


def _again(a: Array, b: Array, kind: int, seed: int) -> Array:
    if kind == PERMUTATIONS + 2:
        total = np.zeros((a.shape[0], b.shape[1]), a.dtype)
        for k in range(a.shape[1]):
            total += a[:, k, None] * b[None, k]
        return total
    order = list(orders(a.shape[1], seed))[kind]
    return np.asarray(np.ascontiguousarray(a[:, order]) @ np.ascontiguousarray(b[order]))
