"""Whether a model computes in a 16-bit format on its way although it is run in float64.

Behind such a number a loss is made of plateaus, and no difference of it is the slope that its gradient means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..rounding.storage import NARROW


class NarrowInside(Exception):
    """Its text says in which format."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it computes in {name} on its way")


@contextmanager
def watched(torch: Any) -> Iterator[None]:
    """PyTorch: raises :class:`NarrowInside` afterwards if the result of any operation was narrow."""
    seen: list[str] = []
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            results = found if isinstance(found, (tuple, list)) else (found,)
            names = (str(one.dtype).removeprefix("torch.") for one in results if isinstance(one, torch.Tensor))
            seen.extend(name for name in names if name in NARROW)
            return found

    with Watch():
        yield
    if seen:
        raise NarrowInside(seen[0])


def require_wide_jaxpr(jax: Any, function: Callable[..., Any], *arguments: Any) -> None:
    """JAX: raise :class:`NarrowInside` if the function's program holds a narrow number; as text it names all dtypes."""
    found = re.search(r"\b(bf16|f16)\[", str(jax.make_jaxpr(function)(*arguments)))
    if found is not None:
        raise NarrowInside({"bf16": "bfloat16", "f16": "float16"}[found.group(1)])


def require_wide_graph(function: Any, *arguments: Any) -> None:
    """TensorFlow: raise :class:`NarrowInside` if the graph of a ``tf.function`` holds a narrow number."""
    graph = function.get_concrete_function(*arguments).graph
    inside = [definition.graph for definition in graph._functions.values() if hasattr(definition, "graph")]
    for one in (graph, *inside):
        for operation in one.get_operations():
            for output in operation.outputs:
                if output.dtype.name in NARROW:
                    raise NarrowInside(output.dtype.name)
