"""torch.compile of the function transforms: one graph for forward, both backward passes and the sum."""

from __future__ import annotations

from ..contestant import Contestant
from ..sizes import Numbers, Size
from . import torch_func, torch_network

TITLE = "torch.compile"
PACKAGES = ("torch",)
INSTALL = "pip install torch; it needs a C++ compiler"
TASKS = ("per-loss", "summed")
environment = torch_network.environment


def setup(size: Size, numbers: Numbers, task: str, threads: int) -> Contestant:
    return torch_func.contestant(
        size, numbers, task, threads, lambda torch, step: torch.compile(step, fullgraph=True, dynamic=False)
    )
