"""The variance of every element of a gradient, all errors before it taken as independent: formed where it is asked for.

A sum over all elements of a product of non-negative matrices needs no product, and neither does one element. With
f·gz²·h² what the last operation rounds term by term, the whole is (of_gz + f·gz²)·h² + gz²·of_h and what it rounds in
the sum: the first two products are one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .narrow import Side, linear_form, spread

if TYPE_CHECKING:
    from .program import Backward

F64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Weight:
    """dW = ∂L/∂zᵀ·h: variances and squares of both factors, (n_out, batch) and (n_in, batch), and where dW itself is.

    Its last operation has the variance ``on_terms``·gz²·h² + ``on_sum``·dW² + ``rest``.
    """

    of_gz: Side
    gz: Side
    of_h: Side
    h: Side
    back: Backward
    name: str
    on_terms: float
    on_sum: float
    rest: float

    @property
    def dw(self) -> F64:
        return self.back.gradient[self.name]

    @cached_property
    def own(self) -> F64:
        """The variance of the last operation."""
        return linear_form(self.gz, self.h, self.on_terms, self.dw, self.on_sum, self.rest)

    @cached_property
    def whole(self) -> F64:
        """The variance of every element."""
        through_gz = Side(self.of_gz.wide + self.on_terms * self.gz.wide, 1)
        found = linear_form(through_gz, self.h, 1.0, self.dw, self.on_sum, self.rest)
        if self.of_h.given.any():
            found += spread(self.gz, self.of_h)
        return found

    def some(self, rows: Index, columns: Index) -> tuple[F64, F64]:
        """Of some elements, given by their rows and columns, the numbers and their variances, (count,)."""
        gz, h = self.gz.given[rows], self.h.given[columns]
        dw = np.einsum("ij,ij->i", gz, h)
        gz *= gz
        h *= h
        found = np.einsum("ij,ij->i", self.of_gz.given[rows] + self.on_terms * gz, h)
        found += np.einsum("ij,ij->i", gz, self.of_h.given[columns])
        return dw, np.asarray(found + self.on_sum * dw * dw + self.rest)


class Elements:
    """Per parameter."""

    def __init__(self) -> None:
        self._whole: dict[str, F64] = {}
        self._own: dict[str, F64] = {}
        self._weights: dict[str, Weight] = {}

    def add_weight(self, name: str, weight: Weight) -> None:
        self._weights[name] = weight

    def add_bias(self, name: str, of_gz: F64, own: F64) -> None:
        self._whole[name], self._own[name] = of_gz.sum(axis=0) + own, own

    def own(self, name: str) -> F64:
        """The variance of the last operation alone: a part of the whole, and sooner at hand."""
        return self._weights[name].own if name in self._weights else self._own[name]

    def whole(self, name: str) -> F64:
        """The variance of every element."""
        return self._weights[name].whole if name in self._weights else self._whole[name]

    def sum(self, name: str) -> float:
        """The sum over all elements."""
        if name in self._whole:
            return float(self._whole[name].sum())
        w = self._weights[name]
        gz, h = _squares(w.gz), _squares(w.h)
        through_gz = np.vdot(w.of_gz.given.sum(axis=0) + w.on_terms * gz, h)
        through_h = np.vdot(gz, w.of_h.given.sum(axis=0))
        return float(through_gz + through_h + w.on_sum * np.vdot(w.dw, w.dw) + w.rest * w.dw.size)

    def some(self, name: str, rows: Index, columns: Index) -> tuple[F64, F64]:
        """Of some elements of a matrix, given by their rows and columns, the numbers and their variances, (count,)."""
        return self._weights[name].some(rows, columns)

    def at(self, name: str, index: tuple[int, ...]) -> float:
        """The variance of one element."""
        if name in self._whole:
            return float(self._whole[name][index])
        row, column = (np.array([i]) for i in index)
        return float(self.some(name, row, column)[1][0])


def _squares(side: Side) -> F64:
    """The sums of the squares of each sample, (batch,)."""
    return np.asarray(np.einsum("ij,ij->j", side.given, side.given))
