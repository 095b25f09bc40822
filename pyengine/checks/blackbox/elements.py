"""The variance of every element of a gradient, all errors before it taken as independent: formed where it is asked for.

A sum over all elements of a product of non-negative matrices needs no product, and neither does one element.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Weight:
    """dW = ∂L/∂zᵀ·h: the variances of both factors, (batch, n_out) and (batch, n_in), and that of the product's own."""

    of_gz: F64
    gz: F64
    of_h: F64
    h: F64
    own: F64


class Elements:
    """Per parameter. ``own`` is the variance of the last operation alone: a part of the whole, and at hand."""

    def __init__(self) -> None:
        self.own: dict[str, F64] = {}
        self._whole: dict[str, F64] = {}
        self._weights: dict[str, _Weight] = {}

    def add_weight(self, name: str, of_gz: F64, gz: F64, of_h: F64, h: F64, own: F64) -> None:
        self._weights[name], self.own[name] = _Weight(of_gz, gz, of_h, h, own), own

    def add_bias(self, name: str, of_gz: F64, own: F64) -> None:
        self._whole[name], self.own[name] = of_gz.sum(axis=0) + own, own

    def whole(self, name: str) -> F64:
        """The variance of every element."""
        if name not in self._whole:
            w = self._weights[name]
            self._whole[name] = w.of_gz.T @ w.h**2 + (w.gz * w.gz).T @ w.of_h + w.own
        return self._whole[name]

    def sum(self, name: str) -> float:
        """The sum over all elements."""
        if name in self._whole:
            return float(self._whole[name].sum())
        w = self._weights[name]
        through_gz = np.vdot(w.of_gz.sum(axis=1), np.einsum("ij,ij->i", w.h, w.h))
        through_h = np.vdot(np.einsum("ij,ij->i", w.gz, w.gz), w.of_h.sum(axis=1))
        return float(through_gz + through_h + w.own.sum())

    def at(self, name: str, index: tuple[int, ...]) -> float:
        """The variance of one element."""
        if name in self._whole:
            return float(self._whole[name][index])
        w, (i, j) = self._weights[name], index
        return float(np.vdot(w.of_gz[:, i], w.h[:, j] ** 2) + np.vdot(w.gz[:, i] ** 2, w.of_h[:, j]) + w.own[i, j])
