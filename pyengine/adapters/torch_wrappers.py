"""PyTorch modules around a module: ``DataParallel``, ``DistributedDataParallel``, and those of ``torch.compile``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Unwrapped:
    """The module inside, which has the layers; ``compiled`` computes the same by a compiled program, None without one.

    ``notes`` say what a wrapper adds that one process and one backward pass do not show.
    """

    module: Any
    compiled: Any = None
    notes: tuple[str, ...] = ()


def unwrapped(torch: Any, model: Any) -> Unwrapped:
    """What stands inside all wrappers of a module."""
    module, compiled, notes = model, None, []
    parallel = torch.nn.parallel
    while True:
        if isinstance(module, parallel.DistributedDataParallel):
            count = torch.distributed.get_world_size(module.process_group)
            if count > 1:
                notes.append(
                    f"DistributedDataParallel averages the gradients of {count} processes in a training step: for "
                    "pe.watch, x and targets are those of all processes together."
                )
            module = module.module
        elif isinstance(module, parallel.DataParallel):
            if len(module.device_ids) > 1:
                notes.append("The module inside DataParallel is judged on one device.")
            module = module.module
        elif type(module).__name__ == "OptimizedModule" and hasattr(module, "_orig_mod"):
            compiled, module = module, module._orig_mod
        else:
            break
    if compiled is None and getattr(module, "_compiled_call_impl", None) is not None:
        compiled = module
    return Unwrapped(module, compiled, tuple(notes))
