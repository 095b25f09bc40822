"""PyTorch, eager: one forward pass, ``torch.autograd.grad`` per loss, and the sum of what they gave."""

from __future__ import annotations

from typing import Any

from ..contestant import Answer, Contestant, per_loss_answer, summed_answer
from ..sizes import WEIGHT_B, Numbers, Size
from . import torch_network
from .torch_network import TorchNetwork, numpy_lists

TITLE = "PyTorch"
PACKAGES = ("torch",)
INSTALL = "pip install torch"
TASKS = ("per-loss", "summed")
environment = torch_network.environment


def setup(size: Size, numbers: Numbers, task: str, threads: int) -> Contestant:
    net = TorchNetwork(size, numbers, threads)
    torch, trunk, a, b = net.torch, net.trunk, net.a, net.b
    grad, n, n_a = torch.autograd.grad, len(net.trunk), len(net.a)

    def per_loss() -> Any:
        h = net.features(trunk, net.x)
        loss_a, loss_b = net.loss_a(a, h, net.classes), net.loss_b(b, h, net.values)
        g_a = grad(loss_a, trunk + a, retain_graph=True)
        g_b = grad(loss_b, trunk + b)
        total = torch._foreach_add(g_a[:n], g_b[:n], alpha=WEIGHT_B)
        return g_a, g_b, total, torch._foreach_mul(g_b[n:], WEIGHT_B)

    def summed() -> Any:
        return grad(net.total(trunk, a, b, net.x, net.classes, net.values), trunk + a + b)

    def name_per_loss(result: Any) -> Answer:
        g_a, g_b, total, total_b = map(numpy_lists, result)
        parts = {"trunk": total, "heads.a": g_a[n:], "heads.b": total_b}
        return per_loss_answer(size, {"a": g_a[:n], "b": g_b[:n]}, {"a": g_a[n:], "b": g_b[n:]}, parts)

    def name_summed(result: Any) -> Answer:
        g = numpy_lists(result)
        return summed_answer(size, {"trunk": g[:n], "heads.a": g[n : n + n_a], "heads.b": g[n + n_a :]})

    if task == "per-loss":
        return Contestant(per_loss, name_per_loss, net.versions)
    return Contestant(summed, name_summed, net.versions)
