"""How far rounding typically carries an operation: the variance V of its error, where the bounds of the other modules
are worst cases.

Model: every rounding changes x by x·δ, δ of mean zero, uncorrelated with what came before, and at most of variance
u²/3, that of the uniform distribution on ±u; sums add their terms one by one in a random order. Under this model the
errors of a stage are sums of martingale differences, so that few of them lie beyond a few σ = √V (Higham & Mary 2019;
Ipsen & Zhou 2020). docs/tolerances.md, section 9, derives every line and says what is assumed.

V is an envelope and no bound: constant data breaks it, which is why the check replays what V would refuse. It is linear
in what it is given, so that callers may scale operands by powers of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..losses import (
    MAE,
    MSE,
    BinaryCrossEntropy,
    ClippedBinaryCrossEntropy,
    ClippedCrossEntropy,
    Huber,
    Loss,
    SoftmaxCrossEntropy,
)
from .activations import sigmoid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .running import F64

COHERENT = 6.0
"""How many u a factor common to all entries of a loss's gradient may be off.

Of the eight roundings that the bound grants (``SCALE_ROUNDINGS``) six meet every sample alike: the quotient 1/N, two
separate means, the head's weight, and two products with it. The other two do not: a sample's weight is its own, and the
divisor N is exact.
"""

SCALE_PRODUCTS = 5.0
"""Roundings of an entry of ∂L/∂z that differ from sample to sample: products with weights and divisors."""


@dataclass(frozen=True)
class ProductVariance:
    """V of A·B (+ bias) as a linear form of what a product leaves: V = (u²/3)·(on_q·Q + on_z·Z² + on_z0·Z0²).

    Q = Σ a²b² + bias², Z = A·B + bias, Z0 = A·B.
    """

    on_q: float
    on_z: float
    on_z0: float

    @property
    def total(self) -> float:
        """The largest that the form can be where Q, Z² and Z0² are at most 1: with S = Σ|ab| + |bias|, V ≤ total·S²."""
        return self.on_q + self.on_z + self.on_z0


def product_variance(k: int, *, bias: bool) -> ProductVariance:
    """The variance of a product with ``k`` terms per entry, and a bias or none.

    The n = k + [bias] terms are rounded (Q) and added in a random order, which costs (n + 1)/6·Q + (n + 1)/3·Z²; the
    order of the bias is not random in most implementations, hence Z0².

    >>> product_variance(11, bias=True)
    ProductVariance(on_q=3.1666666666666665, on_z=5.0, on_z0=1.0)
    """
    n = k + int(bias)
    return ProductVariance((n + 1) / 6.0 + 1.0, n / 3.0 + 1.0, float(bias))


def sum_variance(z: F64, q: F64, n: int, u: float) -> F64:
    """V of a sum Z of ``n`` terms with Q = Σ term²; the terms may be rounded on the way, as compilers fuse them."""
    return np.asarray(u * u / 3.0 * (((n + 1) / 6.0 + 1.0) * q + (n + 1) / 3.0 * z * z))


def heads_variance(parts: Sequence[F64], z: F64, u: float) -> F64:
    """What adding the heads' shares Z_1 + … + Z_K = Z costs, beside the variances of the shares themselves.

    The K - 1 additions of a random order: ((K + 1)/6 - 1/K)·ΣZ_k² + (K + 1)/3·Z²; for two heads that is Z².
    """
    k = len(parts)
    if k == 1:
        return np.zeros_like(z)
    squares = sum(part * part for part in parts)
    return np.asarray(u * u / 3.0 * (((k + 1) / 6.0 - 1.0 / k) * squares + (k + 1) / 3.0 * z * z))


def loss_variance(loss: Loss, z: F64, y: F64, d: F64, u: float) -> F64:
    """V of the unscaled derivative d = ∂l/∂z of a loss at outputs z with target rows y, all (batch, n_out).

    Multiply by the square of the sample's factor. :data:`COHERENT` is not in it.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        own = _huber(z, y, loss) if isinstance(loss, Huber) else _OF_LOSS[type(loss)](z, y)
        return np.asarray(u * u / 3.0 * (own + SCALE_PRODUCTS * d * d))


