"""A number together with its running error: what every stage of the sweep takes and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .precision import EVALUATION

F64 = npt.NDArray[np.float64]
Kinks = Literal["convention", "any"]


@dataclass(frozen=True, eq=False)
class Running:
    """``value``, computed here in float64, and ``bound`` on how far an allowed implementation is from its standard.

    ``value`` is itself a float64 implementation. Every number that may stand here lies within ``reach`` of ``value``,
    and is at most ``most`` in magnitude; ``spread`` is 2 where the comparison is with exact numbers at float64 (both
    sides of ``value``), else 1. ``norm`` (batch,) bounds the 2-norm of each row's error: through many layers it grows
    by the weights' spectral norms, where the elementwise bound grows by their absolute values.
    """

    value: F64
    bound: F64
    spread: float
    norm: F64

    @property
    def reach(self) -> F64:
        return self.spread * self.bound

    @property
    def most(self) -> F64:
        return np.asarray(np.abs(self.value) + self.reach)


def running(value: F64, bound: F64, spread: float, norm: F64 | None = None) -> Running:
    """Rows of numbers (batch, n) with their errors; the elementwise bounds and those of the rows sharpen each other."""
    whole = row_norms(bound) if norm is None else np.fmin(norm, row_norms(bound))
    return Running(value, np.fmin(bound, whole[:, None]), spread, whole)


def row_norms(a: F64) -> F64:
    """The 2-norm of each row, (batch,), scaled so that no square underflows or overflows."""
    largest = np.abs(a).max(axis=1)
    safe = np.where((largest > 0.0) & np.isfinite(largest), largest, 1.0)
    return np.asarray(np.where(np.isfinite(largest), safe * np.linalg.norm(a / safe[:, None], axis=1), np.inf))


def spectral_norm(a: F64) -> float:
    """An upper bound on the 2-norm of a matrix, from the largest eigenvalue of the smaller Gram matrix."""
    largest = float(np.abs(a).max())
    if largest == 0.0 or not np.isfinite(largest):
        return largest
    scaled = a / largest
    gram = scaled @ scaled.T if a.shape[0] <= a.shape[1] else scaled.T @ scaled
    # The eigenvalue's relative error is about the size times 2⁻⁵³.
    return largest * float(np.sqrt(np.linalg.eigvalsh(gram)[-1])) * EVALUATION


def exact(value: npt.NDArray[Any], spread: float) -> Running:
    """Numbers that every implementation is given alike."""
    given = np.asarray(value, dtype=np.float64)
    return running(given, np.zeros_like(given), spread)


def ambiguous(distance: F64, reach: F64, kinks: Kinks) -> npt.NDArray[np.bool_]:
    """Where an implementation may stand on either side of a kink that is ``distance`` away.

    An exact zero with zero reach stands on the kink in every implementation: the convention decides, unless ``kinks``
    is ``"any"``.
    """
    near = ~(np.abs(distance) > reach)
    return near if kinks == "any" else near & (reach > 0.0)
