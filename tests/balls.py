"""Gradients in ball arithmetic: every number is a midpoint with a radius, and the exact value provably lies within it.

Written from the formulas once more, sharing no code with the kernel, the reference or the oracle. Source of the
arithmetic: Johansson, "Arb: efficient arbitrary-precision midpoint-radius interval arithmetic", IEEE Trans. Comput. 66,
2017.

With ``unit`` above 0 every step is widened by what an arithmetic of that unit roundoff may lose in it
(:class:`Rounding`), so the balls then contain whatever such an arithmetic may return: a rounding bound for the whole
network, derived step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flint
import numpy as np
import numpy.typing as npt
from flint import arb

import pyengine as pe
from pyengine.spec import Layer

PRECISION = 320
"""Bits of a midpoint: what balls lose on small networks stays far under the 106 bits of the oracle."""

Balls = npt.NDArray[np.object_]


class KinkInDoubt(ArithmeticError):
    """A ball lies on both sides of a kink, so that the derivative is not known."""


@dataclass(frozen=True)
class Rounding:
    """What an arithmetic may lose: ``unit`` is its largest relative error in one addition, multiplication or division.

    * A scalar product of n terms loses at most (n + 1)·unit·Σ|a·b|, in any order (Higham 2002, eq. 3.5; a bias counts
      as a term). Double-double: (4n + 16)·u² against a unit of 16·u².
    * An elementary function loses at most 32 units of its value: NumPy's are within 4 ulp, the oracle's within 2^-99.
    * What cancels, or has a rounded argument, loses that much of the parts that it is made of; each place says which.
    * What is not 0 may lose ``tiny`` more, where numbers grow subnormal or vanish.
    """

    unit: arb
    tiny: arb

    def widen(self, value: arb, parts: arb | int, units: arb | int) -> arb:
        """The value with a radius larger by units·(unit·|parts| + tiny)."""
        if self.unit == 0 or parts == 0:
            return value
        return value + arb(0, (units * (self.unit * arb(abs(parts)).upper() + self.tiny)).upper())

    def product(self, a: Balls, b: Balls) -> Balls:
        """The matrix product a·b."""
        exact, parts = a @ b, np.abs(a) @ np.abs(b)
        return each(lambda value, part: self.widen(value, part, a.shape[1] + 1), exact, parts)

    def times(self, a: Balls, b: Balls) -> Balls:
        """The elementwise product."""
        return each(lambda value: self.widen(value, value, 1), a * b)


ELEMENTARY = 32


def each(function: Callable[..., Any], *arrays: Balls) -> Balls:
    """Apply a function to every element."""
    return np.asarray(np.frompyfunc(function, len(arrays), 1)(*arrays), dtype=object)


def exact(values: Any) -> Balls:
    """Floats as balls of radius 0."""
    return each(lambda value: arb(float(value)), np.asarray(values, dtype=np.float64))


def positive(value: arb, kink: str) -> bool:
    """Whether value > 0; the alternative is value ≤ 0."""
    if value > 0:
        return True
    if value <= 0:
        return False
    raise KinkInDoubt(f"{kink}: {value} may lie on either side of 0")


# -------------------------------------------------------------------------------------------------------- activations


def sigmoid(z: arb) -> arb:
    return 1 / (1 + (-z).exp())


def normal(z: arb) -> arb:
    return (-z / arb(2).sqrt()).erfc() / 2


def density(z: arb) -> arb:
    return (-z * z / 2).exp() / (2 * arb.pi()).sqrt()


def activation(name: str, slope: arb, z: arb, rounding: Rounding) -> tuple[arb, arb]:
    """f(z) and f'(z), each within the parts that its formula adds up."""
    zero, one = arb(0), arb(1)
    if name == "linear":
        return z, one
    if name in {"relu", "leaky_relu", "elu"}:
        if positive(z, name):
            return z, one
        if name == "relu":
            return zero, zero
        if name == "leaky_relu":
            return rounding.widen(slope * z, slope * z, 1), slope
        value, derivative = slope * z.expm1(), slope * z.exp()
        return rounding.widen(value, value, ELEMENTARY), rounding.widen(derivative, derivative, ELEMENTARY)
    parts: arb | int
    value_parts: arb | None = None
    amplified: arb | int = 1
    if name == "tanh":  # the derivative as (1 - h)(1 + h) has an absolute error
        value, derivative, parts = z.tanh(), 1 / z.cosh() ** 2, 1
    elif name == "sigmoid":  # so has 1 - s
        value, derivative, parts = sigmoid(z), sigmoid(z) * sigmoid(-z), sigmoid(z)
    elif name == "softplus":
        value, derivative = z.exp().log1p(), sigmoid(z)
        parts = derivative
    elif name == "silu":
        s = sigmoid(z)
        value, derivative, parts = z * s, s + z * s * sigmoid(-z), s + abs(z) * s
    elif name == "gelu":  # Φ as (1 + erf)/2 has an absolute error, and a rounded z² in the exponent costs z² units
        value, derivative, parts = z * normal(z), normal(z) + z * density(z), 1 + abs(z) * density(z)
        value_parts, amplified = abs(z), 1 + z * z
    elif name == "gelu_tanh":
        k, cubic = 2 * (2 / arb.pi()).sqrt(), arb(flint.fmpq(44715, 1000000))
        u, du = k * z * (1 + cubic * z * z), k * (1 + 3 * cubic * z * z)
        s = sigmoid(u)
        value, derivative, parts = z * s, s + z * s * sigmoid(-u) * du, 1 + abs(z) * s * du
        value_parts, amplified = abs(z), 1 + abs(u)
    else:
        raise NotImplementedError(name)
    return (
        rounding.widen(value, value if value_parts is None else value_parts, ELEMENTARY * amplified),
        rounding.widen(derivative, parts, ELEMENTARY * amplified),
    )


