"""A number together with its running error: what every stage of the sweep takes and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
Kinks = Literal["convention", "any"]


@dataclass(frozen=True, eq=False)
class Running:
    """``value``, computed here in float64, and ``bound`` on how far an allowed implementation is from its standard.

    ``value`` is itself a float64 implementation. Every number that may stand here lies within ``reach`` of ``value``,
    and is at most ``most`` in magnitude; ``spread`` is 2 where the comparison is with exact numbers at float64 (both
    sides of ``value``), else 1.
    """

    value: F64
    bound: F64
    spread: float

    @property
    def reach(self) -> F64:
        return self.spread * self.bound

    @property
    def most(self) -> F64:
        return np.asarray(np.abs(self.value) + self.reach)


def exact(value: npt.NDArray[Any], spread: float) -> Running:
    """Numbers that every implementation is given alike."""
    given = np.asarray(value, dtype=np.float64)
    return Running(given, np.zeros_like(given), spread)


def ambiguous(distance: F64, reach: F64, kinks: Kinks) -> npt.NDArray[np.bool_]:
    """Where an implementation may stand on either side of a kink that is ``distance`` away.

    An exact zero with zero reach stands on the kink in every implementation: the convention decides, unless ``kinks``
    is ``"any"``.
    """
    near = ~(np.abs(distance) > reach)
    return near if kinks == "any" else near & (reach > 0.0)
