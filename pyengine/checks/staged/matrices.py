"""Matrices of witnesses in the forms that products of them need, each made once: widened, squared, scaled.

Everything is divided by a power of two first, so that squares neither overflow nor underflow in float32 unless a
matrix spans more than 2⁶³.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...parameters import Array
from ...rounding.running import F64


class Matrix:
    """One witness, parameter or input (m, n), finite or not."""

    def __init__(self, given: Array) -> None:
        self.given = given

    @cached_property
    def exponent(self) -> int:
        """The largest magnitude is below 2 to this; 0 for a matrix of zeros, or with an infinity or NaN."""
        most = max(float(self.given.max()), -float(self.given.min()))
        return int(np.frexp(most)[1]) if np.isfinite(most) else 0

    @cached_property
    def wide(self) -> F64:
        """In float64, not scaled."""
        return self.given.astype(np.float64)

    @cached_property
    def scaled(self) -> F64:
        """In float64, divided by 2^exponent."""
        return np.asarray(np.ldexp(self.given, -self.exponent, dtype=np.float64))

    @cached_property
    def squared(self) -> Array:
        """Squares in the dtype of the witness, divided by 4^exponent."""
        with np.errstate(under="ignore", over="ignore", invalid="ignore"):
            scaled = self.given * self.given.dtype.type(2.0**-self.exponent)
            return np.asarray(np.multiply(scaled, scaled, out=scaled))


@dataclass(frozen=True, eq=False)
class Product:
    """A·B of two matrices, each as it is or transposed."""

    left: Matrix
    right: Matrix
    left_transposed: bool = False
    right_transposed: bool = False

    def operands(self, form: str) -> tuple[Array, Array]:
        """A (m, k) and B (k, n) in one of the forms of :class:`Matrix`."""
        a, b = getattr(self.left, form), getattr(self.right, form)
        return (a.T if self.left_transposed else a), (b.T if self.right_transposed else b)

    def of(self, form: str) -> Array:
        """A·B in one of the forms."""
        a, b = self.operands(form)
        return np.asarray(a @ b)

    @property
    def exponent(self) -> int:
        """What :meth:`of` is divided by, for ``"scaled"``, as a power of two."""
        return self.left.exponent + self.right.exponent

    @property
    def shape(self) -> tuple[int, int, int]:
        """(m, k, n)."""
        a, b = self.operands("given")
        return a.shape[0], a.shape[1], b.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.left.given.dtype
