"""PyTorch modules as people write them: named modules and functional layers, losses as objects and as functions.

Every fourth model is in float64. PyTorch has no clipped cross-entropy: its cross-entropy stands for it. Some models
have weights of classes and ignored classes, which are PyTorch's own ways to weigh samples.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from problems import Problem
from torch import nn
from torch.nn import functional as f

import pyengine as pe

from .drawing import drawn

PACKAGES = ("torch",)
STAND_IN = {"clipped_cross_entropy": "softmax_cross_entropy", "clipped_binary_cross_entropy": "binary_cross_entropy"}
OBJECTS: dict[str, Any] = {
    "softmax_cross_entropy": nn.CrossEntropyLoss, "clipped_cross_entropy": nn.CrossEntropyLoss, "mse": nn.MSELoss,
    "mae": nn.L1Loss, "huber": nn.HuberLoss, "binary_cross_entropy": nn.BCEWithLogitsLoss,
    "clipped_binary_cross_entropy": nn.BCEWithLogitsLoss,
}  # fmt: skip
FUNCTIONS: dict[str, Any] = {
    "softmax_cross_entropy": f.cross_entropy, "clipped_cross_entropy": f.cross_entropy, "mse": f.mse_loss,
    "mae": f.l1_loss, "huber": f.huber_loss, "binary_cross_entropy": f.binary_cross_entropy_with_logits,
    "clipped_binary_cross_entropy": f.binary_cross_entropy_with_logits,
}  # fmt: skip


def verified(given: Problem, seed: int) -> pe.Verification:
    """The network in one of four manners, its losses as objects in every even pair of them, as functions in the odd."""
    if seed % 4 == 3:
        given = drawn(seed, "float64")
    rng = np.random.default_rng([seed, 7])
    net, targets, losses = given.net, {}, {}
    for name, head in net.heads.items():
        targets[name] = torch.as_tensor(np.array(given.targets[name]))
        losses[name] = _loss(head, targets[name], given.params.dtype, rng, as_object=seed // 4 % 2 == 0)
    model = (Named, Stacked, Functional, Named)[seed % 4](given)
    weights = {name: head.weight for name, head in net.heads.items()}
    return pe.verify(model, torch.as_tensor(given.x), targets, losses=losses, loss_weights=weights, seed=seed)


class Named(nn.Module):  # type: ignore[misc]
    """Layers under names of their own; activations as functions, with their options by position; outputs in a dict."""

    def __init__(self, given: Problem) -> None:
        super().__init__()
        self.net = given.net
        for layer in _layers(given):
            setattr(self, layer.name.replace(".", "_"), _linear(given, layer))

    def forward(self, x: Any) -> Any:
        def through(layers: Any, h: Any) -> Any:
            for layer in layers:
                h = _function(layer.activation, getattr(self, layer.name.replace(".", "_"))(h))
            return h

        trunk = through(self.net.trunk_layers, x)
        return {name: through(layers, trunk) for name, layers in self.net.head_layers.items()}


class Stacked(nn.Module):  # type: ignore[misc]
    """``nn.Sequential`` of modules, activations in place, a dropout that is off; outputs in a tuple."""

    def __init__(self, given: Problem) -> None:
        super().__init__()
        net = given.net
        self.flat = nn.Flatten()
        self.trunk = self._stack(given, net.trunk_layers)
        self.heads = nn.ModuleList(self._stack(given, layers) for layers in net.head_layers.values())
        self.eval()

    @staticmethod
    def _stack(given: Problem, layers: Any) -> Any:
        return nn.Sequential(
            *(part for layer in layers for part in (_linear(given, layer), _module(layer.activation), nn.Dropout(0.5)))
        )

    def forward(self, x: Any) -> Any:
        h = self.trunk(self.flat(x))
        return tuple(head(h) for head in self.heads)


class Functional(nn.Module):  # type: ignore[misc]
    """Parameters of the module itself and ``functional.linear``; outputs in a dict."""

    def __init__(self, given: Problem) -> None:
        super().__init__()
        self.net = given.net
        for layer in _layers(given):
            name = layer.name.replace(".", "_")
            setattr(self, f"w_{name}", nn.Parameter(torch.as_tensor(given.params[f"{layer.name}.weight"].copy())))
            bias = given.params[f"{layer.name}.bias"].copy() if layer.bias else None
            self.register_parameter(f"b_{name}", None if bias is None else nn.Parameter(torch.as_tensor(bias)))

    def forward(self, x: Any) -> Any:
        def through(layers: Any, h: Any) -> Any:
            for layer in layers:
                name = layer.name.replace(".", "_")
                h = _function(layer.activation, f.linear(h, getattr(self, f"w_{name}"), getattr(self, f"b_{name}")))
            return h

        trunk = through(self.net.trunk_layers, x)
        return {name: through(layers, trunk) for name, layers in self.net.head_layers.items()}


def _layers(given: Problem) -> list[Any]:
    return [*given.net.trunk_layers, *(layer for own in given.net.head_layers.values() for layer in own)]


def _linear(given: Problem, layer: Any) -> Any:
    weight = torch.as_tensor(given.params[f"{layer.name}.weight"].copy())
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias, dtype=weight.dtype)
    linear.weight = nn.Parameter(weight)
    if layer.bias:
        linear.bias = nn.Parameter(torch.as_tensor(given.params[f"{layer.name}.bias"].copy()))
    return linear


def _module(activation: pe.Activation) -> Any:
    slope = getattr(activation, "slope", 0.0)
    return {
        "linear": nn.Identity, "relu": lambda: nn.ReLU(inplace=True), "leaky_relu": lambda: nn.LeakyReLU(slope),
        "elu": lambda: nn.ELU(slope), "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
        "softplus": lambda: nn.Softplus(threshold=300.0), "silu": nn.SiLU, "gelu": nn.GELU,
        "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    }[activation.name]()  # fmt: skip


def _function(activation: pe.Activation, z: Any) -> Any:
    slope = getattr(activation, "slope", 0.0)
    functions: dict[str, Any] = {
        "linear": lambda z: z, "relu": f.relu, "leaky_relu": lambda z: f.leaky_relu(z, slope),
        "elu": lambda z: f.elu(z, slope), "tanh": torch.tanh, "sigmoid": torch.sigmoid,
        "softplus": lambda z: f.softplus(z, 1.0, 300.0), "silu": f.silu, "gelu": f.gelu,
        "gelu_tanh": lambda z: f.gelu(z, approximate="tanh"),
    }  # fmt: skip
    return functions[activation.name](z)


def _loss(head: pe.Head, target: Any, dtype: Any, rng: np.random.Generator, *, as_object: bool) -> Any:
    name, options = head.loss.name, {"reduction": head.loss.reduction}
    if name == "huber":
        options["delta"] = head.loss.delta
        if rng.random() < 0.5:
            # The same loss, divided by delta.
            own = {"reduction": head.loss.reduction, "beta": head.loss.delta}
            return nn.SmoothL1Loss(**own) if as_object else functools.partial(f.smooth_l1_loss, **own)
    if name.endswith("cross_entropy") and "binary" not in name:
        smoothing = getattr(head.loss, "label_smoothing", 0.0)
        classes, n_out = target.ndim == 1, head.layers[-1].n_out
        if classes and len(target) > 4 and rng.random() < 0.3:
            target[:: int(rng.integers(3, 6))] = options.setdefault("ignore_index", -1)
        if classes and smoothing == 0.0 and rng.random() < 0.5:
            options["weight"] = torch.as_tensor(rng.uniform(0.2, 3.0, n_out).astype(dtype))
        options["label_smoothing"] = smoothing
    return OBJECTS[name](**options) if as_object else functools.partial(FUNCTIONS[name], **options)
