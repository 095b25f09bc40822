"""Reach: which loss touches which parameter, and whether a gradient stops on its way.

The words of one loss and one parameter:

* ``"reached"``: the gradient has a number other than zero;
* ``"untouched"``: the loss is not connected to the parameter, as a head's loss is not to another head;
* ``"zero"``: every number is zero, as behind units that are off; JAX says so of a loss that is not connected, too;
* ``"detached"``: the loss moves with the parameter, but the gradient does not say so: it was stopped on its way;
* ``"unexpected"``: the gradient has numbers where the loss does not depend on the parameter.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..observation import Twin
from .differences import moves

Reach = dict[str, dict[str, str]]


def check_reach(reach: Reach, twin: Twin | None, seed: int) -> Reach:
    """The words, with every gradient that was stopped found by moving the parameter (this needs the twin)."""
    if twin is None:
        return reach
    return {
        loss: {
            name: "detached" if word in ("untouched", "zero") and moves(twin, loss, name, seed).outcome == "differs"
            else word
            for name, word in touched.items()
        }
        for loss, touched in reach.items()
    }  # fmt: skip


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
