"""JAX: a function as one compiled program, which is kept for the next call that traces to the same one.

It is traced when it is prepared, so what it reads from Python is what stood there then. The program's text is what it
is known by; the numbers that it closes over are handed to it, so neither they nor any model is held.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from .jax_kept import Kept

MOST = 16
"""Programs that are kept. One of a medium network takes a few megabytes."""

_kept: Kept[Any] = Kept(MOST)


def prepared(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The function as a program for arguments of these shapes, pytrees. The function itself is not held."""
    import jax

    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)

    def compiled() -> Any:
        program = closed.jaxpr
        return jax.jit(lambda numbers, leaves: jax.core.eval_jaxpr(program, numbers, *leaves))

    numbers = [one if isinstance(one, jax.Array) else jax.numpy.asarray(one) for one in closed.consts]
    run, structure = _kept.get(_text(closed.jaxpr), compiled), jax.tree.structure(shapes)
    return lambda *given: jax.tree.unflatten(structure, run(numbers, jax.tree.leaves(given)))


def _text(program: Any) -> Hashable | None:
    """What tells a program from all others; None where its text does not tell all."""
    text = str(program)
    types = tuple(str(value.aval) for value in (*program.constvars, *program.invars))
    # Functions of Python's and arrays that are written out in part.
    return None if " at 0x" in text or "..." in text else (text, types)
