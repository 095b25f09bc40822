"""The gradients of a network by PyTorch's own layers, losses and autograd."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from problems import Problem

import pyengine as pe


def torch_gradients(given: Problem) -> SimpleNamespace:
    """The same by PyTorch's own layers, losses and autograd."""
    import torch

    functional = torch.nn.functional
    net = given.net
    own = {name: torch.tensor(value, requires_grad=True) for name, value in given.params.items()}

    def activation(kind: pe.Activation, z: Any) -> Any:
        options = {"leaky_relu": {"negative_slope": kind.slope}, "elu": {"alpha": kind.slope}}
        options |= {"softplus": {"threshold": 1e9}, "gelu_tanh": {"approximate": "tanh"}}
        if kind.name == "linear":
            return z
        return getattr(functional, kind.name.removesuffix("_tanh"))(z, **options.get(kind.name, {}))

    def through(layers: Any, h: Any) -> Any:
        for layer in layers:
            bias = own[f"{layer.name}.bias"] if layer.bias else None
            h = activation(layer.activation, functional.linear(h, own[f"{layer.name}.weight"], bias))
        return h

    shared = through(net.trunk_layers, torch.tensor(given.x))
    losses, per_loss = {}, {}
    for name, head in net.heads.items():
        z, y, loss = through(net.head_layers[name], shared), torch.tensor(given.targets[name]), head.loss
        n_out = z.shape[1]
        if isinstance(loss, pe.SoftmaxCrossEntropy):
            l = functional.cross_entropy(z, y, reduction="none", label_smoothing=loss.label_smoothing)
        elif isinstance(loss, pe.ClippedCrossEntropy):
            rows = functional.one_hot(y, n_out).to(z.dtype) if y.ndim == 1 else y
            rows = rows * (1 - loss.label_smoothing) + loss.label_smoothing / n_out
            p = torch.softmax(z, 1)
            low, high = loss.clip_bounds(given.params.dtype)
            l = -(rows * torch.log(torch.clip(p / p.sum(1, keepdim=True), low, high))).sum(1)
        elif isinstance(loss, pe.ClippedBinaryCrossEntropy):
            p = torch.clip(torch.sigmoid(z), *loss.clip_bounds(given.params.dtype))
            l = functional.binary_cross_entropy(p, y, reduction="none")
            l = l.sum(1) if loss.reduction == "sum" else l.mean(1)
        else:
            options = {"delta": loss.delta} if isinstance(loss, pe.Huber) else {}
            call = {
                "binary_cross_entropy": functional.binary_cross_entropy_with_logits,
                "mse": functional.mse_loss,
                "mae": functional.l1_loss,
                "huber": functional.huber_loss,
            }[loss.name]
            l = call(z, y, reduction="none", **options)
            l = l.sum(1) if loss.reduction == "sum" else l.mean(1)
        w = torch.ones_like(l) if given.sample_weight is None else torch.tensor(given.sample_weight).to(l.dtype)
        total = (l * w).sum()
        losses[name] = total / {"sum": 1, "mean": len(w), "weighted_mean": w.sum()}[loss.reduction]
        names = list(net.loss_layouts[name].names)
        found = torch.autograd.grad(losses[name], [own[key] for key in names], retain_graph=True)
        per_loss[name] = {key: value.numpy() for key, value in zip(names, found, strict=True)}
    total = sum(head.weight * losses[name] for name, head in net.heads.items())
    summed = torch.autograd.grad(total, list(own.values()))
    return SimpleNamespace(
        losses={name: value.item() for name, value in losses.items()},
        total_loss=total.item(),
        per_loss=per_loss,
        summed={key: value.numpy() for key, value in zip(own, summed, strict=True)},
    )
