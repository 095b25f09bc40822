"""PyTorch's function transforms: the trunk's pullback taken once, pulled back once per loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..contestant import Answer, Contestant, per_loss_answer, summed_answer
from ..sizes import WEIGHT_B, Numbers, Size
from . import torch_network
from .torch_network import TorchNetwork, numpy_lists

TITLE = "torch.func"
PACKAGES = ("torch",)
INSTALL = "pip install torch"
TASKS = ("per-loss", "summed")
environment = torch_network.environment


def setup(size: Size, numbers: Numbers, task: str, threads: int) -> Contestant:
    return contestant(size, numbers, task, threads, lambda _torch, step: step)


def contestant(
    size: Size, numbers: Numbers, task: str, threads: int, transform: Callable[[Any, Any], Any]
) -> Contestant:
    """``transform(torch, function)`` may compile the function, whose arguments are all tensors that it reads."""
    net = TorchNetwork(size, numbers, threads)
    torch = net.torch

    def per_loss(trunk: Any, a: Any, b: Any, x: Any, classes: Any, values: Any) -> Any:
        h, pullback = torch.func.vjp(lambda trunk: net.features(trunk, x), trunk)
        head_a, h_a = torch.func.grad(net.loss_a, argnums=(0, 1))(a, h, classes)
        head_b, h_b = torch.func.grad(net.loss_b, argnums=(0, 1))(b, h, values)
        (trunk_a,), (trunk_b,) = pullback(h_a), pullback(h_b)
        total = [g_a + WEIGHT_B * g_b for g_a, g_b in zip(trunk_a, trunk_b, strict=True)]
        return trunk_a, trunk_b, head_a, head_b, total, [WEIGHT_B * g for g in head_b]

    summed = torch.func.grad(net.total, argnums=(0, 1, 2))

    function = transform(torch, per_loss if task == "per-loss" else summed)
    trunk, a, b = ([tensor.detach() for tensor in part] for part in (net.trunk, net.a, net.b))
    arguments = (trunk, a, b, net.x, net.classes, net.values)

    def name_per_loss(result: Any) -> Answer:
        trunk_a, trunk_b, head_a, head_b, total, total_b = map(numpy_lists, result)
        parts = {"trunk": total, "heads.a": head_a, "heads.b": total_b}
        return per_loss_answer(size, {"a": trunk_a, "b": trunk_b}, {"a": head_a, "b": head_b}, parts)

    def name_summed(result: Any) -> Answer:
        return summed_answer(size, dict(zip(torch_network.PARTS, map(numpy_lists, result), strict=True)))

    return Contestant(lambda: function(*arguments), name_per_loss if task == "per-loss" else name_summed, net.versions)
