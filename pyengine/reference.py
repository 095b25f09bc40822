"""The textbook: forward and backward of a dense network with a trunk and heads, in NumPy float64, meant to be read.

Activation beside derivative, loss beside gradient, dense layer forward beside backward, and then the network. A batch
is a matrix with one sample per row: x (batch, n_in), h (batch, n_out). dh stands for ∂L/∂h. Conventions at kinks are
those of ``activations.py`` and ``losses.py``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .batch import checked_batch, checked_input
from .errors import sentence
from .losses import ClippedBinaryCrossEntropy, ClippedCrossEntropy, Huber
from .parameters import Layout, Parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .activations import Activation
    from .batch import HeadTarget
    from .engine import Network
    from .gradients import Gradients
    from .losses import Loss
    from .spec import Layer

Array = npt.NDArray[np.float64]

# -------------------------------------------------------------------------------------------------------- activations
# Each takes z, two of them also the activation's slope, and returns f(z) and f'(z).


def linear(z: Array) -> tuple[Array, Array]:
    """f = z, f' = 1."""
    return z, np.ones_like(z)


def relu(z: Array) -> tuple[Array, Array]:
    """f = max(z, 0), f' = [z > 0]."""
    return np.maximum(z, 0.0), np.where(z > 0.0, 1.0, 0.0)


def leaky_relu(z: Array, slope: float) -> tuple[Array, Array]:
    """f = z or slope·z, f' = 1 or slope."""
    return np.where(z > 0.0, z, slope * z), np.where(z > 0.0, 1.0, slope)


def elu(z: Array, slope: float) -> tuple[Array, Array]:
    """f = z or slope·(eᶻ - 1), f' = 1 or slope·eᶻ."""
    below = np.minimum(z, 0.0)
    return np.where(z > 0.0, z, slope * np.expm1(below)), np.where(z > 0.0, 1.0, slope * np.exp(below))


def tanh(z: Array) -> tuple[Array, Array]:
    """f = h = tanh z, f' = 1 - h² = (1 - h)(1 + h), which is closer than 1 - h² where h is near ±1."""
    h = np.tanh(z)
    return h, (1.0 - h) * (1.0 + h)


def sigmoid(z: Array) -> tuple[Array, Array]:
    """f = 1/(1 + e⁻ᶻ), f' = f(z)·f(-z), where f(-z) = 1 - f(z) without the cancellation."""
    return _sigmoid(z), _sigmoid(z) * _sigmoid(-z)


def softplus(z: Array) -> tuple[Array, Array]:
    """f = log(1 + eᶻ) = max(z, 0) + log(1 + e^-|z|), f' = sigmoid z."""
    return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z))), _sigmoid(z)


def silu(z: Array) -> tuple[Array, Array]:
    """f = z·s with s = sigmoid z, f' = s + z·s·(1 - s)."""
    s = _sigmoid(z)
    return z * s, s * (1.0 + z * _sigmoid(-z))


def gelu(z: Array) -> tuple[Array, Array]:
    """f = z·Φ(z), f' = Φ(z) + z·φ(z), Φ = erfc(-z/√2)/2 and φ = Φ' the normal distribution and its density."""
    distribution = 0.5 * _erfc(-z / math.sqrt(2.0))
    clipped = np.clip(z, -40.0, 40.0)  # φ(±40) is 0 in float64, and z² must not overflow
    density = np.exp(-0.5 * clipped * clipped) / math.sqrt(2.0 * math.pi)
    return z * distribution, distribution + z * density


def gelu_tanh(z: Array) -> tuple[Array, Array]:
    """f = z/2·(1 + tanh u) = z·s, u = √(2/π)·(z + 0.044715·z³), s = sigmoid(2u); f' = s + z·s·(1 - s)·2u'."""
    clipped = np.clip(z, -40.0, 40.0)  # s is 0 or 1 in float64 by then, and z³ must not overflow
    two_u = 2.0 * math.sqrt(2.0 / math.pi) * clipped * (1.0 + 0.044715 * clipped**2)
    two_du = 2.0 * math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * 0.044715 * clipped**2)
    s = _sigmoid(two_u)
    return z * s, s + clipped * s * _sigmoid(-two_u) * two_du