# ------------------------------------------------------------------------------------------------------------- losses


def softmax_loss(z: Balls, y: Balls, bounds: tuple[float, float] | None, rounding: Rounding) -> tuple[arb, Balls]:
    """l and ∂l/∂z of one sample: cross-entropy of softmax z, clipped to the bounds if there are any.

    With m_j = z_j - max z and ℓ = log Σ e^m, a probability p loses 8·(n + 4 + |m| + ℓ) units of itself, and log p as
    many units.
    """
    top = max(z, key=lambda value: float(value.mid()))
    m = z - top
    norm = sum(value.exp() for value in m)
    log_norm = norm.log()
    units = [8 * (len(z) + 4 + abs(value) + abs(log_norm)) for value in m]
    p = [rounding.widen(value.exp() / norm, value.exp() / norm, n) for value, n in zip(m, units, strict=True)]
    log_p = [rounding.widen(value - log_norm, 1, n) for value, n in zip(m, units, strict=True)]
    free = list(y)
    if bounds is not None:
        low, high = map(arb, bounds)
        for j in range(len(z)):
            if not positive(low - p[j], "low clip") and not positive(p[j] - high, "high clip"):
                continue
            free[j] = arb(0)
            log_p[j] = (low if low > p[j] else high).log()
            log_p[j] = rounding.widen(log_p[j], log_p[j], ELEMENTARY)
    terms = [a * b for a, b in zip(y, log_p, strict=True)]
    loss = rounding.widen(-sum(terms), sum(map(abs, terms)), len(z) + 1)
    total = rounding.widen(sum(free), sum(free), len(z))
    return loss, np.array(
        [rounding.widen(total * a - b, total * a + b, ELEMENTARY) for a, b in zip(p, free, strict=True)], dtype=object
    )


def clipped_binary_loss(z: arb, y: arb, bounds: tuple[float, float], rounding: Rounding) -> tuple[arb, arb]:
    """l and ∂l/∂z of one output: binary cross-entropy of sigmoid z, clipped to the bounds."""
    low, high = map(arb, bounds)
    p = rounding.widen(sigmoid(z), sigmoid(z), ELEMENTARY)
    outside = positive(low - p, "low clip") or positive(p - high, "high clip")
    if outside:
        q = low if low > p else high
        logs, slope = (q.log(), (1 - q).log()), arb(0)
    else:
        logs, slope = (-(-z).exp().log1p(), -z.exp().log1p()), sigmoid(z) - y
        slope = rounding.widen(slope, sigmoid(z) + y, 2 * ELEMENTARY)
    parts = [y * logs[0], (1 - y) * logs[1]]
    # 1 - q loses a unit of 1, and its logarithm that much of 1/(1 - q).
    amplified = 0 if outside else y / p + (1 - y) / (1 - p)
    return rounding.widen(-sum(parts), sum(map(abs, parts)) + amplified, 2 * ELEMENTARY), slope


def element_loss(name: str, delta: float, z: arb, y: arb, rounding: Rounding) -> tuple[arb, arb]:
    """l and ∂l/∂z of one output; four units beside those of the functions cover the few operations of each."""
    if name == "binary_cross_entropy":
        value = (1 - y) * z.exp().log1p() + y * (-z).exp().log1p()
        return (
            rounding.widen(value, abs(z) + abs(z * y) + arb(2).log(), ELEMENTARY),
            rounding.widen(sigmoid(z) - y, sigmoid(z) + y, ELEMENTARY),
        )
    r = rounding.widen(z - y, z - y, 1)
    if name == "mse":
        return rounding.widen(r * r, r * r, 4), 2 * r
    side = 0 if r == 0 else 1 if positive(r, name) else -1
    if name == "mae":
        return abs(r), arb(side)
    if not positive(abs(r) - delta, name):
        return rounding.widen(r * r / 2, r * r, 4), r
    return rounding.widen(delta * (abs(r) - arb(delta) / 2), delta * (abs(r) + delta), 4), arb(side * delta)


