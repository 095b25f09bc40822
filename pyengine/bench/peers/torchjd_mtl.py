"""TorchJD: ``mtl_backward`` leaves the Jacobian of both losses in the trunk's ``.jac``; the sum is taken from it.

The sum is written out, since ``jac_to_grad`` with constant weights first concatenates the whole Jacobian. One loss
after the other (``parallel_chunk_size=1``) is faster here than both under ``vmap``, the default.
"""

from __future__ import annotations

from typing import Any

from ..contestant import Answer, Contestant, per_loss_answer
from ..sizes import WEIGHT_B, Numbers, Size
from . import torch_network
from .torch_network import TorchNetwork, numpy_lists

TITLE = "TorchJD"
PACKAGES = ("torch", "torchjd")
INSTALL = "pip install torchjd"
TASKS = ("per-loss",)
environment = torch_network.environment


def setup(size: Size, numbers: Numbers, _task: str, threads: int) -> Contestant:
    from importlib.metadata import version

    from torchjd.autojac import mtl_backward

    net = TorchNetwork(size, numbers, threads)
    torch, trunk, a, b = net.torch, net.trunk, net.a, net.b

    def step() -> Any:
        for tensor in (*trunk, *a, *b):
            tensor.grad = None
            if hasattr(tensor, "jac"):
                del tensor.jac
        h = net.features(trunk, net.x)
        losses = [net.loss_a(a, h, net.classes), net.loss_b(b, h, net.values)]
        mtl_backward(losses, features=h, tasks_params=[a, b], shared_params=trunk, parallel_chunk_size=1)
        trunk_a, trunk_b = ([tensor.jac[i] for tensor in trunk] for i in range(2))
        head_a, head_b = ([tensor.grad for tensor in head] for head in (a, b))
        total = torch._foreach_add(trunk_a, trunk_b, alpha=WEIGHT_B)
        return trunk_a, trunk_b, head_a, head_b, total, torch._foreach_mul(head_b, WEIGHT_B)

    def named(result: Any) -> Answer:
        trunk_a, trunk_b, head_a, head_b, total, total_b = map(numpy_lists, result)
        parts = {"trunk": total, "heads.a": head_a, "heads.b": total_b}
        return per_loss_answer(size, {"a": trunk_a, "b": trunk_b}, {"a": head_a, "b": head_b}, parts)

    return Contestant(step, named, net.versions | {"torchjd": version("torchjd")})
