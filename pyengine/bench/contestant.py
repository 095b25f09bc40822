"""What a contestant is, and which there are.

A file in ``peers/`` is one competitor: ``TITLE``, ``PACKAGES`` (what must be installed, by import name),
``INSTALL`` (how), ``TASKS`` (what it takes part in), ``environment(threads)`` (variables for its process) and
``setup(size, numbers, task, threads)``, which returns a :class:`Contestant` that has compiled nothing yet: the first
steps warm up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .sizes import HEADS, Array, Size

ENGINE = "pyengine"

# In the order of the tables.
PEERS = {
    "pyengine": "engine",
    "pyengine-fresh": "engine_fresh",
    "numpy": "numpy_blas",
    "torch": "torch_eager",
    "torch.func": "torch_func",
    "torch.compile": "torch_compiled",
    "torchjd": "torchjd_mtl",
    "jax": "jax_jit",
    "tensorflow": "tensorflow_function",
}

Answer = dict[str, dict[str, Array]]
"""``"a"``, ``"b"``: the gradient of one unweighted loss, by name, for the trunk and its own head; ``"summed"``: all."""


@dataclass(frozen=True)
class Contestant:
    """``step()`` does the whole work and returns when its result is ready; ``named(result)`` names it, untimed."""

    step: Callable[[], Any]
    named: Callable[[Any], Answer]
    versions: dict[str, str] = field(default_factory=dict)


def peer(name: str) -> Any:
    """The module of a contestant. Its framework is not imported yet."""
    return import_module(f".peers.{PEERS[name]}", __package__)


def missing(name: str) -> str | None:
    """Why a contestant cannot take part, with the remedy; None if it can."""
    module = peer(name)
    absent = [package for package in module.PACKAGES if not installed(package)]
    return f"{' and '.join(absent)} not installed: {module.INSTALL}" if absent else None


def installed(package: str) -> bool:
    """Whether a package could be imported, without importing it."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def per_loss_answer(size: Size, trunk: dict[str, Any], heads: dict[str, Any], summed: dict[str, Any]) -> Answer:
    """Name lists of arrays: ``trunk[head]`` and ``heads[head]`` are per loss, ``summed[part]`` is the weighted sum."""
    answer = {head: named(size, "trunk", trunk[head]) | named(size, f"heads.{head}", heads[head]) for head in HEADS}
    return answer | summed_answer(size, summed)


def summed_answer(size: Size, summed: dict[str, Any]) -> Answer:
    """Name the lists of arrays of the weighted sum, a list a part."""
    parts = [named(size, part, arrays) for part, arrays in summed.items()]
    return {"summed": {name: array for part in parts for name, array in part.items()}}


def named(size: Size, part: str, arrays: Any) -> dict[str, Any]:
    """The arrays of a part under the names of its parameters."""
    return dict(zip(size.names(part), arrays, strict=True))
