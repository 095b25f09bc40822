"""The same gradients from PyTorch's and JAX's own autograd, over their own activations and losses.

Both functions take the arguments of ``Network.gradients`` and return what it returns, in the dtype of the parameters.
Only the layers are stacked here; what is not in ``torch.nn.functional`` or ``jax.nn`` is written with their primitives,
forward only. Sample weights are rounded to the dtype of the parameters. A missing framework raises
``ModuleNotFoundError`` when a function is called, so that a test can skip with ``pytest.importorskip``.

Where conventions at kinks differ from pyengine's: ``jax.nn.leaky_relu`` has slope 1 at 0, and ``jnp.clip`` passes half
of a gradient where a probability equals a bound.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import pyengine as pe
from pyengine.batch import Batch, checked_batch

Named = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class FrameworkGradients:
    """Losses and gradients by canonical name, as in :class:`pyengine.Gradients`."""

    losses: dict[str, float]
    total_loss: float
    per_loss: dict[str, Named]
    summed: Named


def _checked(net: pe.Network, params: pe.Parameters, x: Any, targets: Any, sample_weight: Any) -> Batch:
    return checked_batch(x, targets, sample_weight, n_in=net.n_in, heads=net.heads, dtype=params.dtype)


# ------------------------------------------------------------------------------------------------------------ PyTorch


def torch_gradients(
    net: pe.Network, params: pe.Parameters, x: Any, targets: Mapping[str, Any], sample_weight: Any = None
) -> FrameworkGradients:
    """``torch.autograd.grad`` of every loss, and once more of their weighted sum."""
    import torch

    batch = _checked(net, params, x, targets, sample_weight)
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in params.items()}

    def run(layers: tuple[Any, ...], h: Any) -> Any:
        for layer in layers:
            z = torch.nn.functional.linear(h, leaves[f"{layer.name}.weight"], leaves.get(f"{layer.name}.bias"))
            h = _torch_activation(layer.activation, z)
        return h

    trunk = run(net.trunk_layers, torch.tensor(batch.x))
    losses = {}
    for name, head in net.heads.items():
        given = batch.heads[name]
        weights = None if given.weights is None else torch.tensor(given.weights.astype(params.dtype))
        output = run(net.head_layers[name], trunk)
        losses[name] = _torch_loss(head.loss, output, torch.tensor(given.target), weights, params.dtype)
    total = torch.stack([head.weight * losses[name] for name, head in net.heads.items()]).sum()

    def gradient(loss: Any, names: Any) -> Named:
        found = torch.autograd.grad(loss, [leaves[name] for name in names], retain_graph=True)
        return {name: array.numpy() for name, array in zip(names, found, strict=True)}

    return FrameworkGradients(
        losses={name: float(value.detach()) for name, value in losses.items()},
        total_loss=float(total.detach()),
        per_loss={name: gradient(losses[name], layout.names) for name, layout in net.loss_layouts.items()},
        summed=gradient(total, net.layout.names),
    )


def _torch_activation(activation: pe.Activation, z: Any) -> Any:
    import torch
    from torch.nn import functional as F

    functions: dict[str, Callable[[Any], Any]] = {
        "linear": lambda z: z,
        "relu": F.relu,
        "leaky_relu": lambda z: F.leaky_relu(z, activation.slope),
        "elu": lambda z: F.elu(z, activation.slope),
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        # Linear above a threshold: by default 20, where float32 shows nothing of it; without one exp(z) overflows.
        "softplus": lambda z: F.softplus(z, threshold=20.0 if z.dtype == torch.float32 else 300.0),
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    }
    return functions[activation.name](z)


def _torch_loss(loss: pe.Loss, z: Any, y: Any, weights: Any, dtype: np.dtype[Any]) -> Any:
    import torch
    from torch.nn import functional as F

    # Without sample weights the reduction is PyTorch's own; reduction="none" leaves it to us.
    own = "none" if weights is not None else "sum" if loss.reduction == "sum" else "mean"
    if isinstance(loss, pe.SoftmaxCrossEntropy):
        value = F.cross_entropy(z, y, reduction=own, label_smoothing=loss.label_smoothing)
    elif isinstance(loss, pe.ClippedCrossEntropy):
        y = F.one_hot(y, z.shape[1]).to(z.dtype) if y.ndim == 1 else y
        y = (1 - loss.label_smoothing) * y + loss.label_smoothing / z.shape[1]
        p = torch.softmax(z, dim=1)
        p = (p / p.sum(dim=1, keepdim=True)).clamp(*loss.clip_bounds(dtype))
        value = -(y * p.log()).sum(dim=1)
        value = value if own == "none" else getattr(value, own)()
    elif isinstance(loss, pe.ClippedBinaryCrossEntropy):
        # As Keras does on PyTorch.
        p = torch.clip(torch.sigmoid(z), *loss.clip_bounds(dtype))
        value = F.binary_cross_entropy(p, y, reduction=own)
    elif isinstance(loss, pe.BinaryCrossEntropy):
        value = F.binary_cross_entropy_with_logits(z, y, reduction=own)
    elif isinstance(loss, pe.MSE):
        value = F.mse_loss(z, y, reduction=own)
    elif isinstance(loss, pe.MAE):
        value = F.l1_loss(z, y, reduction=own)
    else:
        value = F.huber_loss(z, y, reduction=own, delta=getattr(loss, "delta", 1.0))
    return value if own != "none" else _reduced(loss, value, weights)


def _reduced(loss: pe.Loss, values: Any, weights: Any) -> Any:
    """Reduce losses (batch,) or (batch, n_out); only methods that tensors of both frameworks have."""
    if values.ndim == 2:
        values = values.sum(1) if loss.reduction == "sum" else values.mean(1)
    weighted = values if weights is None else weights * values
    if loss.reduction == "sum":
        return weighted.sum()
    if loss.reduction == "mean" or weights is None:
        return weighted.mean()
    return weighted.sum() / weights.sum()


# ---------------------------------------------------------------------------------------------------------------- JAX


def jax_gradients(
    net: pe.Network,
    params: pe.Parameters,
    x: Any,
    targets: Mapping[str, Any],
    sample_weight: Any = None,
    *,
    level: int | None = 0,
) -> FrameworkGradients:
    """``jax.vjp`` of the losses, pulled back from each and from their weighted sum; compiled once per structure.

    ``level`` is XLA's optimisation level, None its default.
    """
    import jax

    batch = _checked(net, params, x, targets, sample_weight)
    given = {name: head.target for name, head in batch.heads.items()}
    weights = {
        name: None if head.weights is None else head.weights.astype(params.dtype) for name, head in batch.heads.items()
    }
    compiled = _jax_compiled(net.n_in, net.trunk, tuple(net.heads.items()), params.dtype.name, level)
    with jax.enable_x64(params.dtype == np.float64):
        losses, total, rows = compiled(dict(params), batch.x, given, weights)
    rows = {name: np.asarray(array) for name, array in rows.items()}
    return FrameworkGradients(
        losses=dict(zip(net.heads, map(float, losses), strict=True)),
        total_loss=float(total),
        per_loss={
            name: {key: rows[key][i] for key in layout.names}
            for i, (name, layout) in enumerate(net.loss_layouts.items())
        },
        summed={name: rows[name][-1] for name in net.layout.names},
    )


@functools.cache
def _jax_compiled(n_in: int, trunk: Any, heads: Any, dtype: str, level: int | None) -> Callable[..., Any]:
    import jax

    net = pe.Network(n_in, trunk, dict(heads))

    def run(layers: tuple[Any, ...], leaves: Any, h: Any) -> Any:
        for layer in layers:
            z = h @ leaves[f"{layer.name}.weight"].T
            if layer.bias:
                z = z + leaves[f"{layer.name}.bias"]
            h = _jax_activation(layer.activation, z)
        return h

    def losses(leaves: Any, x: Any, targets: Any, weights: Any) -> Any:
        trunk = run(net.trunk_layers, leaves, x)
        outputs = {name: run(layers, leaves, trunk) for name, layers in net.head_layers.items()}
        return jax.numpy.stack(
            [
                _jax_loss(head.loss, outputs[name], targets[name], weights[name], np.dtype(dtype))
                for name, head in net.heads.items()
            ]
        )

    def both(leaves: Any, *rest: Any) -> Any:
        values, pullback = jax.vjp(lambda leaves: losses(leaves, *rest), leaves)
        share = jax.numpy.array([head.weight for head in net.heads.values()], dtype)
        seeds = jax.numpy.vstack([jax.numpy.eye(len(share), dtype=dtype), share])
        return values, share @ values, jax.vmap(pullback)(seeds)[0]

    compiled: Callable[..., Any] = jax.jit(both, compiler_options=compiler_options(level))
    return compiled


def compiler_options(level: int | None) -> dict[str, int] | None:
    """Compiling is nearly all of the time, and optimising nearly all of the compiling: level 0 leaves it out."""
    return None if level is None else {"xla_backend_optimization_level": level}


def _jax_activation(activation: pe.Activation, z: Any) -> Any:
    import jax
    from jax import nn

    functions: dict[str, Callable[[Any], Any]] = {
        "linear": lambda z: z,
        "relu": nn.relu,
        "leaky_relu": lambda z: nn.leaky_relu(z, activation.slope),
        "elu": lambda z: nn.elu(z, activation.slope),
        "tanh": jax.numpy.tanh,
        "sigmoid": nn.sigmoid,
        "softplus": nn.softplus,
        "silu": nn.silu,
        "gelu": lambda z: nn.gelu(z, approximate=False),
        "gelu_tanh": lambda z: nn.gelu(z, approximate=True),
    }
    return functions[activation.name](z)


def _jax_loss(loss: pe.Loss, z: Any, y: Any, weights: Any, dtype: np.dtype[Any]) -> Any:
    from jax import nn
    from jax import numpy as jnp

    if isinstance(loss, pe.SoftmaxCrossEntropy | pe.ClippedCrossEntropy):
        y = nn.one_hot(y, z.shape[1], dtype=z.dtype) if y.ndim == 1 else y
        y = (1 - loss.label_smoothing) * y + loss.label_smoothing / z.shape[1]
        if isinstance(loss, pe.SoftmaxCrossEntropy):
            log_p = nn.log_softmax(z, axis=1)
        else:
            p = nn.softmax(z, axis=1)
            log_p = jnp.log(jnp.clip(p / p.sum(axis=1, keepdims=True), *loss.clip_bounds(dtype)))
        value = -(y * log_p).sum(axis=1)
    elif isinstance(loss, pe.ClippedBinaryCrossEntropy):
        # As Keras does on JAX.
        p = jnp.clip(nn.sigmoid(z), *loss.clip_bounds(dtype))
        value = -(y * jnp.log(p) + (1.0 - y) * jnp.log(1.0 - p))
    elif isinstance(loss, pe.BinaryCrossEntropy):
        value = -(y * nn.log_sigmoid(z) + (1 - y) * nn.log_sigmoid(-z))
    elif isinstance(loss, pe.MSE):
        value = jnp.square(z - y)
    elif isinstance(loss, pe.MAE):
        value = jnp.abs(z - y)
    else:
        r, delta = z - y, getattr(loss, "delta", 1.0)
        value = jnp.where(jnp.abs(r) <= delta, 0.5 * r * r, delta * (jnp.abs(r) - 0.5 * delta))
    return _reduced(loss, value, weights)
