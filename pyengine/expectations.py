"""What an operation should have given, with its bound, and the words for when it did not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .activations import Activation
from .errors import GradientMismatch
from .rounding import Precision, behaviour, matmul_bound
from .rounding.formats import FORMATS, Format, tf32_bound
from .rounding.split_products import split_matmul

F64 = npt.NDArray[np.float64]

PRODUCT = "any order of summation, fused or not (theorem; docs/tolerances.md, section 2)"
ACTIVATION = (
    "product as in section 2, then the activation's slope and evaluation (docs/tolerances.md, sections 2 and 3)"
)
SUM = "sum over the batch in any order (theorem; docs/tolerances.md, section 2)"


@dataclass(frozen=True, eq=False)
class Expected:
    """What the truth is, as high + low, with the bound on a correct implementation and where the bound comes from."""

    high: F64
    low: F64
    bound: F64
    source: str


@dataclass(frozen=True, eq=False)
class Arithmetic:
    """How an operation computes: the precision of its sums, the format of its result, and whether it reads TF32."""

    p: Precision
    out: Format
    tf32: bool
    accumulate: str

    def product(self, a: F64, b: F64, bias: F64 | None = None, source: str = PRODUCT) -> Expected:
        """A·B + bias for operands that are exact in their format."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            if self.accumulate == "float64":
                high, low, missed = split_matmul(a, b)
            else:
                # float64 is 2²⁹ times finer than float32; the bound's slack covers it (section 1).
                high, low, missed = a @ b, np.zeros((a.shape[0], b.shape[1])), np.zeros(())
            if bias is not None:
                total = high + bias
                back = total - high
                high, low = total, low + ((high - (total - back)) + (bias - back))
            bound = matmul_bound(a, b, self.p, bias)
            if self.tf32:
                sizes = np.abs(a) @ np.abs(b) + (0.0 if bias is None else np.abs(bias))
                bound = bound + tf32_bound(sizes, a.shape[1] + (bias is not None), self.p.u)
            return self.stored(Expected(high, low, bound + missed, f"{self.accumulate} sums, {source}"))

    def stored(self, e: Expected) -> Expected:
        """The result rounded to the format of the output, if that is narrower than the sums."""
        if self.out.u <= FORMATS[self.accumulate].u:
            return e
        rounding = self.out.rounding(np.abs(e.high) + e.bound)
        return Expected(e.high, e.low, e.bound + rounding, f"{e.source}; the result rounded to {self.out.name}")


def demand(name: str, found: F64, e: Expected, hints: Mapping[str, F64]) -> None:
    """Raise unless every entry lies within its bound; where a correct result may overflow, infinity is allowed."""
    ratios = _ratios(found, e.high, e.low, e.bound)
    failed = ~(ratios <= 1.0)
    if not failed.any():
        if not np.isfinite(e.bound).any():
            raise GradientMismatch(f"{name} cannot be judged: a correct result may overflow everywhere.")
        return
    index = tuple(int(i) for i in np.unravel_index(int(ratios.argmax()), ratios.shape))
    where = ", ".join(map(str, index))
    wrong, right, bound = float(found[index]), float(e.high[index]), float(e.bound[index])
    off = f"off by {abs(wrong - right):.3g}, {ratios[index]:.3g} times the bound {bound:.3g}"
    count = f"({int(failed.sum()):,} of {failed.size:,} entries are beyond)"
    lines = [f"{name}[{where}] is {wrong!r}, expected {right!r}: {off} {count}.", f"The bound: {e.source}."]
    lines += [f"It fits {hint}." for hint, other in hints.items() if _fits(found, other, e)]
    factor = _factor(found, e.high)
    if factor is not None and bool(
        (_ratios(found, factor * e.high, factor * e.low, (1.0 + abs(factor)) * e.bound) <= 1.0).all()
    ):
        lines.append(f"It fits the right result times {factor:.7g}.")
    raise GradientMismatch("\n".join(lines))


def _ratios(found: F64, high: F64, low: F64, bound: F64) -> F64:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        error = np.abs((found - high) - low)
        ratio = np.where(error == 0.0, 0.0, error / bound)
    ratio = np.where(np.isinf(bound) & ~np.isnan(found), 0.0, ratio)
    return np.asarray(np.where(np.isnan(ratio), np.inf, ratio))


def _fits(found: F64, other: F64, e: Expected) -> bool:
    return other.shape == found.shape and bool((_ratios(found, other, np.zeros_like(other), e.bound) <= 1.0).all())


def _factor(found: F64, right: F64) -> float | None:
    with np.errstate(over="ignore", invalid="ignore"):
        size = float((right * right).sum())
        factor = float((found * right).sum()) / size if 0.0 < size < np.inf else np.nan
    return factor if np.isfinite(factor) else None


def product_hints(a: F64, b: F64, bias: F64 | None, f: Activation | None = None) -> dict[str, F64]:
    """Results of common mistakes."""

    def value(z: F64) -> F64:
        return z if f is None else behaviour(f, z, np.zeros_like(z)).value

    with np.errstate(over="ignore", invalid="ignore"):
        plain = a @ b
        found = {} if bias is None else {"the result without the bias": value(plain)}
        if plain.shape[0] == plain.shape[1]:
            found["the result transposed"] = value((plain if bias is None else plain + bias).T)
        if f is not None and f.name != "linear":
            found["the result before the activation"] = plain if bias is None else plain + bias
    return found
