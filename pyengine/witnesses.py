"""The canonical record of what a framework did, whichever framework it was.

Adapters write it, checks read it; nothing else passes between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from .engine import Network
from .optimizers import Rule, State
from .parameters import Array, Parameters

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
"""Unit roundoff of the dtypes that a framework may train in."""


@dataclass(frozen=True)
class Log:
    """The losses as the framework itself reported them.

    ``losses`` maps heads to their unweighted losses; ``roundings`` counts the operations between the loss and the log,
    such as a running mean's multiplication and division.
    """

    total: float
    losses: dict[str, float]
    roundings: int = 0


class Stepper(Protocol):
    """A copy of the framework's own optimizer, with the state that it had before the step."""

    def step(self, gradient: npt.NDArray[np.float64]) -> Array:
        """Take one step with a flat gradient in canonical order; return all parameters after it, flat."""
        ...


@dataclass(frozen=True)
class Clip:
    """How gradients are clipped: to a ``"global_norm"``, each tensor to a ``"norm"``, or each entry to a ``"value"``.

    ``plus`` is what is added to a norm before the division by it: 1e-6 in ``torch.nn.utils.clip_grad_norm_``, 0
    elsewhere. ``inside`` tells that the optimizer itself clips, as Keras' do.
    """

    kind: Literal["global_norm", "norm", "value"]
    limit: float
    plus: float = 0.0
    inside: bool = False


@dataclass(frozen=True, eq=False)
class Added:
    """A term of the total that is no loss of an output: regularizers, what layers add. ``gradient`` is float64."""

    value: float
    gradient: Parameters
    source: str


@dataclass(frozen=True, eq=False)
class Step:
    """One training step: the network, the batch, the parameters before and after, and the gradient that was applied.

    ``before`` and ``after`` are the framework's own numbers under canonical names and shapes; ``gradient`` is the
    gradient that its optimizer received, in float64, and ``gradient_roundings`` the number of float32 roundings between
    that gradient and what could be read. ``native`` maps canonical parameter names to the framework's. ``objective``
    maps heads to the loss as the user wrote it.

    ``optimizer`` is the float64 rule, or None where there is none for this optimizer; ``state`` is what it remembered
    before the step, over all parameters (None: it was fresh). ``own`` makes copies of the framework's own optimizer;
    ``own_at`` makes them for some elements alone, where the optimizer takes each by itself.
    ``observed`` is False where ``gradient`` was not read but computed. ``previous`` is the batch before this one, and
    ``leftover`` the gradient that lay in the framework's buffers before this batch, where they are known. ``clip``
    tells how the user says that gradients are clipped. ``added`` are terms of the total that are no losses;
    ``gradient`` is what the optimizer received without them, and ``own`` adds theirs itself.
    """

    framework: str
    call: str
    network: Network
    x: Array
    targets: dict[str, Array]
    before: Parameters
    after: Parameters
    gradient: Parameters
    gradient_source: str
    gradient_roundings: int
    optimizer: Rule | None
    native: dict[str, str]
    objective: dict[str, str]
    log: Log | None = None
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    observed: bool = True
    state: State | None = None
    own: Callable[[], Stepper] | None = None
    own_at: Callable[[npt.NDArray[np.intp]], Stepper] | None = None
    own_name: str = ""
    previous: tuple[Array, Mapping[str, Array]] | None = None
    leftover: Parameters | None = None
    clip: Clip | None = None
    added: Mapping[str, Added] = field(default_factory=dict)

    @property
    def unit(self) -> float:
        """Unit roundoff of the parameters' dtype."""
        return UNIT[str(self.before.dtype)]

    @property
    def batch(self) -> int:
        return int(self.x.shape[0])

    @property
    def trunk_size(self) -> int:
        """How many numbers the trunk has; they come first in every layout."""
        return sum(layer.n_out * (layer.n_in + layer.bias) for layer in self.network.trunk_layers)

    @property
    def shared(self) -> tuple[str, ...]:
        """The canonical names of the trunk's parameters."""
        return tuple(name for name in self.network.layout.names if name.startswith("trunk."))
