"""Holding gradients against their bounds, so that a failure names what failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays import as_numpy
from ..errors import listing, sentence


@dataclass(frozen=True)
class Excess:
    """One entry beside its bound: ``ratio`` is |actual - expected| / bound, and at most 1 where the bound holds.

    >>> print(Excess("summed['trunk.0.bias']", (2,), actual=1.5, expected=1.0, bound=0.25, ratio=2.0))
    summed['trunk.0.bias'][2]: 1.5 differs from 1.0 by 2 times its bound 0.25
    """

    name: str
    index: tuple[int, ...]
    actual: float
    expected: float
    bound: float
    ratio: float

    @property
    def holds(self) -> bool:
        return self.ratio <= 1.0

    def __str__(self) -> str:
        where = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        return (
            f"{self.name}{where}: {self.actual!r} differs from {self.expected!r} "
            f"by {self.ratio:.3g} times its bound {self.bound:.3g}"
        )


def worst_ratio(name: str, actual: Any, expected: Any, bound: Any) -> Excess:
    """The worst entry of one array. 0/0 counts as 0, x/0 as ∞, and NaN on any side as ∞.

    ``actual``, ``expected`` and ``bound`` have one shape (any float dtype; wider than float64 is not narrowed before
    the subtraction). Raises ``ValueError`` for different shapes.

    >>> worst_ratio("g", [1.0, float("nan")], [1.0, 2.0], [0.0, 9.0]).ratio
    inf
    """
    a, e, b = (
        as_numpy(argument, given) for argument, given in (("actual", actual), ("expected", expected), ("bound", bound))
    )
    if not a.shape == e.shape == b.shape:
        raise ValueError(
            sentence(
                name, got=f"has shape {a.shape}", expected=f"{e.shape}, bounded by {b.shape}", remedy="Transpose it?"
            )
        )
    if a.size == 0:
        return Excess(name, (), 0.0, 0.0, 0.0, 0.0)
    ratios = _ratios(a, e, b)
    index = tuple(int(i) for i in np.unravel_index(int(ratios.argmax()), ratios.shape))
    return Excess(name, index, float(a[index]), float(e[index]), float(b[index]), float(ratios[index]))


def exceeds(actual: Any, expected: Any, bounds: Any) -> list[Excess]:
    """The worst entry of every array that does not hold its bound, worst first; empty when all hold.

    ``actual`` and ``expected`` are :class:`Gradients` or anything with some of the attributes ``losses``,
    ``total_loss``, ``per_loss``, ``summed``, ``gramian``; what both have is compared with ``bounds``. Raises
    ``ValueError`` where they have nothing in common or lack a parameter: a comparison of nothing must not pass.
    """
    found = [entry for entry in _compared(actual, expected, bounds) if not entry.holds]
    return sorted(found, key=lambda entry: -entry.ratio)


def worst(actual: Any, expected: Any, bounds: Any) -> Excess:
    """The entry with the largest ratio over all that :func:`exceeds` compares."""
    return max(_compared(actual, expected, bounds), key=lambda entry: entry.ratio)


def _ratios(a: npt.NDArray[Any], e: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    wide = np.result_type(a, e, np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        error = np.abs(a.astype(wide) - e.astype(wide)).astype(np.float64)
        ratio = np.where(error == 0.0, np.where(np.isnan(b), np.inf, 0.0), error / b)
    return np.where(np.isnan(ratio), np.inf, ratio)


def _compared(actual: Any, expected: Any, bounds: Any) -> list[Excess]:
    entries = list(_entries(actual, expected, bounds))
    if not entries:
        raise ValueError(
            sentence(
                "actual",
                got="and `expected` have nothing in common",
                expected="losses, gradients or a Gramian on both sides",
                remedy="Compute the same parts on both sides.",
            )
        )
    return entries


def _entries(actual: Any, expected: Any, bounds: Any) -> Iterator[Excess]:
    for part in ("losses", "total_loss", "per_loss", "summed", "gramian"):
        a, e = getattr(actual, part, None), getattr(expected, part, None)
        if a is not None and e is not None:
            yield from _nested(part, a, e, getattr(bounds, part))


def _nested(name: str, actual: Any, expected: Any, bound: Any) -> Iterator[Excess]:
    if not isinstance(bound, Mapping):
        yield worst_ratio(name, np.asarray(actual), np.asarray(expected), np.asarray(bound))
        return
    for key, inner in bound.items():
        for argument, side in (("actual", actual), ("expected", expected)):
            if key not in side:
                raise ValueError(
                    sentence(f"{argument}.{name}", got=f"lacks {key!r}", expected=listing(bound), remedy="Add it.")
                )
        yield from _nested(f"{name}[{key!r}]", actual[key], expected[key], inner)
