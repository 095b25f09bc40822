"""Parameters and a batch as a computation in a narrow format reads them, widened to float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import as_wide
from .checks.staged.witnesses import Witnesses, kept_in
from .errors import listing, sentence
from .losses import ClippedBinaryCrossEntropy, ClippedCrossEntropy
from .parameters import Array, Parameters
from .rounding.formats import Format
from .rounding.storage import NARROW, Storage, nearest, storage

if TYPE_CHECKING:
    from .engine import Network


@dataclass(frozen=True, eq=False)
class Stored:
    """``parameters`` is the name of the dtype in which the parameters were given."""

    params: Parameters
    parameters: str
    x: Any
    targets: Any
    kept: Storage


def read_storage(
    net: Network,
    params: Mapping[str, Any],
    x: Any,
    targets: Any,
    witnesses: Any,
    loss_dtype: str | None = None,
    *,
    tf32: bool = False,
    flush_to_zero: bool = False,
    narrow_steps: bool = False,
    narrow_sums: bool = False,
) -> Stored:
    """Find out in which format the witnesses lie, and read everything else as that computation did.

    Raises ``ValueError`` and ``TypeError`` for what does not go together.
    """
    wide, parameters = _parameters(net, params)
    name = kept_in(witnesses, parameters) if isinstance(witnesses, Witnesses) else parameters
    if name not in NARROW:
        _require(loss_dtype is None or loss_dtype == name, "loss_dtype", f"is {loss_dtype!r}", f"None for {name}")
        _require(not tf32 or parameters == "float32", "tf32", f"is True for {parameters}", "float32 parameters")
        own = storage(parameters if parameters not in NARROW else "float32", tf32=tf32, flush=flush_to_zero)
        if parameters in NARROW:
            # The witnesses' dtype is refused by name when they are checked.
            own = storage(parameters, flush=flush_to_zero)
        return Stored(wide, parameters, x, targets, own)
    _require(not tf32, "tf32", f"is True for {name}", "float32 witnesses")
    _require(
        parameters in (name, "float32"), "params", f"are {parameters} beside witnesses in {name}", f"{name} or float32"
    )
    chosen = name if loss_dtype is None else loss_dtype
    _require(chosen in (name, "float32"), "loss_dtype", f"is {loss_dtype!r}", f"{name!r} or 'float32'")
    clipping = ClippedCrossEntropy | ClippedBinaryCrossEntropy
    clipped = [head for head, one in net.heads.items() if isinstance(one.loss, clipping)]
    _require(
        not clipped or chosen == "float32", "net", f"clips probabilities in {name} at {listing(clipped)}",
        "cross-entropy from logits",
    )  # fmt: skip
    kept = storage(name, chosen, flush=flush_to_zero, steps=narrow_steps, sums=narrow_sums)
    read = Parameters(wide.layout, _rounded(wide.flat, kept.format))
    inputs, _ = as_wide("x", x)
    if isinstance(targets, Mapping):
        targets = {head: as_wide(f"targets[{head!r}]", target)[0] for head, target in targets.items()}
    return Stored(read, parameters, _rounded(inputs, kept.format), targets, kept)


def _parameters(net: Network, params: Mapping[str, Any]) -> tuple[Parameters, str]:
    """The parameters in float32 or float64, and the name of their own dtype."""
    if isinstance(params, Parameters) or not isinstance(params, Mapping):
        own = net._own(params)
        return own, own.dtype.name
    read = {name: as_wide(f"parameters[{name!r}]", value) for name, value in params.items()}
    names = list(dict.fromkeys(name for _, name in read.values()))
    narrow = [name for name in names if name in NARROW]
    _require(not narrow or len(names) == 1, "parameters", f"have the dtypes {listing(names)}", "one dtype for all")
    own = net._own({name: array for name, (array, _) in read.items()})
    return own, narrow[0] if narrow else own.dtype.name


def _rounded(given: Array, into: Format) -> Array:
    if given.dtype.kind != "f":
        return given
    return np.asarray(nearest(given.astype(np.float64), into).astype(np.float32))


def _require(holds: bool, argument: str, got: str, expected: str) -> None:
    if not holds:
        raise ValueError(
            sentence(argument, got=got, expected=expected, remedy="Formats as in docs/tolerances.md, section 8.")
        )