def factors(loss: pe.Loss, weights: Any, batch: int, n_out: int, rounding: Rounding) -> Balls:
    """c with L = Σ c_i·l_i; a sum of weights loses batch units of Σ|w|."""
    w = exact(np.ones(batch) if weights is None else weights)
    if loss.reduction == "sum":
        return w
    divisor = arb(batch) if loss.reduction == "mean" else rounding.widen(sum(w), sum(map(abs, w)), batch)
    if loss.averages_features:
        divisor = divisor * n_out
    return each(lambda value: rounding.widen(value / divisor, value / divisor, 4), w)


def rows(loss: pe.Loss, target: Any, n_out: int, rounding: Rounding) -> Balls:
    """Targets (batch, n_out), label smoothing applied."""
    array = np.asarray(target)
    y = exact(np.eye(n_out)[array] if array.ndim == 1 else array)
    smoothing = arb(float(getattr(loss, "label_smoothing", 0.0)))
    if smoothing == 0:
        return y
    return each(lambda v: rounding.widen((1 - smoothing) * v + smoothing / n_out, v + smoothing, 4), y)


def loss_and_gradient(
    loss: pe.Loss, z: Balls, target: Any, weights: Any, dtype: np.dtype[Any], rounding: Rounding
) -> tuple[arb, Balls]:
    """L and ∂L/∂z (batch, n_out)."""
    batch, n_out = z.shape
    y, c = rows(loss, target, n_out, rounding), factors(loss, weights, batch, n_out, rounding)
    dz, parts, total = np.empty_like(z), arb(0), arb(0)
    for i in range(batch):
        if isinstance(loss, pe.SoftmaxCrossEntropy | pe.ClippedCrossEntropy):
            bounds = loss.clip_bounds(dtype) if isinstance(loss, pe.ClippedCrossEntropy) else None
            l, dz[i] = softmax_loss(z[i], y[i], bounds, rounding)
        else:
            delta = loss.delta if isinstance(loss, pe.Huber) else 0.0
            if isinstance(loss, pe.ClippedBinaryCrossEntropy):
                edges = loss.clip_bounds(dtype)
                pairs = [clipped_binary_loss(a, b, edges, rounding) for a, b in zip(z[i], y[i], strict=True)]
            else:
                pairs = [element_loss(loss.name, delta, a, b, rounding) for a, b in zip(z[i], y[i], strict=True)]
            l, dz[i] = sum(value for value, _ in pairs), [slope for _, slope in pairs]
            l = rounding.widen(l, sum(abs(value) for value, _ in pairs), n_out)
        total, parts = total + c[i] * l, parts + abs(c[i] * l)
    return rounding.widen(total, parts, batch + 1), rounding.times(c[:, None], dz)


# -------------------------------------------------------------------------------------------------------- the network


@dataclass(frozen=True)
class BallGradients:
    """What ``gradients`` returns: as :class:`pyengine.Gradients`, with a ball for every number."""

    losses: dict[str, arb]
    total_loss: arb
    per_loss: dict[str, dict[str, Balls]]
    summed: dict[str, Balls]
    gramian: Balls


