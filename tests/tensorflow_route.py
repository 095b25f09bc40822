"""Witnesses and gradients by TensorFlow: its own activations, losses and tape, eager or as one ``tf.function``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from problems import Problem

import pyengine as pe
from pyengine.batch import checked_batch

Named = dict[str, Any]


def tensorflow_witnesses(given: Problem, *, compiled: bool = False) -> pe.Witnesses:
    """What TensorFlow computes on the way: one persistent tape, asked for the derivatives by every z, h and parameter.

    ``compiled`` runs everything as one ``tf.function``.
    """
    import tensorflow as tf

    net, params, x, targets, sample_weight = given
    batch = checked_batch(x, targets, sample_weight, n_in=net.n_in, heads=net.heads, dtype=params.dtype)
    leaves = {name: tf.constant(array) for name, array in params.items()}
    factors = {
        name: None if own.weights is None else tf.constant(own.weights.astype(params.dtype))
        for name, own in batch.heads.items()
    }

    def everything(leaves: Named, x: Any) -> tuple[Named, Named, Named]:
        z: Named = {}
        h: Named = {}

        def run(layers: Any, value: Any) -> Any:
            for layer in layers:
                product = tf.matmul(value, leaves[f"{layer.name}.weight"], transpose_b=True)
                bias = leaves.get(f"{layer.name}.bias")
                z[layer.name] = product if bias is None else tf.nn.bias_add(product, bias)
                value = h[layer.name] = tensorflow_activation(layer.activation, z[layer.name])
            return value

        with tf.GradientTape(persistent=True) as tape:
            tape.watch(list(leaves.values()))
            trunk = run(net.trunk_layers, x)
            losses = {}
            for name, head in net.heads.items():
                output, target = run(net.head_layers[name], trunk), tf.constant(batch.heads[name].target)
                losses[name] = tensorflow_loss(head.loss, output, target, factors[name], params.dtype)
            total = tf.add_n([tf.constant(head.weight, x.dtype) * losses[name] for name, head in net.heads.items()])
        passes = {}
        for key, loss, layout in [
            *((name, losses[name], layout) for name, layout in net.loss_layouts.items()),
            ("", total, net.layout),
        ]:
            layers = [name for name in z if f"{name}.weight" in layout.shapes]
            wanted = [
                *(h[name] for name in layers),
                *(z[name] for name in layers),
                *(leaves[name] for name in layout.names),
            ]
            passes[key] = tape.gradient(loss, wanted, unconnected_gradients="zero")
        return z, h, passes

    z, h, passes = (tf.function(everything) if compiled else everything)(leaves, tf.constant(batch.x))

    def backward(key: str, layout: Any) -> pe.Backward:
        layers = [name for name in z if f"{name}.weight" in layout.shapes]
        found, n = [array.numpy() for array in passes[key]], len(layers)
        return pe.Backward(
            dict(zip(layers, found[:n], strict=True)),
            dict(zip(layers, found[n : 2 * n], strict=True)),
            dict(zip(layout.names, found[2 * n :], strict=True)),
        )

    return pe.Witnesses(
        z={name: value.numpy() for name, value in z.items()},
        h={name: value.numpy() for name, value in h.items()},
        per_loss={name: backward(name, layout) for name, layout in net.loss_layouts.items()},
        summed=backward("", net.layout),
    )


def tensorflow_activation(activation: pe.Activation, z: Any) -> Any:
    """The activation by ``tf.nn``."""
    import tensorflow as tf

    functions: dict[str, Callable[[Any], Any]] = {
        "linear": tf.identity,
        "relu": tf.nn.relu,
        "leaky_relu": lambda z: tf.nn.leaky_relu(z, activation.slope),
        "elu": tf.nn.elu,
        "tanh": tf.tanh,
        "sigmoid": tf.sigmoid,
        "softplus": tf.nn.softplus,
        "silu": tf.nn.silu,
        "gelu": tf.nn.gelu,
        "gelu_tanh": lambda z: tf.nn.gelu(z, approximate=True),
    }
    if activation.name == "elu" and activation.slope != 1.0:
        raise NotImplementedError("tf.nn.elu has alpha = 1")
    return functions[activation.name](z)


def tensorflow_loss(loss: pe.Loss, z: Any, y: Any, weights: Any, dtype: np.dtype[Any]) -> Any:
    """The loss by ``tf.nn``, reduced as pyengine states."""
    import tensorflow as tf

    if isinstance(loss, pe.SoftmaxCrossEntropy) and y.shape.rank == 1 and not loss.label_smoothing:
        value = tf.nn.sparse_softmax_cross_entropy_with_logits(y, z)
    elif isinstance(loss, pe.SoftmaxCrossEntropy | pe.ClippedCrossEntropy):
        y = tf.one_hot(y, z.shape[1], dtype=z.dtype) if y.shape.rank == 1 else y
        y = (1 - loss.label_smoothing) * y + loss.label_smoothing / z.shape[1]
        if isinstance(loss, pe.SoftmaxCrossEntropy):
            value = tf.nn.softmax_cross_entropy_with_logits(y, z)
        else:
            p = tf.nn.softmax(z)
            p = tf.clip_by_value(p / tf.reduce_sum(p, axis=1, keepdims=True), *loss.clip_bounds(dtype))
            value = -tf.reduce_sum(y * tf.math.log(p), axis=1)
    elif isinstance(loss, pe.ClippedBinaryCrossEntropy):
        p = tf.clip_by_value(tf.sigmoid(z), *loss.clip_bounds(dtype))
        value = -(y * tf.math.log(p) + (1.0 - y) * tf.math.log(1.0 - p))
    elif isinstance(loss, pe.BinaryCrossEntropy):
        value = tf.nn.sigmoid_cross_entropy_with_logits(y, z)
    elif isinstance(loss, pe.MSE):
        value = tf.math.squared_difference(z, y)
    elif isinstance(loss, pe.MAE):
        value = tf.abs(z - y)
    else:
        r, delta = z - y, getattr(loss, "delta", 1.0)
        value = tf.where(tf.abs(r) <= delta, 0.5 * r * r, delta * (tf.abs(r) - 0.5 * delta))
    if value.shape.rank == 2:
        value = tf.reduce_sum(value, 1) if loss.reduction == "sum" else tf.reduce_mean(value, 1)
    weighted = value if weights is None else weights * value
    if loss.reduction == "sum":
        return tf.reduce_sum(weighted)
    if loss.reduction == "mean" or weights is None:
        return tf.reduce_mean(weighted)
    return tf.reduce_sum(weighted) / tf.reduce_sum(weights)