WITHOUT_SLOPE: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "linear": linear,
    "relu": relu,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "silu": silu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
}
WITH_SLOPE: dict[str, Callable[[Array, float], tuple[Array, Array]]] = {"leaky_relu": leaky_relu, "elu": elu}


def activation_and_derivative(activation: Activation, z: Array) -> tuple[Array, Array]:
    """f(z) and f'(z)."""
    if activation.name in WITH_SLOPE:
        return WITH_SLOPE[activation.name](z, activation.slope)
    return WITHOUT_SLOPE[activation.name](z)


def _sigmoid(z: Array) -> Array:
    e = np.exp(-np.abs(z))  # at most 1, so that nothing overflows
    return np.where(z >= 0.0, 1.0, e) / (1.0 + e)


_erfc = np.vectorize(math.erfc, otypes=[np.float64])


# ------------------------------------------------------------------------------------------------------------- losses
# Each takes outputs z and targets y, both (batch, n_out), and returns the samples' losses (batch,), summed over the
# features, with their gradients (batch, n_out).


def softmax_cross_entropy(z: Array, y: Array) -> tuple[Array, Array]:
    """l = -Σ y·log p with p = softmax z, dz = (Σ y)·p - y."""
    log_p = _log_softmax(z)
    return -_sum(y * log_p), y.sum(axis=1, keepdims=True) * np.exp(log_p) - y


def clipped_cross_entropy(z: Array, y: Array, low: float, high: float) -> tuple[Array, Array]:
    """l = -Σ y·log q, q = p clipped to [low, high]; dz = (Σ v)·p - v, v = y where p lies within the bounds, else 0."""
    log_p = _log_softmax(z)
    p = np.exp(log_p)
    within = (low <= p) & (p <= high)
    log_q = np.where(within, log_p, np.log(np.clip(p, low, high)))
    v = np.where(within, y, 0.0)
    return -_sum(y * log_q), v.sum(axis=1, keepdims=True) * p - v


def binary_cross_entropy(z: Array, y: Array) -> tuple[Array, Array]:
    """l = -Σ (y·log s + (1 - y)·log(1 - s)) = Σ (max(z, 0) - z·y + log(1 + e^-|z|)) with s = sigmoid z, dz = s - y."""
    return _sum(np.maximum(z, 0.0) - z * y + np.log1p(np.exp(-np.abs(z)))), _sigmoid(z) - y


def clipped_binary_cross_entropy(z: Array, y: Array, low: float, high: float) -> tuple[Array, Array]:
    """l = -Σ (y·log q + (1 - y)·log(1 - q)), q = p clipped to [low, high], p = sigmoid z; dz = p - y within, else 0."""
    p = _sigmoid(z)
    log_p = np.minimum(z, 0.0) - np.log1p(np.exp(-np.abs(z)))
    within = (low <= p) & (p <= high)
    q = np.clip(p, low, high)
    log_q, log_rest = np.where(within, log_p, np.log(q)), np.where(within, log_p - z, np.log1p(-q))
    return -_sum(y * log_q + (1.0 - y) * log_rest), np.where(within, p - y, 0.0)


def mse(z: Array, y: Array) -> tuple[Array, Array]:
    """l = Σ r² with r = z - y, dz = 2r."""
    r = z - y
    return _sum(r * r), 2.0 * r


def mae(z: Array, y: Array) -> tuple[Array, Array]:
    """l = Σ |r| with r = z - y, dz = sign r."""
    r = z - y
    return _sum(np.abs(r)), np.sign(r)


def huber(z: Array, y: Array, delta: float) -> tuple[Array, Array]:
    """l = Σ (r²/2 where |r| ≤ delta, else delta·(|r| - delta/2)), dz = r clipped to ±delta."""
    r = z - y
    size = np.abs(r)
    inside = np.minimum(size, delta)  # r² of the far ones is not used, and must not overflow
    return _sum(np.where(size <= delta, 0.5 * inside * inside, delta * (size - 0.5 * delta))), np.clip(r, -delta, delta)


