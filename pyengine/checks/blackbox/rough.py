"""Amplitudes to a few digits, in float32: a variance needs no more, and half of a check's time is their products.

The direction is brought below 1 by a power of two. Where an intermediate overflows, or is so small that part of it may
have vanished, all are computed in float64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .narrow import VANISHING, WORTH_NARROWING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .program import Amplitudes, Backward, Program

F64 = npt.NDArray[np.float64]


def rough_amplitudes(program: Program, back: Backward, direction: Mapping[str, F64]) -> tuple[Amplitudes, float]:
    """The amplitudes, and the number by which they have to be multiplied."""
    largest = max(max(float(row.max(initial=0.0)), -float(row.min(initial=0.0))) for row in direction.values())
    if program.batch.size * sum(row.size for row in direction.values()) < WORTH_NARROWING or not 0.0 < largest < np.inf:
        return program.amplitudes(back, direction), 1.0
    # A power of two whose inverse is a number, too.
    factor = math.ldexp(1.0, min(max(math.frexp(largest)[1], -1000), 1000))
    scaled = {}
    for name, row in direction.items():
        scaled[name] = np.multiply(row, 1.0 / factor, out=np.empty(row.shape, np.float32), casting="same_kind")
    found = program.amplitudes(back, scaled, narrow=True)
    if all(_is_whole(site) for site in _sites(found)):
        return found, factor
    return program.amplitudes(back, direction), 1.0


def _sites(found: Amplitudes) -> Iterator[F64]:
    for part in (found.z, found.h, found.gz, found.gh_in, found.seed):
        yield from part.values()


def _is_whole(site: F64) -> bool:
    """Beside its largest number nothing is missing that would count."""
    largest = max(float(site.max(initial=0.0)), -float(site.min(initial=0.0)))
    return math.sqrt(VANISHING) <= largest < math.inf