def gradients(
    net: pe.Network,
    params: pe.Parameters,
    x: Any,
    targets: Mapping[str, Any],
    sample_weight: Mapping[str, Any] | None = None,
    unit: float = 0.0,
    tiny: float = 2.0**-1022,
) -> BallGradients:
    """Balls around the losses and gradients of a small network; raises :class:`KinkInDoubt` where a ball meets a kink.

    ``unit`` 0 encloses the exact values, ``unit`` above 0 also the results of an arithmetic with that unit roundoff and
    ``tiny`` as its smallest normal number.
    """
    with flint.ctx.workprec(PRECISION):
        rounding = Rounding(arb(unit), arb(tiny))
        weights = {name: exact(value) for name, value in params.items()}
        trunk = _Pass(net.trunk_layers, weights, exact(x), rounding)
        heads = {name: _Pass(layers, weights, trunk.output, rounding) for name, layers in net.head_layers.items()}
        losses, seeds = {}, {}
        for name, head in net.heads.items():
            losses[name], seeds[name] = loss_and_gradient(
                head.loss, heads[name].output, targets[name], (sample_weight or {}).get(name), params.dtype, rounding
            )
        terms = [arb(head.weight) * losses[name] for name, head in net.heads.items()]
        per_loss: dict[str, dict[str, Balls]] = {}
        for name in net.heads:
            own: dict[str, Balls] = {}
            trunk.backward(heads[name].backward(seeds[name], own), own)
            per_loss[name] = own
        summed: dict[str, Balls] = {}
        parts = [
            heads[name].backward(rounding.times(np.array(arb(head.weight), dtype=object), seeds[name]), summed)
            for name, head in net.heads.items()
        ]
        joined = each(lambda *v: rounding.widen(sum(v), sum(map(abs, v)), len(v)), *parts)
        trunk.backward(joined, summed)
        jacobian = np.array(
            [
                np.concatenate([exact([]), *(own[name].ravel() for name in own if name.startswith("trunk."))])
                for own in per_loss.values()
            ],
            dtype=object,
        )
        return BallGradients(
            losses=losses,
            total_loss=rounding.widen(sum(terms), sum(map(abs, terms)), 2 * len(terms)),
            per_loss=per_loss,
            summed={name: summed[name] for name in params},
            gramian=rounding.product(jacobian, jacobian.T) if net.trunk_layers else exact(np.zeros((len(terms),) * 2)),
        )


class _Pass:
    """Forward through some layers, and backward again."""

    def __init__(self, layers: tuple[Layer, ...], weights: dict[str, Balls], h: Balls, rounding: Rounding) -> None:
        self.layers, self.weights, self.rounding = layers, weights, rounding
        self.inputs: list[Balls] = []
        self.slopes: list[Balls] = []
        for layer in layers:
            self.inputs.append(h)
            w = weights[f"{layer.name}.weight"]
            if layer.bias:
                h, w = (
                    np.hstack([h, exact(np.ones((len(h), 1)))]),
                    np.hstack([w, weights[f"{layer.name}.bias"][:, None]]),
                )
            z = rounding.product(h, w.T)
            slope = arb(layer.activation.slope)
            pairs = each(lambda v, name=layer.activation.name, s=slope: activation(name, s, v, rounding), z)
            h = each(lambda pair: pair[0], pairs)
            self.slopes.append(each(lambda pair: pair[1], pairs))
        self.output = h

    def backward(self, dh: Balls, gradient: dict[str, Balls]) -> Balls:
        for layer, h, slope in zip(self.layers[::-1], self.inputs[::-1], self.slopes[::-1], strict=True):
            dz = self.rounding.times(dh, slope)
            gradient[f"{layer.name}.weight"] = self.rounding.product(dz.T, h)
            if layer.bias:
                gradient[f"{layer.name}.bias"] = self.rounding.product(dz.T, exact(np.ones((len(dz), 1))))[:, 0]
            dh = self.rounding.product(dz, self.weights[f"{layer.name}.weight"])
        return dh


# --------------------------------------------------------------------------------------------------------- comparison


def outside(balls: BallGradients, high: Any, low: pe.Gradients | None = None) -> list[str]:
    """Name every number of ``high + low`` that its ball does not contain; a Gramian is looked at where there is one."""
    strayed: list[str] = []

    def look(label: str, enclosure: Any, a: Any, b: Any) -> None:
        a = np.asarray(a, dtype=np.float64)
        b = np.zeros_like(a) if b is None else np.asarray(b)
        enclosure = np.asarray(enclosure, dtype=object)
        assert enclosure.shape == a.shape == b.shape, label
        for index in np.ndindex(a.shape):
            # NaN is in no ball; a ball of an infinite radius, which contains all, says nothing.
            ball, value = enclosure[index], arb(float(a[index])) + arb(float(b[index]))
            if not (np.isfinite(a[index]) and ball.is_finite() and ball.contains(value)):
                strayed.append(f"{label}{list(index)}: {value.str(40)} is not in {ball.str(40)}")

    with flint.ctx.workprec(PRECISION):
        look("total_loss", balls.total_loss, high.total_loss, low and low.total_loss)
        if hasattr(high, "gramian"):
            look("gramian", balls.gramian, high.gramian, low and low.gramian)
        for name, ball in balls.losses.items():
            look(f"losses[{name!r}]", ball, high.losses[name], low and low.losses[name])
            for key, array in balls.per_loss[name].items():
                look(f"per_loss[{name!r}][{key!r}]", array, high.per_loss[name][key], low and low.per_loss[name][key])
        for key, array in balls.summed.items():
            look(f"summed[{key!r}]", array, high.summed[key], low and low.summed[key])
    return strayed
