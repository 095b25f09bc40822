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

TINY = 2.0**-40
"""Norms below this may have lost digits: half the exponents of float32 are gone by then."""


class Room:
    """Memory for products and what is made of them, kept from one to the next: fresh pages are dear."""

    def __init__(self) -> None:
        self._held: dict[str, Array] = {}

    def array(self, name: str, rows: int, columns: int, dtype: np.dtype[Any]) -> Array:
        """An array (rows, columns) with any content; one name has one dtype."""
        size = rows * columns
        held = self._held.get(name)
        if held is None or held.size < size:
            held = self._held[name] = np.empty(size, dtype)
        return held[:size].reshape(rows, columns)


class Matrix:
    """One witness, parameter or input (m, n), finite or not."""

    def __init__(self, given: Array) -> None:
        self.given = given
        self._squares: dict[tuple[int, int], Array] = {}
        self._sums: dict[int, float] = {}

    @cached_property
    def exponent(self) -> int:
        """Every magnitude is below 2 to this; 0 for a matrix of zeros, or with an infinity or NaN."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            # The 2-norm is quicker than the largest entry, and not below it but where its squares underflow.
            flat = self.given.ravel(order="K")
            most = float(np.sqrt(np.dot(flat, flat)))
        if not TINY <= most < np.inf:
            most = max(float(self.given.max()), -float(self.given.min()))
        return int(np.frexp(most)[1]) if np.isfinite(most) else 0

    @cached_property
    def wide(self) -> F64:
        """In float64, not scaled."""
        return self.given.astype(np.float64)

    @cached_property
    def scaled(self) -> F64:
        """In float64, divided by 2^exponent."""
        if self.given.dtype == np.float64:
            return np.asarray(np.ldexp(self.given, -self.exponent))
        # The power itself is a float64: this is the same number, sooner.
        return np.asarray(np.multiply(self.given, 2.0**-self.exponent, dtype=np.float64))

    def squares(self, stride: int, axis: int) -> Array:
        """Of every ``stride``-th row (axis 0) or column (axis 1), in the matrix' own dtype, divided by 4^exponent."""
        if (stride, axis) not in self._squares:
            some = self.given[::stride] if axis == 0 else self.given[:, ::stride]
            scaled = some * some.dtype.type(2.0**-self.exponent)
            scaled *= scaled
            self._squares[stride, axis] = scaled
        return self._squares[stride, axis]

    def largest_sum(self, axis: int) -> float:
        """The largest sum of magnitudes along an axis."""
        if axis not in self._sums:
            self._sums[axis] = float(np.abs(self.given).sum(axis=axis, dtype=np.float64).max())
        return self._sums[axis]


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

    def of(self, form: str, room: Room | None = None) -> Array:
        """A·B in one of the forms; with ``room``, in memory that the next product of this form will use again."""
        a, b = self.operands(form)
        return np.asarray(
            a @ b if room is None else np.matmul(a, b, out=room.array(form, a.shape[0], b.shape[1], b.dtype))
        )

    def squared(self, stride: int, room: Room) -> Array:
        """Σ a²b² over every ``stride``-th term, in the dtype of the witness, divided by 4^exponent."""
        a = self.left.squares(stride, 1 - self.left_transposed)
        b = self.right.squares(stride, int(self.right_transposed))
        a, b = a.T if self.left_transposed else a, b.T if self.right_transposed else b
        return np.asarray(np.matmul(a, b, out=room.array("squared", a.shape[0], b.shape[1], b.dtype)))

    @property
    def exponent(self) -> int:
        """What :meth:`of` is divided by, for ``"scaled"``, as a power of two."""
        return self.left.exponent + self.right.exponent

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(m, k, n)."""
        a, b = self.operands("given")
        return a.shape[0], a.shape[1], b.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.left.given.dtype
