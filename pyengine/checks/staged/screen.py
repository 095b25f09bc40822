"""A quick look at a large product: its statistics in float32, block by block, in one pass over the memory.

Only Z is in float64, and Q is summed over a part of its terms: a smaller V makes every statistic larger. The rounding
errors of this look are added to its statistics before they are compared, so what it passes the exact evaluation would
pass. The rigorous bound needs no product of its own: V ≤ (u²/3)·total·S² (see
:class:`ProductVariance`), so S ≥ √(3V/(u²·total)), and |r| ≤ τ follows from |r|/√V.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...parameters import Array
from ...rounding import accumulated, unit_roundoff
from ...rounding.running import F64
from ...rounding.variance import ProductVariance, largest_of, product_variance
from .matrices import Product, Room
from .products import Linear
from .statistics import ALPHA, SIGNS, Scale, Statistics

BLOCK = 1 << 15
"""Entries of a block: what it needs stays in the cache."""

STRIDE = 4
"""Every how many terms of a long product enter Q. Correct errors are below a third of the limits as a rule."""

LONG = 64
"""Products of fewer terms enter Q whole."""

FEW = 1024
"""How many entries are evaluated once more, with all of their Q, before the quick look gives up."""

SMALLEST = 2.0**-100
"""Variances below this, of matrices of numbers below 1, may have lost digits to underflow in float32."""


@dataclass(frozen=True)
class Screened:
    """``statistics`` include the rounding of their own evaluation; ``ratio`` is at least |r|/τ.

    ``conclusive`` is False where numbers were too small for this look.
    """

    statistics: Statistics
    scale: Scale
    ratio: float
    at: tuple[int, ...]
    conclusive: bool
    actual_error: float | None = None
    expected_error: float | None = None


def screen(stage: Linear, signs: tuple[F64, F64], room: Room) -> Screened:
    """The statistics of a product or of a sum of products without bias, and an upper bound of its R."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        return _Blocks(stage, signs, room).screened()