def _residual(z: F64, y: F64) -> F64:
    """z - y is rounded once; a factor of 2 does not round."""
    return np.asarray((2.0 * (z - y)) ** 2)


def _huber(z: F64, y: F64, loss: Huber) -> F64:
    """z - y is rounded once, and clipped: the envelope of the parabola holds beyond it too.

    Within ±delta optax's form has autodiff compute delta + (|z - y| - delta), one delta rounded where that is fused.
    """
    r, delta = np.abs(z - y), loss.delta
    if loss.form == "clipped":
        return np.asarray(r**2)
    return np.asarray(r**2 + np.where(r < delta, (delta - r) ** 2 + delta**2, 0.0))


def _sign(z: F64, _: F64) -> F64:
    return np.zeros_like(z)


def softmax_variance(z: F64) -> tuple[F64, F64]:
    """p = softmax(z), and the variance of its evaluation by exp/sum or by exp(log-softmax), in units of u²/3.

    With m = z - max z and ℓ = log Σ exp m: rounding m, log p = m - ℓ and ℓ itself (m² + lp² + ℓ²), two exp, a log and
    a quotient (10), the sum over C classes (C/3), and the terms' own rounded arguments (Σ (p·m)²).
    """
    m = z - z.max(axis=1, keepdims=True)
    e = np.exp(m)
    total = e.sum(axis=1, keepdims=True)
    p, l = e / total, np.log(total)
    inner = ((p * m) ** 2).sum(axis=1, keepdims=True)
    relative = m**2 + (m - l) ** 2 + l**2 + 10.0 + z.shape[1] / 3.0 + inner
    return p, np.asarray(np.where(p > 0.0, (p * p) * relative, 0.0))


def _softmax_cross_entropy(z: F64, y: F64) -> F64:
    p, v = softmax_variance(z)
    mass = y.sum(axis=1, keepdims=True)
    # Σy·p and y (smoothed: four roundings) before they are subtracted.
    return np.asarray(mass**2 * (v + (1.0 + y.shape[1] / 3.0) * p * p) + 4.0 * y * y)


def _clipped_cross_entropy(z: F64, y: F64) -> F64:
    p, v = softmax_variance(z)
    mass = y.sum(axis=1, keepdims=True)
    # Two more divisions, and two more sums over the classes on the way back.
    return np.asarray(mass**2 * (v + (16.0 + y.shape[1]) * p * p) + 8.0 * y * y)


def _binary_cross_entropy(z: F64, y: F64) -> F64:
    # σ(z) - y; and by autodiff of -y·log σ(z) - (1 - y)·log σ(-z): y·σ(-z) and (1 - y)·σ(z).
    return np.asarray(11.0 * (sigmoid(z) ** 2 + (y * sigmoid(-z)) ** 2) + y * y)


def _clipped_binary_cross_entropy(z: F64, y: F64) -> F64:
    # The sigmoid, and what autodiff forms of it: y/q and (1 - y)/(1 - q), each times p·(1 - p).
    s, rest = sigmoid(z), sigmoid(-z)
    return np.asarray(11.0 * s**2 + 8.0 * ((y * rest) ** 2 + ((1.0 - y) * s) ** 2))


_OF_LOSS: dict[type[Loss], Callable[[Any, Any], F64]] = {
    MSE: _residual,
    MAE: _sign,
    SoftmaxCrossEntropy: _softmax_cross_entropy,
    ClippedCrossEntropy: _clipped_cross_entropy,
    BinaryCrossEntropy: _binary_cross_entropy,
    ClippedBinaryCrossEntropy: _clipped_binary_cross_entropy,
}


def largest_of(entries: int, alpha: float) -> float:
    """The limit of max|r|/√V over that many entries: √3·√(2·log(2·entries/α)).

    Azuma's inequality with a union bound; √3, because u²/3 is the variance of a rounding that is at most u.

    >>> 13.0 < largest_of(1000, 1e-9) < 13.1
    True
    """
    return math.sqrt(3.0) * math.sqrt(2.0 * math.log(2.0 * max(entries, 1) / alpha))