def loss_and_gradient(loss: Loss, z: Array, given: HeadTarget, dtype: np.dtype[Any]) -> tuple[float, Array]:
    """L = Σ c_i·l_i and ∂L/∂z (batch, n_out); c_i is the sample weight over what the reduction divides by."""
    y = targets_as_rows(loss, given, z.shape[1])
    if loss.name == "softmax_cross_entropy":
        l, dz = softmax_cross_entropy(z, y)
    elif isinstance(loss, ClippedCrossEntropy):
        l, dz = clipped_cross_entropy(z, y, *loss.clip_bounds(dtype))
    elif loss.name == "binary_cross_entropy":
        l, dz = binary_cross_entropy(z, y)
    elif isinstance(loss, ClippedBinaryCrossEntropy):
        l, dz = clipped_binary_cross_entropy(z, y, *loss.clip_bounds(dtype))
    elif loss.name == "mse":
        l, dz = mse(z, y)
    elif loss.name == "mae":
        l, dz = mae(z, y)
    elif isinstance(loss, Huber):
        l, dz = huber(z, y, loss.delta)
    else:
        raise NotImplementedError(f"the reference lacks the loss {loss.name!r}")
    c = given.coefficients(loss, z.shape[1])
    return float(_sum(c * l, axis=0)), c[:, None] * dz


def targets_as_rows(loss: Loss, given: HeadTarget, n_out: int) -> Array:
    """Targets (batch, n_out) in float64: classes as one-hot rows, label smoothing applied."""
    y = np.eye(n_out)[given.target] if given.target.ndim == 1 else given.target.astype(np.float64)
    smoothing = getattr(loss, "label_smoothing", 0.0)
    return (1.0 - smoothing) * y + smoothing / n_out if smoothing else y


def _log_softmax(z: Array) -> Array:
    # log p = (z - m) - log Σ e^(z - m), m the row's largest; its term of the sum is 1, which log1p keeps apart.
    top = z.argmax(axis=1)[:, None]
    shifted = z - np.take_along_axis(z, top, axis=1)
    others = np.exp(shifted)
    np.put_along_axis(others, top, 0.0, axis=1)
    return np.asarray(shifted - np.log1p(others.sum(axis=1, keepdims=True)))


def _sum(a: Array, axis: int = 1) -> Array:
    return np.asarray(a.sum(axis=axis))


# ------------------------------------------------------------------------------------------------------- dense layers


def dense_forward(h: Array, w: Array, b: Array | None) -> Array:
    """z = h·Wᵀ + b: h (batch, n_in), W (n_out, n_in), b (n_out,)."""
    return h @ w.T if b is None else h @ w.T + b


def dense_backward(dz: Array, h: Array, w: Array) -> tuple[Array, Array, Array]:
    """dW = dzᵀ·h (n_out, n_in), db = Σ dz over the batch (n_out,), dh = dz·W (batch, n_in)."""
    return dz.T @ h, dz.sum(axis=0), dz @ w


# ------------------------------------------------------------------------------------------------------- the network


def forward_layers(
    layers: Sequence[Layer], params: Mapping[str, Array], h: Array
) -> tuple[Array, list[tuple[Array, Array]]]:
    """The output of the layers, and per layer its input h and its activation's derivative f'(z)."""
    tape = []
    for layer in layers:
        z = dense_forward(h, params[f"{layer.name}.weight"], params.get(f"{layer.name}.bias"))
        value, derivative = activation_and_derivative(layer.activation, z)
        tape.append((h, derivative))
        h = value
    return h, tape


def backward_layers(
    layers: Sequence[Layer],
    params: Mapping[str, Array],
    tape: Sequence[tuple[Array, Array]],
    dh: Array,
    gradient: Mapping[str, Array],
) -> Array:
    """Undo :func:`forward_layers`: fill ``gradient`` with dW and db of these layers, return ∂L/∂input."""
    for layer, (h, derivative) in zip(reversed(layers), reversed(tape), strict=True):
        dz = dh * derivative
        dw, db, dh = dense_backward(dz, h, params[f"{layer.name}.weight"])
        gradient[f"{layer.name}.weight"][...] = dw
        if layer.bias:
            gradient[f"{layer.name}.bias"][...] = db
    return dh


