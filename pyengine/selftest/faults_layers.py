"""Faults of layers: activations and their derivatives, masks, biases, products, and what is reused too long."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..activations import ACTIVATIONS
from ..parameters import Array
from ..reference import gelu_tanh
from .cases import Case
from .fault import Fault, another, scaled, tampered, with_params

ALL = {"staged R": 1.0, "black-box": 1.0}
ZOO = "every activation"
LAYER = {name: f"trunk.{i}" for i, name in enumerate(name for name in ACTIVATIONS if name != "linear")}
"""The layers of the case with every activation."""


def _slope(change: Any) -> Any:
    """dz from dh, f'(z) and z."""
    return lambda value, operands, size: operands[0] * change(operands[1], operands[2], size)


def _value(change: Any) -> Any:
    """h from z."""
    return lambda value, operands, size: change(operands[0], size)


def _sigmoid(z: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-z)))


def _one_flipped(slope: Array, z: Array, size: float) -> Array:
    """The mask of the unit that is farthest from its kink."""
    wrong = slope.copy()
    at = np.unravel_index(np.abs(z).argmax(), z.shape)
    wrong[at] = 1 - wrong[at]
    return wrong


def _dropped(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    keep = np.random.default_rng(1).random(value.shape) < 0.9
    return np.asarray(value * keep / value.dtype.type(0.9))


def _without_unit(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    wrong = value.copy()
    wrong[:, np.abs(value).sum(axis=0).argmax()] = 0
    return wrong


def _zero(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    return np.zeros_like(value)


def _rows_swapped(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    return np.asarray(value[[1, 0, *range(2, len(value))]])


def _bias_twice(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    return np.asarray(value + operands[2])


def _without_tail(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    """The last term of every sum is left out, as a kernel does whose tail loop is wrong."""
    dz, h = operands
    return np.asarray(dz[:-1].T @ h[:-1])


def _turned(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    return np.asarray(operands[0] @ operands[1].T)


def _turned_forward(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    return np.asarray(operands[0] @ operands[1] + operands[2])


def _stale_input(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    return np.asarray(operands[0].T @ np.roll(operands[1], 1, axis=0))


def _no_bias(layer: str) -> Any:
    def change(case: Case, size: float) -> Case:
        name = f"{layer}.bias"
        return replace(case, params=case.net.parameters({**case.params, name: np.zeros_like(case.params[name])}))

    return another(change)


def _moved_weights(value: Array, operands: tuple[Array, ...], size: float) -> Array:
    """The backward pass sees the weights after a step of the learning rate 1e-3."""
    dz, weight = operands
    return np.asarray(dz @ (weight - weight.dtype.type(1e-3) * np.sign(weight)))


def _at(layer: str) -> str:
    return f"per_loss['a'].dz['{layer}']"


def _derivative(name: str, does: str, layer: str, change: Any, case: str = ZOO) -> Fault:
    return Fault(name, does, tampered("dz", layer, _slope(change)), ALL, case, where=_at(layer))


def _function(name: str, does: str, layer: str, change: Any, case: str = ZOO, **more: Any) -> Fault:
    return Fault(name, does, tampered("h", layer, _value(change)), more.pop("must", ALL), case,
                 where=f"h['{layer}']", **more)  # fmt: skip


FAULTS = [
    _derivative("stale mask", "a ReLU's mask of other samples", "trunk.1", lambda f, z, s: np.roll(f, 1, axis=0),
                "small"),
    _derivative("mask missing", "a ReLU's derivative is 1 everywhere", "trunk.1", lambda f, z, s: np.ones_like(f),
                "small"),
    _derivative("mask inverted", "a ReLU's derivative is 1 below zero", "trunk.0", lambda f, z, s: 1 - f, "small"),
    _derivative("one mask flipped", "one entry of a ReLU's mask is wrong", "trunk.1", _one_flipped, "small"),
    Fault("mask with a threshold", "a ReLU passes gradients above ε only",
          tampered("dz", "trunk.0", _slope(lambda f, z, s: (z > s).astype(z.dtype))), {"staged R": 1e-3},
          "small", True, _at("trunk.0")),
    Fault("leaking ReLU", "a ReLU with slope ε below zero", tampered("h", "trunk.0", _value(
          lambda z, s: np.where(z > 0, z, s * z))), {"staged R": 1e-6, "black-box": 1e-3}, "small", True,
          "h['trunk.0']"),
    _function("gelu by tanh", "gelu_tanh where gelu is meant", LAYER["gelu"], lambda z, s: gelu_tanh(z)[0]),
    _function("quick gelu", "z·σ(1.702z) where gelu is meant", LAYER["gelu"], lambda z, s: z * _sigmoid(1.702 * z)),
    _derivative("gelu's derivative by tanh", "the derivative of gelu_tanh below gelu", LAYER["gelu"],
                lambda f, z, s: gelu_tanh(z)[1]),
    _derivative("tanh's derivative at z", "1 - z² for 1 - tanh²", LAYER["tanh"], lambda f, z, s: 1 - z * z),
    _derivative("sigmoid's derivative", "σ for σ·(1 - σ)", LAYER["sigmoid"], lambda f, z, s: _sigmoid(z)),
    _derivative("silu's derivative", "σ without its second term", LAYER["silu"], lambda f, z, s: _sigmoid(z)),
    _derivative("softplus's derivative", "σ(-z) for σ(z)", LAYER["softplus"], lambda f, z, s: _sigmoid(-z)),
    _derivative("leaky slope in the derivative", "0.02 for 0.01", LAYER["leaky_relu"],
                lambda f, z, s: np.where(z > 0, 1, 2 * f)),
    _function("leaky slope", "leaky_relu with its slope off by a relative ε", LAYER["leaky_relu"],
              lambda z, s: np.where(z > 0, z, z * (0.01 * (1.0 + s))), must={"staged R": 1e-5}, scalable=True),
    _derivative("elu's derivative", "1 + h without α's part: 1 below zero", LAYER["elu"],
                lambda f, z, s: np.ones_like(f)),
    _function("tanh inaccurate", "tanh off by a relative ε", LAYER["tanh"], lambda z, s: np.tanh(z) * (1.0 + s),
              must={"staged R": 3e-6}, scalable=True),
    _function("activation twice", "tanh of tanh", LAYER["tanh"], lambda z, s: np.tanh(np.tanh(z))),
    _function("activation on the logits", "a ReLU after the last layer", "heads.a.0", lambda z, s: np.maximum(z, 0),
              "small"),
    Fault("activation missing", "a layer without its ReLU", tampered("h", "trunk.1", _value(lambda z, s: z)), ALL,
          where="h['trunk.1']"),
    Fault("dropout left on", "a tenth of the units is dropped", tampered("h", "trunk.0", _dropped), ALL,
          where="h['trunk.0']"),
    Fault("unit pruned", "one unit's output is zero", tampered("h", "trunk.1", _without_unit), ALL,
          where="h['trunk.1']"),
    Fault("bias missing", "a layer forgets its bias", _no_bias("trunk.0"), ALL, where="z['trunk.0']"),
    Fault("bias missing in a head", "the last layer forgets its bias", _no_bias("heads.b.0"), ALL,
          where="z['heads.b.0']"),
    Fault("bias twice", "a layer adds its bias twice", tampered("z", "trunk.1", _bias_twice), ALL,
          where="z['trunk.1']"),
    Fault("bias gradient zero", "the gradient of a bias is missing", tampered("gradient", "trunk.0.bias", _zero),
          {**ALL, "reach": 1.0}, where="per_loss['a'].gradient['trunk.0.bias']"),
    Fault("bias gradient averaged", "mean over the batch for sum", tampered("gradient", "trunk.0.bias",
          lambda v, o, s: o[0].mean(axis=0)), ALL, where="per_loss['a'].gradient['trunk.0.bias']"),
    Fault("bias gradient of one sample", "the last sample's for the sum", tampered("gradient", "trunk.1.bias",
          lambda v, o, s: o[0][-1]), ALL, where="per_loss['a'].gradient['trunk.1.bias']"),
    Fault("kernel transposed, backward", "dz·Wᵀ for dz·W", tampered("dh", "trunk.0", _turned), ALL,
          where="per_loss['a'].dh['trunk.0']"),
    Fault("kernel transposed, forward", "h·W for h·Wᵀ", tampered("z", "trunk.1", _turned_forward), ALL,
          where="z['trunk.1']"),
    Fault("gradient transposed", "a square weight's gradient is transposed", tampered("gradient", "trunk.1.weight",
          lambda v, o, s: v.T), ALL, where="per_loss['a'].gradient['trunk.1.weight']"),
    Fault("tail missing", "the last term of every sum over the batch is left out", tampered(
          "gradient", "trunk.0.weight", _without_tail), ALL, where="per_loss['a'].gradient['trunk.0.weight']"),
    Fault("units exchanged", "two rows of a gradient are exchanged", tampered("gradient", "trunk.0.weight",
          _rows_swapped), ALL, where="per_loss['a'].gradient['trunk.0.weight']"),
    Fault("stale activations", "a weight gradient with the input of other samples", tampered(
          "gradient", "trunk.1.weight", _stale_input), ALL, where="per_loss['a'].gradient['trunk.1.weight']"),
    Fault("weights moved before backward", "the input gradient is taken at the weights after a step", tampered(
          "dh", "trunk.0", _moved_weights), ALL, where="per_loss['a'].dh['trunk.0']"),
    Fault("weights of another step", "all is computed at weights that are off by ε", another(
          lambda c, s: with_params(c, trunk__1__weight=scaled(c.params["trunk.1.weight"], 1.0 + s))),
          {"staged": 1e-6, "black-box": 1e-4}, scalable=True, where="z['trunk.1']"),
]  # fmt: skip
