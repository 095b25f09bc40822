"""Reach: which loss touches which parameter, and whether a gradient stops on its way.

The words of one loss and one parameter:

* ``"reached"``: the gradient has a number other than zero;
* ``"untouched"``: the loss is not connected to the parameter, as a head's loss is not to another head;
* ``"zero"``: every number is zero, as behind units that are off; JAX says so of a loss that is not connected, too;
* ``"vanished"``: every number is zero, but not in float64: too small for the format, or lost in its rounding;
* ``"detached"``: the loss moves with the parameter, but the gradient does not say so: it was stopped on its way;
* ``"unexpected"``: the gradient has numbers where the loss does not depend on the parameter.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..observation import Twin
from .differences import moves

Reach = dict[str, dict[str, str]]


def check_reach(reach: Reach, twin: Twin | None, seed: int) -> Reach:
    """The words, with every gradient that was stopped found by moving the parameter (this needs the twin)."""
    if twin is None:
        return reach
    return {
        loss: {name: _by_moving(twin, loss, name, word, seed) for name, word in touched.items()}
        for loss, touched in reach.items()
    }


def _by_moving(twin: Twin, loss: str, name: str, word: str, seed: int) -> str:
    if word not in ("untouched", "zero"):
        return word
    if moves(twin, loss, name, seed).outcome == "differs":
        return "detached"
    # Connected, and in float64 there is something.
    exact = twin.gradients[loss][name] if word == "zero" else None
    return "vanished" if exact is not None and bool((np.asarray(exact) != 0.0).any()) else word


def faults(reach: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """The entries that should not be so: detached and unexpected ones."""
    wrong = {
        loss: {name: word for name, word in touched.items() if word in ("detached", "unexpected")}
        for loss, touched in reach.items()
    }
    return {loss: touched for loss, touched in wrong.items() if touched}


def unused(reach: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The parameters that no loss reaches.

    >>> unused({"a": {"w": "reached", "v": "untouched"}, "b": {"w": "zero", "v": "zero"}})
    ['v']
    """
    names = list(dict.fromkeys(name for touched in reach.values() for name in touched))
    return [
        n
        for n in names
        if all(touched.get(n) not in ("reached", "detached", "unexpected") for touched in reach.values())
    ]
