"""What it costs to keep intermediate numbers in bfloat16 or float16, or to read operands of products as TF32.

Sums are held in float32 (or float64); the result of every operation is rounded once more when it is stored, and every
elementwise step of a loss may be. docs/tolerances.md, section 8, derives each line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..losses import MAE, MSE, BinaryCrossEntropy, Huber, Loss, SoftmaxCrossEntropy
from .activations import sigmoid
from .formats import FORMATS, TF32_ROUNDOFF, Format, tf32_bound
from .precision import EVALUATION, Precision

if TYPE_CHECKING:
    from ..batch import HeadTarget
    from .running import F64

NARROW = ("bfloat16", "float16")


@dataclass(frozen=True)
class Storage:
    """``format`` is where operations put their results, ``loss`` where the steps inside a loss do.

    ``tf32``: float32 operands of products are rounded to 11 bits. ``flush_to_zero``: subnormal numbers may vanish.
    ``steps``: every elementary step of an activation and its derivative is stored too, as TensorFlow and JAX do.
    ``sums``: so are the partial sums over a batch, as there.
    """

    format: Format
    loss: Format
    tf32: bool = False
    flush_to_zero: bool = False
    steps: bool = False
    sums: bool = False

    @property
    def plain(self) -> bool:
        """Whether nothing is rounded beyond the sums themselves."""
        return not self.tf32 and self.format.name not in NARROW

    @property
    def lost(self) -> float:
        """What storing a number may lose to underflow."""
        if self.format.name not in NARROW:
            return 0.0
        return self.format.smallest_normal if self.flush_to_zero else self.format.half_spacing

    def rounding(self, most: F64) -> F64:
        """Bound on storing numbers of at most this magnitude; infinite where one may overflow."""
        if self.format.name not in NARROW:
            return np.zeros_like(most)
        bound = self.format.rounding(most)
        return bound + np.where(most > 0.0, self.lost, 0.0) if self.flush_to_zero else bound

    def stepwise(self, p: Precision) -> Precision:
        """The precision of elementwise steps: that of the format where each is stored, else that of the sums."""
        return self.arithmetic(self.format, p) if self.steps else p

    def summing(self, p: Precision) -> Precision:
        """The precision of sums over a batch."""
        return self.arithmetic(self.format, p) if self.sums else p

    def arithmetic(self, own: Format, p: Precision) -> Precision:
        """The precision of operations whose results are stored in a format at once; p where it is not narrow."""
        if own.name not in NARROW:
            return p
        # An operation in float32 and its storage: both roundings, each once.
        u = own.u * EVALUATION + p.u * (1.0 + own.u)
        return Precision(u, own.smallest_normal, 2.0 * own.half_spacing, own.largest, p.flush_to_zero)

    def variance(self, z: F64) -> F64:
        """V of storing z: uniform over the roundings that :meth:`rounding` bounds."""
        if self.format.name not in NARROW:
            return np.zeros_like(z)
        u = self.format.u
        return np.asarray((u * u * z * z + np.where(z != 0.0, self.lost**2, 0.0)) / 3.0)

    def flushed(self, z: F64) -> F64 | float:
        """How much storing these numbers may take from each where subnormal numbers vanish: always towards 0."""
        if self.format.name not in NARROW or not self.flush_to_zero:
            return 0.0
        size = np.abs(z)
        return np.where(size * (1.0 - 2.0 * self.format.u) < self.format.smallest_normal, size, 0.0)

    def reading(self, sizes: F64, n: int, p: Precision) -> F64 | float:
        """Bound on what reading operands as TF32 adds to a product of n terms, ``sizes`` = Σ|a·b| + |bias|."""
        return tf32_bound(sizes, n, p.u) if self.tf32 else 0.0

    def reading_variance(self, q: F64) -> F64 | float:
        """V of reading both factors of every product as TF32, Q = Σ a²b²."""
        return 2.0 * TF32_ROUNDOFF**2 / 3.0 * q if self.tf32 else 0.0

    def stored(self, a: F64) -> F64:
        """The nearest numbers of the format, ties to even; float64 in and out. For recomputations."""
        if self.format.name not in NARROW:
            return a
        return nearest(a, self.format)

    def read(self, a: F64) -> F64:
        """Operands as products see them."""
        return nearest(a, TF32) if self.tf32 else a

    def coherent(self, loss: Loss, given: HeadTarget, weight: float, n_out: int) -> float:
        """How many roundings of the factor c = weight/divisor all entries of ∂L/∂z may share, in the loss's format.

        Powers of two do not round: neither a weight of 1 nor a mean over 64 samples costs anything.
        """
        if self.loss.name not in NARROW:
            return 0.0
        divisor = given.divisor(loss, n_out)
        weighs = 0.0 if _power_of_two(weight) else 1.0
        # 1/N, or separate means over batch and features.
        divides = 0.0 if _power_of_two(divisor) else 2.0
        return weighs + divides + (2.0 if weighs and divides else 0.0)

    def loss_roundings(self, loss: Loss, given: HeadTarget, weight: float, n_out: int) -> float:
        """All roundings of a sample's factor in the loss's format, those of its products with ∂l/∂z among them."""
        if self.loss.name not in NARROW:
            return 0.0
        n = self.coherent(loss, given, weight, n_out)
        if given.weights is not None:
            n += 2.0
            if loss.reduction == "weighted_mean":
                # Σw is a sum in float32, stored once.
                n += 1.0
        return n + (0.0 if n == 0.0 and _power_of_two(weight) else 2.0)

    def loss_steps(self, loss: Loss, z: F64, y: F64) -> F64:
        """Bound on what the elementwise steps of ∂l/∂z (unscaled) lose when each is stored in the loss's format.

        Sums over the classes, exp and log inside a softmax are held in float32 and bounded elsewhere.
        """
        if self.loss.name not in NARROW:
            return np.zeros_like(z)
        u = self.loss.u * EVALUATION
        steps = _steps(loss, z, y, u)
        return np.asarray(steps + 4.0 * np.where(steps > 0.0, self.lost, 0.0))


def _steps(loss: Loss, z: F64, y: F64, u: float) -> F64:
    r = z - y
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        if isinstance(loss, MSE):
            return np.asarray(3.0 * u * np.abs(2.0 * r))
        if isinstance(loss, MAE):
            return np.zeros_like(z)
        if isinstance(loss, Huber):
            return np.asarray(3.0 * u * np.minimum(np.abs(r), loss.delta))
        if isinstance(loss, BinaryCrossEntropy):
            # σ(z) - y; or (1 - y) - σ(-z), where e^-|z| is stored too.
            s, other = sigmoid(z), sigmoid(-z)
            return np.asarray(4.0 * u * np.maximum(s + y, (1.0 - y) + other) + u * np.abs(s - y))
        assert isinstance(loss, SoftmaxCrossEntropy)
        m = z - z.max(axis=1, keepdims=True)
        total = np.exp(m).sum(axis=1, keepdims=True)
        log_p = m - np.log(total)
        # log p or p is stored; then Σy·p, y (smoothed: y and its sum), and the difference.
        off = u * (np.abs(log_p) + 2.0)
        moved = np.fmin(np.exp(log_p) * np.expm1(off), np.exp(log_p + off))
        mass = y.sum(axis=1, keepdims=True)
        return np.asarray(mass * np.fmin(moved, 1.0) + 4.0 * u * (mass * np.exp(log_p) + y))


TF32 = Format("tf32", TF32_ROUNDOFF, 2.0**-137, (2.0 - 2.0**-10) * 2.0**127)


def storage(
    name: str = "float32",
    loss: str | None = None,
    *,
    tf32: bool = False,
    flush: bool = False,
    steps: bool = False,
    sums: bool = False,
) -> Storage:
    """Storage in the format of that name; ``loss`` defaults to the same.

    >>> storage("bfloat16").rounding(np.ones(1)) < 2.0**-7
    array([ True])
    """
    return Storage(FORMATS[name], FORMATS[loss or name], tf32, flush, steps, sums)


PLAIN = storage()
"""Nothing is rounded beyond the sums themselves."""


def roundoff_of(name: str) -> float:
    """The unit roundoff of a format, by its name; TF32 among them."""
    return TF32_ROUNDOFF if name == "tf32" else FORMATS[name].u


def nearest(a: F64, into: Format) -> F64:
    """float64 numbers rounded to the nearest of a narrower format, ties to even, subnormal numbers among them.

    >>> float(nearest(np.array([1.0 + 2.0**-8]), FORMATS["bfloat16"])[0])
    1.0
    """
    _, exponents = np.frexp(a)
    unit = np.maximum(np.ldexp(into.u * 2.0, exponents - 1), 2.0 * into.half_spacing)
    with np.errstate(invalid="ignore", over="ignore"):
        found = np.where(np.isfinite(a), np.rint(a / unit) * unit, a)
        return np.asarray(np.where(np.abs(found) > into.largest, np.copysign(np.inf, found), found))


def _power_of_two(value: float) -> bool:
    return value != 0.0 and abs(float(np.frexp(value)[0])) == 0.5
