"""A stage that is a product, or a sum of products: Z = Σ_k A_k·B_k (+ bias), exactly, with V and τ of every entry.

All is divided by 2^exponent, and statistics do not notice. Small stages are evaluated in float64 throughout; large ones
only for Z, until :mod:`.screen` finds something to look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...parameters import Array
from ...rounding import Precision, accumulated, matmul_bound
from ...rounding.running import F64
from ...rounding.storage import PLAIN, Storage
from ...rounding.variance import heads_variance, product_variance
from .matrices import Product
from .statistics import Errors


@dataclass(frozen=True, eq=False)
class Linear:
    """``claimed`` (m, n) is what the implementation has for the sum of the ``products`` and the ``bias`` (n,).

    ``p`` is the precision of the claim together with that of the evaluation here; ``u`` the roundoff of V; ``kept``
    where results are stored, and how operands are read.
    """

    claimed: Array
    products: tuple[Product, ...]
    bias: Array | None
    p: Precision
    u: float
    kept: Storage = PLAIN

    @cached_property
    def exponent(self) -> int:
        """Everything below is divided by 2 to this."""
        most = [product.exponent for product in self.products]
        if self.bias is not None and self.bias.size and np.isfinite(self.bias).all():
            most.append(int(np.frexp(float(np.abs(self.bias).max()))[1]))
        return max(most)

    @property
    def terms(self) -> int:
        """n: how many terms an entry adds up."""
        return sum(product.shape[1] for product in self.products) + int(self.bias is not None)

    @property
    def work(self) -> int:
        """Multiplications of one evaluation."""
        return sum(m * k * n for m, k, n in (product.shape for product in self.products))

    @cached_property
    def parts(self) -> list[F64]:
        """Z_k = A_k·B_k, without the bias."""
        return [self._rescaled(product.of("scaled"), product, 1) for product in self.products]

    @cached_property
    def scaled_bias(self) -> F64 | None:
        return None if self.bias is None else np.asarray(np.ldexp(self.bias.astype(np.float64), -self.exponent))

    @cached_property
    def z(self) -> F64:
        """The exact numbers."""
        total = self.parts[0] if len(self.parts) == 1 else np.sum(self.parts, axis=0)
        return total if self.scaled_bias is None else total + self.scaled_bias

    @cached_property
    def residual(self) -> F64:
        return np.asarray(np.ldexp(self.claimed, -self.exponent, dtype=np.float64) - self.z)

    @cached_property
    def variance(self) -> F64:
        """V in float64, with the square of what underflow may take."""
        squares = []
        for product in self.products:
            a, b = product.operands("scaled")
            squares.append(self._rescaled((a * a) @ (b * b), product, 2))
        return self._variance(squares, self.parts, self.scaled_bias)

    def variance_at(self, rows: Array, columns: Array) -> F64:
        """V of some entries, given by their rows and columns (count,): the same without the whole of it."""
        squares, parts = [], []
        for product in self.products:
            a, b = product.operands("scaled")
            terms = a[rows] * b[:, columns].T
            parts.append(self._rescaled(terms.sum(axis=1), product, 1))
            squares.append(self._rescaled((terms * terms).sum(axis=1), product, 2))
        return self._variance(squares, parts, None if self.scaled_bias is None else self.scaled_bias[columns])

    def _variance(self, squares: list[F64], parts: list[F64], bias: F64 | None) -> F64:
        total = parts[0] if len(parts) == 1 else np.sum(parts, axis=0)
        v = heads_variance(parts, total, self.u)
        for product, q, part in zip(self.products, squares, parts, strict=True):
            form = product_variance(product.shape[1], bias=bias is not None)
            whole = part
            if bias is not None:
                q, whole = q + bias**2, part + bias
            v = v + self.u * self.u / 3.0 * (form.on_q * q + form.on_z * whole**2 + form.on_z0 * part**2)
            if not self.kept.plain:
                v = v + self.kept.reading_variance(q) + self._stored_variance(part)
        if bias is not None:
            total = total + bias
        if not self.kept.plain and (bias is not None or len(parts) > 1):
            # The product, or each of several, is stored before the rest is added.
            v = v + self._stored_variance(total) * max(1, len(parts) - 1)
        return np.asarray(v + self.lost**2)

    def _stored_variance(self, z: F64) -> F64:
        unit = float(np.ldexp(1.0, self.exponent))
        return np.asarray(self.kept.variance(z * unit) / unit**2)

    def _flushed(self, z: F64) -> F64 | float:
        unit = float(np.ldexp(1.0, self.exponent))
        found = self.kept.flushed(z * unit)
        return found if isinstance(found, float) else found / unit

    @cached_property
    def lost(self) -> float:
        """What underflow may take from any entry."""
        most = 2.0 * self.terms + 1.0
        if self.p.flush_to_zero:
            for product in self.products:
                most += product.left.largest_sum(0 if product.left_transposed else 1)
                most += product.right.largest_sum(1 if product.right_transposed else 0)
        return float(np.ldexp(most * self.p.underflow / (1.0 if self.p.flush_to_zero else 2.0), -self.exponent))

    @cached_property
    def bound(self) -> F64:
        """τ: rigorous, for every order of summation."""
        total: F64 = np.zeros(self.claimed.shape)
        size: F64 = np.zeros(self.claimed.shape)
        for product in self.products:
            a, b = product.operands("wide")
            one = matmul_bound(a, b, self.p, self.bias if self.bias is None else self.bias.astype(np.float64))
            if not self.kept.plain:
                one = one + self._storing(a, b, one)
            total += one
            if len(self.products) > 1:
                size += np.abs(a) @ np.abs(b)
        if len(self.products) > 1:
            lost = 2.0 * len(self.products) * self.p.smallest_normal if self.p.flush_to_zero else 0.0
            most = size + total
            total += accumulated(len(self.products) - 1, self.p.u) * most + lost
            for _ in self.products[1:]:
                # Partial sums are stored too.
                total += self.kept.rounding(most + total)
        return np.asarray(np.ldexp(total, -self.exponent))

    def _storing(self, a: F64, b: F64, bound: F64) -> F64:
        """What reading the operands and storing the product, before and after the bias, adds to its bound."""
        exact = a @ b
        terms = a.shape[1] + int(self.bias is not None)
        sizes = np.abs(a) @ np.abs(b) + (0.0 if self.bias is None else np.abs(self.bias.astype(np.float64)))
        read = self.kept.reading(sizes, terms, self.p)
        most = np.abs(exact) + bound + read
        stored = self.kept.rounding(most)
        if self.bias is None:
            return np.asarray(read + stored)
        return np.asarray(read + stored + self.kept.rounding(np.abs(exact + self.bias) + bound + read + stored))

    @property
    def errors(self) -> Errors:
        stored = [self.z] if self.bias is None and len(self.parts) == 1 else [self.z, *self.parts]
        return Errors(
            self.residual, self.z, self.variance, self.lost, flushed=sum((self._flushed(z) for z in stored), 0.0)
        )

    def _rescaled(self, value: F64, product: Product, power: int) -> F64:
        by = power * (product.exponent - self.exponent)
        return value if by == 0 else np.asarray(np.ldexp(value, by))