# What overflows shows in the result, as it does in the kernel; a warning beside it would say no more.
_silently = np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")


@_silently
def forward(net: Network, params: Mapping[str, Any], x: Any) -> dict[str, Array]:
    """The outputs of every head, name -> (batch, n_out) float64.

    Takes and refuses what :meth:`Network.forward` does.
    """
    own = net._own(params)
    inputs = checked_input(x, net.n_in, own.dtype)
    wide = _widened(own)
    h, _ = forward_layers(net.trunk_layers, wide, inputs.astype(np.float64))
    return {name: forward_layers(layers, wide, h)[0] for name, layers in net.head_layers.items()}


@_silently
def gradients(
    net: Network,
    params: Mapping[str, Any],
    x: Any,
    targets: Mapping[str, Any],
    sample_weight: Any = None,
    per_loss: bool = True,
    summed: bool = True,
    out: Gradients | None = None,
) -> Gradients:
    """Losses and gradients of one batch, in float64.

    Takes the arguments of :meth:`Network.gradients` and refuses the same ones; the result is float64 whatever the dtype
    of the parameters, and so must ``out`` be. The summed gradient is a backward pass of its own, from Σ weight·∂L/∂h
    where the heads meet the trunk; it is not put together from the per-loss gradients.

    >>> import numpy as np, pyengine as pe
    >>> net = pe.Network(n_in=1, trunk=[], heads={"a": pe.Head([pe.Dense(1)], loss="mse")})
    >>> params = net.parameters({"heads.a.0.weight": np.array([[3.0]]), "heads.a.0.bias": np.array([1.0])})
    >>> g = pe.reference.gradients(net, params, np.array([[2.0]]), {"a": np.array([[5.0]])})
    >>> g.losses["a"], float(g.summed["heads.a.0.weight"][0, 0])
    (4.0, 8.0)
    """
    own = net._own(params)
    batch = checked_batch(x, targets, sample_weight, n_in=net.n_in, heads=net.heads, dtype=own.dtype)
    if not (per_loss or summed):
        raise ValueError(
            sentence("per_loss", got="and `summed` are both False", expected="at least one", remedy="Ask for one.")
        )
    wide = _widened(own)
    if out is not None:
        net._check_out(out, wide, batch, per_loss=per_loss, summed=summed)
        per_loss, summed = out._per_loss is not None, out._summed is not None  # what it holds must not go stale
    result = net.empty_gradients(np.float64, per_loss=per_loss, summed=summed) if out is None else out

    h, trunk_tape = forward_layers(net.trunk_layers, wide, batch.x.astype(np.float64))
    tapes, seeds = {}, {}
    for name, head in net.heads.items():
        z, tapes[name] = forward_layers(net.head_layers[name], wide, h)
        result.losses[name], seeds[name] = loss_and_gradient(head.loss, z, batch.heads[name], own.dtype)
    result.total_loss = sum(head.weight * result.losses[name] for name, head in net.heads.items())

    if per_loss:
        for name, layers in net.head_layers.items():
            gradient = result.per_loss[name]
            dh = backward_layers(layers, wide, tapes[name], seeds[name], gradient)
            backward_layers(net.trunk_layers, wide, trunk_tape, dh, gradient)
        jacobian = np.array([gradient.flat[: Layout(net.trunk_layers).size] for gradient in result.per_loss.values()])
        result.gramian[...] = jacobian @ jacobian.T
    if summed:
        dh = np.zeros_like(h)
        for name, head in net.heads.items():
            dh += backward_layers(net.head_layers[name], wide, tapes[name], head.weight * seeds[name], result.summed)
        backward_layers(net.trunk_layers, wide, trunk_tape, dh, result.summed)
    return result


def _widened(params: Parameters) -> Parameters:
    return Parameters(params.layout, params.flat.astype(np.float64, copy=False))