class _Blocks:
    """Sums over the blocks of a stage, in units in which a rounding of 1 has variance 1."""

    def __init__(self, stage: Linear, signs: tuple[F64, F64], room: Room) -> None:
        self.stage = stage
        self.m, self.n = stage.claimed.shape
        self.dtype = stage.claimed.dtype
        self.stride = max(self._stride(product) for product in stage.products)
        if len(stage.products) == 1:
            (product,) = stage.products
            self.form = product_variance(product.shape[1], bias=stage.bias is not None)
            self.total = self.form.total
            self.z, self.w = product.of("scaled", room), product.squared(self._stride(product), room)
            self.shift = product.exponent - stage.exponent
        else:
            self.z, self.shift = stage.z, 0
            self._sum_of_products(room)
        self.bias = stage.scaled_bias
        self.unit = np.sqrt(3.0) / stage.u
        self.conclusive = bool((stage.lost * self.unit) ** 2 <= SMALLEST / 2.0**20)
        self.signs = signs
        self.height = max(1, min(self.m, BLOCK // self.n))
        self.buffers = [room.array(f"block {i}", self.height, self.n, self.dtype) for i in range(4)]
        self.wide = room.array("wide block", self.height, self.n, np.dtype(np.float64))
        self.rz, self.zzw = np.zeros(self.m), np.zeros(self.m)
        self.rz_columns, self.zzw_columns = np.zeros(self.n), np.zeros(self.n)
        self.zz, self.rr = np.zeros(self.m), np.zeros(self.m)
        self.zz_columns, self.rr_columns = np.zeros(self.n), np.zeros(self.n)
        self.all_w = 0.0
        self.signed = np.zeros(SIGNS)
        self.entry, self.at = -1.0, (0, 0)
        self.most = largest_of(self.m * self.n, ALPHA) ** 2

    @staticmethod
    def _stride(product: Product) -> int:
        return STRIDE if product.shape[1] >= LONG else 1

    def _sum_of_products(self, room: Room) -> None:
        """Put what does not depend on the sum itself into w: the variances of the parts, and of adding them up."""
        heads = len(self.stage.products)
        w, self.total = np.zeros((self.m, self.n), self.dtype), 0.0
        adding = (heads + 1) / 6.0 - 1.0 / heads
        for product, part in zip(self.stage.products, self.stage.parts, strict=True):
            form = product_variance(product.shape[1], bias=False)
            self.total = max(self.total, form.total + adding)
            narrow, q = part.astype(self.dtype), product.squared(self._stride(product), room)
            narrow *= narrow
            narrow *= self.dtype.type(form.on_z + adding)
            q *= self.dtype.type(form.on_q * 4.0 ** (product.exponent - self.stage.exponent))
            w += q
            w += narrow
        self.w, self.form = w, ProductVariance(1.0, (heads + 1) / 3.0, 0.0)
        self.total += self.form.on_z

    def screened(self) -> Screened:
        ones = np.ones(max(self.n, self.height), self.dtype)
        right = np.ascontiguousarray(self.signs[1].T).astype(self.dtype)
        for start in range(0, self.m, self.height):
            self._block(slice(start, min(start + self.height, self.m)), ones, right)
        return self._finished()

    def _block(self, rows: slice, ones: Array, right: Array) -> None:
        count = rows.stop - rows.start
        r, z, t, s = (buffer[:count] for buffer in self.buffers)
        wide, exact, w = self.wide[:count], self.z[rows], self.w[rows]
        if self.shift:
            np.ldexp(exact, self.shift, out=exact)
            np.ldexp(w, 2 * self.shift, out=w)
        w *= self.dtype.type(self.form.on_q)
        if self.bias is not None:
            np.multiply(exact, exact, out=s, casting="same_kind")
            w += s
            w += (self.form.on_q * self.bias * self.bias).astype(self.dtype)
            exact += self.bias
        np.multiply(self.stage.claimed[rows], 2.0**-self.stage.exponent, out=wide, dtype=np.float64)
        wide -= exact
        np.multiply(wide, self.unit, out=r, casting="same_kind")
        np.copyto(z, exact, casting="same_kind")
        np.multiply(z, z, out=s)
        np.multiply(s, self.dtype.type(self.form.on_z), out=t)
        w += t
        if not w.min() >= SMALLEST:
            low = w < self.dtype.type(SMALLEST)
            self.conclusive = self.conclusive and not r[low].any()
            w[low] = SMALLEST
        self.zz[rows] = s @ ones[: self.n]
        self.zz_columns += ones[:count] @ s
        self.all_w += float((w @ ones[: self.n]).sum(dtype=np.float64))
        s *= w
        self.zzw[rows] = s @ ones[: self.n]
        self.zzw_columns += ones[:count] @ s
        np.multiply(r, z, out=t)
        self.rz[rows] = t @ ones[: self.n]
        self.rz_columns += ones[:count] @ t
        self.signed += (self.signs[0][:, rows] * (r @ right).T).sum(axis=1)
        np.multiply(r, r, out=t)
        self.rr[rows] = t @ ones[: self.n]
        self.rr_columns += ones[:count] @ t
        t /= w
        most = float(t.max())
        if self.most < most < np.inf:
            self._once_more(rows.start, r, t)
            most = float(t.max())
        if not most <= self.entry:
            self.entry = most if most >= 0.0 else np.inf
            i, j = np.unravel_index(int(t.argmax()), t.shape)
            self.at = (int(i) + rows.start, int(j))

    def _once_more(self, start: int, r: Array, t: Array) -> None:
        """Entries beyond the limit may owe that to the missing terms of Q: a sparse operand leaves few of them."""
        i, j = np.nonzero(t > self.most)
        if i.size > FEW:
            self.conclusive = False
            return
        t[i, j] = (r[i, j] / self.unit).astype(np.float64) ** 2 / self.stage.variance_at(i + start, j)

    def _finished(self) -> Screened:
        # V is off by k roundings of Q, a projection by those of its own sum: γ·Σ|r·z| ≤ γ·√(Σr²·Σz²) (Cauchy-Schwarz).
        u = unit_roundoff(self.dtype)
        grown = 1.0 + accumulated(self.stage.terms + 8, u)
        gamma = accumulated(max(self.n, self.height) + 8, u)

        def projected(r: F64, v: F64, rr: F64, zz: F64) -> float:
            top = np.abs(r) + gamma * np.sqrt(rr * zz)
            ratio = np.where(top == 0.0, 0.0, top / np.sqrt(v))
            return float(np.where(np.isnan(ratio), np.inf, ratio).max()) * grown

        sums = (self.rz, self.zzw, self.rr, self.zz)
        rz, zzw, rr, zz = (np.atleast_1d(part.sum()) for part in sums)
        found = Statistics(
            entry=float(np.sqrt(self.entry)) * grown,
            whole=projected(rz, zzw, rr, zz),
            row=projected(*sums),
            column=projected(self.rz_columns, self.zzw_columns, self.rr_columns, self.zz_columns),
            signs=projected(self.signed, np.full(SIGNS, self.all_w), rr, np.array([float(self.m * self.n)])),
        )
        scale = Scale(0.0, 0.0)
        if zz[0] > 0.0:
            # With the whole of Q the deviation is larger, by about this at most.
            deviation = np.sqrt(self.stride * zzw[0])
            scale = Scale(float(rz[0] / zz[0] / self.unit), float(deviation / zz[0] / self.unit))
        # Of a sum of products each meets at least the roundings of the shortest.
        fewest = min(product.shape[1] for product in self.stage.products) + int(self.bias is not None)
        sharpest = accumulated(fewest, self.stage.p.u) / self.stage.u * np.sqrt(3.0 / self.total)
        actual = expected = None
        if zz[0] > 0.0:
            actual = float(np.sqrt(rr[0] / zz[0]) / self.unit)
            expected = float(np.sqrt(self.stride * self.all_w / zz[0]) / self.unit)
        return Screened(found, scale, found.entry / float(sharpest), self.at, self.conclusive, actual, expected)
