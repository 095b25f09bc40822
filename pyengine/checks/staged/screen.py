"""A quick look at a large product: its statistics in float32, in one pass over the memory (csrc/ops/screen.inl.hpp).

Only Z is in float64, and Q is summed over a part of its terms: a smaller V makes every statistic larger. The rounding
errors of this look are added to its statistics before they are compared, so what it passes the exact evaluation would
pass. The rigorous bound needs no product of its own: V ≤ (u²/3)·total·S² (see
:class:`ProductVariance`), so S ≥ √(3V/(u²·total)), and |r| ≤ τ follows from |r|/√V.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ... import _core
from ...arrays import put
from ...parameters import Array
from ...rounding import accumulated, unit_roundoff
from ...rounding.running import F64
from ...rounding.variance import ProductVariance, largest_of, product_variance
from .matrices import Product, Room
from .products import Linear
from .statistics import ALPHA, SIGNS, Scale, Statistics

STRIDE = 4
"""Every how many terms of a long product enter Q. Correct errors are below a third of the limits as a rule."""

LONG = 64
"""Products of fewer terms enter Q whole,"""

CHEAP = 1 << 20
"""and those of fewer multiplications."""

FEW = 1024
"""How many entries are evaluated once more, with all of their Q, at a time."""

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
    conclusive: bool
    actual_error: float | None = None
    expected_error: float | None = None


def screen(stage: Linear, signs: tuple[F64, F64], room: Room) -> Screened:
    """The statistics of a product or of a sum of products without bias, and an upper bound of its R."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        return _Look(stage, signs, room).screened()


class _Look:
    """The operands of one pass over a stage, in units in which a rounding of 1 has variance 1."""

    def __init__(self, stage: Linear, signs: tuple[F64, F64], room: Room) -> None:
        self.stage = stage
        self.m, self.n = stage.claimed.shape
        self.dtype = stage.claimed.dtype
        self.stride = max(self._stride(product) for product in stage.products)
        if len(stage.products) == 1:
            (product,) = stage.products
            self.form = product_variance(product.shape[1], bias=stage.bias is not None)
            self.total = self.form.total
            self.z, self.q = product.of("scaled", room), product.squared(self._stride(product), room)
            self.shift = product.exponent - stage.exponent
        else:
            self.shift = 0
            self._sum_of_products(room)
        self.claimed = stage.claimed
        if not self.claimed.flags.c_contiguous:
            self.claimed = room.array("claimed", self.m, self.n, self.dtype)
            put(self.claimed, stage.claimed)
        self.bias = stage.scaled_bias
        self.unit = float(np.sqrt(3.0)) / stage.u
        self.signs = signs
        self.most = largest_of(self.m * self.n, ALPHA) ** 2

    def _stride(self, product: Product) -> int:
        return STRIDE if product.shape[1] >= LONG and self.stage.work > CHEAP else 1

    def _sum_of_products(self, room: Room) -> None:
        """Put what does not depend on the sum itself into q: the variances of the parts, and of adding them up."""
        heads = len(self.stage.products)
        wide, one = np.dtype(np.float64), self.dtype.type
        self.z = room.array("sum", self.m, self.n, wide)
        self.q = room.array("sum of squares", self.m, self.n, self.dtype)
        narrow = room.array("narrow", self.m, self.n, self.dtype)
        self.z[:], self.q[:], self.total = 0.0, 0.0, 0.0
        adding = (heads + 1) / 6.0 - 1.0 / heads
        for product in self.stage.products:
            form = product_variance(product.shape[1], bias=False)
            self.total = max(self.total, form.total + adding)
            part, squares = product.of("scaled", room), product.squared(self._stride(product), room)
            by = product.exponent - self.stage.exponent
            part *= float(np.ldexp(1.0, by))
            self.z += part
            np.copyto(narrow, part, casting="same_kind")
            narrow *= narrow
            narrow *= one(form.on_z + adding)
            squares *= one(form.on_q * float(np.ldexp(1.0, 2 * by)))
            self.q += squares
            self.q += narrow
        self.form = ProductVariance(1.0, (heads + 1) / 3.0, 0.0)
        self.total += self.form.on_z

    def screened(self) -> Screened:
        bias, up = self.bias, float(np.ldexp(1.0, self.shift))
        found = _core.screen(
            claimed=self.claimed,
            z=self.z,
            q=self.q,
            bias=bias,
            bias_v=None if bias is None else (self.form.on_q * bias * bias).astype(self.dtype),
            signs=self.signs[1].astype(self.dtype),
            up=up,
            down=float(np.ldexp(1.0, -self.stage.exponent)),
            unit=self.unit,
            on_q=self.form.on_q * up * up,
            on_z=self.form.on_z,
            smallest=SMALLEST,
            limit=self.most,
        )
        rows, columns, top, infinite, low, listed, at, r = found
        entry = np.inf if infinite else float(np.maximum(top, self._once_more(at, r)))
        conclusive = listed and not low and (self.stage.lost * self.unit) ** 2 <= SMALLEST / 2.0**20
        return self._finished(rows, columns, entry, conclusive=bool(conclusive))

    def _once_more(self, at: npt.NDArray[np.int64], r: Array) -> float:
        """Entries beyond the limit may owe that to the missing terms of Q: a sparse operand leaves few of them."""
        most = 0.0
        for start in range(0, at.size, FEW):
            i, j = np.divmod(at[start : start + FEW], self.n)
            own = (r[start : start + FEW] / self.unit).astype(np.float64)
            most = float(np.maximum(most, (own**2 / self.stage.variance_at(i, j)).max()))
        return most

    def _finished(self, rows: F64, columns: F64, entry: float, *, conclusive: bool) -> Screened:
        # V is off by k roundings of Q, a projection by those of its own sum: γ·Σ|r·z| ≤ γ·√(Σr²·Σz²) (Cauchy-Schwarz).
        u = unit_roundoff(self.dtype)
        grown = 1.0 + accumulated(self.stage.terms + 8, u)
        # Beyond its terms of one dtype a sum has those of the double sums of each 64, and of the strips.
        longest = max(self.m, self.n)
        gamma = accumulated(min(_core.screen_terms, longest) + longest // 64 + 24, u)

        def projected(r: F64, v: F64, rr: F64, zz: F64) -> float:
            top = np.abs(r) + gamma * np.sqrt(rr * zz)
            ratio = np.where(top == 0.0, 0.0, top / np.sqrt(v))
            return float(np.where(np.isnan(ratio), np.inf, ratio).max()) * grown

        rz, zzw, rr, zz = (np.atleast_1d(part.sum()) for part in rows[:4])
        all_w = float(rows[4].sum())
        signed = (self.signs[0] * rows[5:]).sum(axis=1)
        found = Statistics(
            entry=float(np.sqrt(entry)) * grown,
            whole=projected(rz, zzw, rr, zz),
            row=projected(*rows[:4]),
            column=projected(*columns),
            signs=projected(signed, np.full(SIGNS, all_w), rr, np.array([float(self.m * self.n)])),
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
            expected = float(np.sqrt(self.stride * all_w / zz[0]) / self.unit)
        return Screened(found, scale, found.entry / float(sharpest), conclusive, actual, expected)
