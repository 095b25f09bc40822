"""What a framework computed for one batch without stepping: gradients, and the numbers on the way if it shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..checks.staged.witnesses import Witnesses
from ..engine import Network
from ..errors import sentence
from ..parameters import Array, Parameters
from ..witnesses import Step


@dataclass(frozen=True, eq=False)
class Computation:
    """Canonical names and shapes; ``native`` maps canonical parameter names to the framework's own.

    ``step`` lets the model take a training step, tells what it did and puts everything back; None where the model does
    not train itself. ``notes`` are what the user should know beside every verdict.

    ``kept`` is the format that narrow witnesses are in, else None; ``params`` and ``x`` are float32 then.
    ``loss_scale`` is what the losses were multiplied by before they went back, so that float16 could hold it.
    ``loss_dtype`` is that of the losses themselves; ``narrow_steps`` and ``narrow_sums`` as in ``verify_witnesses``.

    ``losses`` are the unweighted losses as the framework computed them; ``flush_to_zero`` tells whether it lets
    subnormal numbers vanish; ``witnesses`` is None where it does not show what happens between the layers.
    """

    framework: str
    network: Network
    params: Parameters
    x: Array
    targets: dict[str, Array]
    per_loss: dict[str, dict[str, Array]]
    summed: dict[str, Array]
    losses: dict[str, float]
    native: dict[str, str]
    sample_weight: Mapping[str, Array] | None = None
    witnesses: Witnesses | None = None
    flush_to_zero: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    kept: str | None = None
    loss_dtype: str | None = None
    narrow_steps: bool = False
    narrow_sums: bool = False
    loss_scale: float = 1.0
    step: Callable[[], Step] | None = None
    notes: tuple[str, ...] = ()


def as_batch(given: Any) -> Array:
    """A NumPy array of what a user hands to a model, among it tensors that need a gradient or live elsewhere."""
    if hasattr(given, "detach"):
        given = given.detach().cpu()
        if str(given.dtype) == "torch.bfloat16":
            # NumPy has no bfloat16; every number of it is a float32.
            given = given.float()
    return np.asarray(given)


def require_no_weights(sample_weight: Any) -> None:
    """Raise ``ValueError`` for weights of samples where a loss has no place for them."""
    if sample_weight is not None:
        raise ValueError(
            sentence("sample_weight", got="is given", expected="None for a framework's model",
                     remedy="Weights of samples are known for Keras and (pe.Network, params).")
        )  # fmt: skip


def refuse_end(after: Any) -> None:
    """Raise ``ValueError``: where parameters live in the model, nobody needs to be told what became of them."""
    raise ValueError(
        sentence("after", got=f"is {type(after).__name__}", expected="nothing, as the model holds its parameters",
                 remedy="Leave it out; it is for functional steps of JAX.")
    )  # fmt: skip


def at_random(refusal: str) -> ValueError:
    """The refusal of a model whose forward pass draws at random: what the watched step drew is not known."""
    return ValueError(
        sentence("model", got=f"draws at random, as dropout does, and the engine does not know it ({refusal})",
                 expected="the same numbers in every pass", remedy="Watch a step with dropout off.")
    )  # fmt: skip
