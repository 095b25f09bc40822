"""What a fault is, and the few ways in which one gets into a computation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..checks.staged.recording import Place
from ..checks.staged.witnesses import Backward, Witnesses
from ..optimizers import Rule
from ..parameters import Array, Parameters
from ..witnesses import Log
from .cases import Case

Check = Literal["staged R", "staged P", "staged A", "black-box", "combination", "reach", "ledger", "update"]
CHECKS: tuple[Check, ...] = (
    "staged R", "staged P", "staged A", "black-box", "combination", "reach", "ledger", "update",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a computation left behind: its numbers and the total loss that they belong to; the losses that it reported;
    the parameters after its step."""

    witnesses: Witnesses | None = None
    log: Log | None = None
    after: Parameters | None = None
    optimizer: Rule | None = None
    total: float = float("nan")


Plant = Callable[[Case, float], Evidence]
Change = Callable[[Array, tuple[Array, ...], float], Any]


@dataclass(frozen=True, eq=False)
class Fault:
    """A fault of a known kind.

    ``plant`` runs a case with the fault in it; its second argument is the size of a ``scalable`` fault and 1 for
    others. ``must`` maps checks to the size at which they have to catch it (``"staged"`` stands for any of its three
    tests); an empty one marks a fault below what rounding may do, shown for honesty. ``where`` is how the name of the
    stage begins that the staged check has to name first, and ``called`` what other checks have to call it.
    """

    name: str
    does: str
    plant: Plant
    must: Mapping[str, float]
    case: str = "small"
    scalable: bool = False
    where: str = ""
    called: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> float:
        """The largest size that some check has to catch; 1 where none has to."""
        return max(self.must.values(), default=1.0)


def tampered(part: str, key: str, change: Change, of: str = "") -> Plant:
    """Change what is computed at a place: in the forward pass, in one backward pass, or (``of=""``) in all of them."""

    def plant(case: Case, size: float) -> Evidence:
        def tamper(place: Place, value: Array, operands: tuple[Array, ...]) -> Array:
            if (part, key) != (place.part, place.key) or of not in ("", place.of):
                return value
            with np.errstate(all="ignore"):
                return np.asarray(change(value, operands, size), value.dtype)

        return ran(case, case.run(tamper))

    return plant


def ran(case: Case, witnesses: Witnesses) -> Evidence:
    """What a run leaves, with the total that it would report."""
    losses = case.losses(witnesses)
    return Evidence(witnesses, total=sum(head.weight * losses[name] for name, head in case.net.heads.items()))


def another(change: Callable[[Case, float], Case]) -> Plant:
    """Run another problem than the one that is judged: other parameters, targets, losses or weights."""

    def plant(case: Case, size: float) -> Evidence:
        wrong = change(case, size)
        return ran(wrong, wrong.run())

    return plant


def finished(change: Callable[[Case, dict[str, Array], float], Mapping[str, Any]], of: str = "summed") -> Plant:
    """Change a gradient after it was computed; what it was computed from stays as it is."""

    def plant(case: Case, size: float) -> Evidence:
        held = case.truth
        one = held.summed if of == "summed" else held.per_loss[of]
        assert one is not None
        with np.errstate(all="ignore"):
            changed = change(case, dict(one.gradient), size)
        gradient = {name: np.asarray(value, case.params.dtype) for name, value in changed.items()}
        wrong = Backward(one.dh, one.dz, gradient)
        if of == "summed":
            return ran(case, replace(held, summed=wrong))
        return ran(case, replace(held, per_loss={**held.per_loss, of: wrong}))

    return plant


def with_head(case: Case, head: str, **options: Any) -> Case:
    """The case with another loss, option of the loss, or weight at one head."""
    old = case.net.heads[head]
    loss = options.pop("loss", old.loss)
    weight = options.pop("weight", old.weight)
    if not isinstance(loss, str) and options:
        loss, options = replace(loss, **options), {}
    heads = {**case.net.heads, head: type(old)(old.layers, loss, weight, **options)}
    return replace(case, net=type(case.net)(case.net.n_in, case.net.trunk, heads))


def with_params(case: Case, **changed: Array) -> Case:
    """The case with other parameters; names with ``__`` for ``.``."""
    named = {name.replace("__", "."): value for name, value in changed.items()}
    return replace(case, params=case.net.parameters({**case.params, **named}))


def narrow(a: Array, bits: int) -> Array:
    """Rounded to nearest, to that many bits of significand: bfloat16 has 8, float16 and TF32 have 11."""
    fraction, exponent = np.frexp(a)
    return np.asarray(np.ldexp(np.rint(np.ldexp(fraction, bits)), exponent - bits), a.dtype)


def scaled(value: Array, factor: float) -> Array:
    """value·factor, rounded once."""
    return np.asarray(value.astype(np.float64) * factor, value.dtype)
