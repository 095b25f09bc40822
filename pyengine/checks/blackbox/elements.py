"""The variance of every element of a gradient, all errors before it taken as independent: formed where it is asked for.

A sum over all elements of a product of non-negative matrices needs no product, and neither does one element.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .narrow import Side, spread

F64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class _Weight:
    """dW = ∂L/∂zᵀ·h: variances and squares of both factors, (n_out, batch) and (n_in, batch), and its own variance."""

    of_gz: Side
    gz: Side
    of_h: Side
    h: Side
    own: F64


class Elements:
    """Per parameter. ``own`` is the variance of the last operation alone: a part of the whole, and at hand."""

    def __init__(self) -> None:
        self.own: dict[str, F64] = {}
        self._whole: dict[str, F64] = {}
        self._weights: dict[str, _Weight] = {}

    def add_weight(self, name: str, of_gz: Side, gz: Side, of_h: Side, h: Side, own: F64) -> None:
        self._weights[name], self.own[name] = _Weight(of_gz, gz, of_h, h, own), own

    def add_bias(self, name: str, of_gz: F64, own: F64) -> None:
        self._whole[name], self.own[name] = of_gz.sum(axis=0) + own, own

    def whole(self, name: str) -> F64:
        """The variance of every element."""
        if name not in self._whole:
            w = self._weights[name]
            found = spread(w.of_gz, w.h)
            found += spread(w.gz, w.of_h)
            found += w.own
            self._whole[name] = found
        return self._whole[name]

    def sum(self, name: str) -> float:
        """The sum over all elements."""
        if name in self._whole:
            return float(self._whole[name].sum())
        w = self._weights[name]
        through_gz = np.vdot(w.of_gz.given.sum(axis=0), _squares(w.h))
        through_h = np.vdot(_squares(w.gz), w.of_h.given.sum(axis=0))
        return float(through_gz + through_h + w.own.sum())

    def some(self, name: str, rows: Index, columns: Index) -> F64:
        """The variances of some elements of a matrix, given by their rows and columns, (count,)."""
        if name in self._whole:
            return np.asarray(self._whole[name][rows, columns])
        w = self._weights[name]
        through_gz = np.einsum("ij,ij->i", w.of_gz.given[rows], w.h.given[columns] ** 2)
        through_h = np.einsum("ij,ij->i", w.gz.given[rows] ** 2, w.of_h.given[columns])
        return np.asarray(through_gz + through_h + w.own[rows, columns])

    def at(self, name: str, index: tuple[int, ...]) -> float:
        """The variance of one element."""
        if name in self._whole:
            return float(self._whole[name][index])
        row, column = (np.array([i]) for i in index)
        return float(self.some(name, row, column)[0])


def _squares(side: Side) -> F64:
    """The sums of the squares of each sample, (batch,)."""
    return np.asarray(np.einsum("ij,ij->j", side.given, side.given))
