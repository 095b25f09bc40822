"""Gradient surgery: what PCGrad (Yu et al., NeurIPS 2020, Algorithm 1) makes of per-loss gradients, with error bounds.

Each gradient g_i is projected, for every other loss j with ⟨g_i, g_j⟩ < 0 and in a random order, onto the normal plane
of g_j: g_i ← g_i - ⟨g_i, g_j⟩/‖g_j‖²·g_j. The results are added up. The order is not known afterwards, so every one is
a possibility.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Uncertain = tuple[Vector, Vector]
"""A vector and a bound on its error, elementwise."""


def pcgrad(parts: Sequence[Uncertain], unit: float) -> Iterator[Uncertain]:
    """The sum of the projected gradients, for every choice of orders.

    >>> import numpy as np
    >>> g = [(np.array([1.0, 0.0]), np.zeros(2)), (np.array([-1.0, 1.0]), np.zeros(2))]
    >>> [total for total, _ in pcgrad(g, 0.0)]
    [array([0.5, 1.5])]
    """
    k = len(parts)
    orders = [list(itertools.permutations([j for j in range(k) if j != i])) for i in range(k)]
    for chosen in itertools.islice(itertools.product(*orders), 64):
        moved = []
        for i, order in enumerate(chosen):
            here = parts[i]
            for j in order:
                here = _projected(here, parts[j], unit)
            moved.append(here)
        yield np.sum([g for g, _ in moved], axis=0), np.sum([e for _, e in moved], axis=0)


def _projected(a: Uncertain, b: Uncertain, unit: float) -> Uncertain:
    (g, e), (h, d) = a, b
    dot, square = float(g @ h), float(h @ h)
    if not dot < 0.0 or square == 0.0:
        return a
    factor = dot / square
    # The uncertainty of both vectors, and n roundings of each of the two sums (Higham 2002, eq. 4.4).
    ddot = float(e @ np.abs(h) + np.abs(g) @ d) + g.size * unit * float(np.abs(g) @ np.abs(h))
    dsquare = 2.0 * float(np.abs(h) @ d) + g.size * unit * square
    dfactor = ddot / square + abs(factor) * (dsquare / square + unit)
    found = g - factor * h
    return found, e + abs(factor) * d + dfactor * np.abs(h) + 2.0 * unit * (np.abs(factor * h) + np.abs(found))
