"""JAX models as people write them: pure functions with kernels of either orientation, Flax NNX and Equinox modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import frameworks
import jax
import numpy as np
import optax
from flax import nnx
from jax import numpy as jnp
from problems import Problem

import pyengine as pe

PACKAGES = ("jax", "flax", "equinox", "optax")
Layers = tuple[Any, ...]


def verified(given: Problem, seed: int) -> pe.Verification:
    """The network in one of four manners, its losses by optax in every even pair of them and by name in the odd."""
    net = given.net
    model = (_function, _transposed, _nnx, _equinox)[seed % 4](given)
    losses = {name: _callable(head.loss) if seed // 4 % 2 == 0 else head.loss for name, head in net.heads.items()}
    weights = {name: head.weight for name, head in net.heads.items()}
    return pe.verify(model, given.x, given.targets, losses=losses, loss_weights=weights, seed=seed)


def _run(net: pe.Network, x: Any, dense: Callable[[str, Any], Any]) -> dict[str, Any]:
    def through(layers: Layers, h: Any) -> Any:
        for layer in layers:
            h = frameworks._jax_activation(layer.activation, dense(layer.name, h))
        return h

    trunk = through(net.trunk_layers, x)
    return {name: through(layers, trunk) for name, layers in net.head_layers.items()}


def _layers(given: Problem) -> dict[str, tuple[Any, Any]]:
    layers = [*given.net.trunk_layers, *(layer for own in given.net.head_layers.values() for layer in own)]
    return {
        layer.name: (given.params[f"{layer.name}.weight"], given.params[f"{layer.name}.bias"] if layer.bias else None)
        for layer in layers
    }


def _function(given: Problem) -> pe.JaxModel:
    """Kernels (n_in, n_out) in nested dicts; outputs in a dict; compiled by the user."""
    own = {
        name: {"kernel": weight.T.copy(), **({} if bias is None else {"bias": bias})}
        for name, (weight, bias) in _layers(given).items()
    }

    def apply(params: Any, x: Any) -> Any:
        def dense(name: str, h: Any) -> Any:
            z = h @ params[name]["kernel"]
            return z + params[name]["bias"] if "bias" in params[name] else z

        return _run(given.net, x, dense)

    return pe.JaxModel(jax.jit(apply), own)


def _transposed(given: Problem) -> pe.JaxModel:
    """Weights (n_out, n_in) in a list; outputs in a tuple; recomputed on the way back."""
    names = list(_layers(given))
    own = [[weight] if bias is None else [weight, bias] for weight, bias in _layers(given).values()]

    @jax.checkpoint
    def apply(params: Any, x: Any) -> Any:
        def dense(name: str, h: Any) -> Any:
            weight, *bias = params[names.index(name)]
            return jnp.einsum("bi,oi->bo", h, weight) + (bias[0] if bias else 0.0)

        return tuple(_run(given.net, x, dense).values())

    return pe.JaxModel(apply, own)


def _nnx(given: Problem) -> Any:
    class Shared(nnx.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            for name, (weight, bias) in _layers(given).items():
                n_out, n_in = weight.shape
                layer = nnx.Linear(n_in, n_out, use_bias=bias is not None, rngs=nnx.Rngs(0))
                layer.kernel = nnx.Param(jnp.asarray(weight.T))
                if bias is not None:
                    layer.bias = nnx.Param(jnp.asarray(bias))
                setattr(self, name.replace(".", "_"), layer)

        def __call__(self, x: Any) -> Any:
            return _run(given.net, x, lambda name, h: getattr(self, name.replace(".", "_"))(h))

    return Shared()


def _equinox(given: Problem) -> Any:
    class Shared(eqx.Module):  # type: ignore[misc]
        layers: dict[str, Any]

        def __call__(self, x: Any) -> Any:
            return _run(given.net, x, lambda name, h: self.layers[name](h))

    layers = {}
    for name, (weight, bias) in _layers(given).items():
        n_out, n_in = weight.shape
        one = eqx.nn.Linear(n_in, n_out, use_bias=bias is not None, key=jax.random.key(0))
        one = eqx.tree_at(lambda layer: layer.weight, one, jnp.asarray(weight))
        layers[name] = one if bias is None else eqx.tree_at(lambda layer: layer.bias, one, jnp.asarray(bias))
    return Shared(layers)


def _callable(loss: pe.Loss) -> Callable[[Any, Any], Any]:
    """The loss by optax, where it has it."""
    share = getattr(loss, "label_smoothing", 0.0)

    def each(z: Any, y: Any) -> Any:
        if isinstance(loss, pe.SoftmaxCrossEntropy) and y.ndim == 1 and share == 0.0:
            return optax.softmax_cross_entropy_with_integer_labels(z, y)
        if isinstance(loss, pe.SoftmaxCrossEntropy):
            rows = jax.nn.one_hot(y, z.shape[1]) if y.ndim == 1 else y
            return optax.softmax_cross_entropy(z, optax.smooth_labels(rows, share))
        if isinstance(loss, pe.BinaryCrossEntropy):
            return optax.sigmoid_binary_cross_entropy(z, y)
        if isinstance(loss, pe.MSE):
            return optax.squared_error(z, y)
        if isinstance(loss, pe.Huber):
            return optax.huber_loss(z, y, delta=loss.delta)
        return jnp.abs(z - y)

    if isinstance(loss, pe.ClippedCrossEntropy | pe.ClippedBinaryCrossEntropy):
        return lambda z, y: frameworks._jax_loss(loss, z, y, None, np.dtype(z.dtype))
    return lambda z, y: each(z, y).sum() if loss.reduction == "sum" else each(z, y).mean()
