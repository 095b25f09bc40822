"""The canonical record of what a framework did, whichever framework it was.

Adapters write it, checks read it; nothing else passes between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .engine import Network
from .optimizers import Rule
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


@dataclass(frozen=True, eq=False)
class Step:
    """One training step: the network, the batch, the parameters before and after, and the gradient that was applied.

    ``before`` and ``after`` are the framework's own numbers under canonical names and shapes; ``gradient`` is the
    gradient that its optimizer received, in float64, and ``gradient_roundings`` the number of float32 roundings between
    that gradient and what could be read. ``native`` maps canonical parameter names to the framework's. ``objective``
    maps heads to the loss as the user wrote it.
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
    optimizer: Rule
    native: dict[str, str]
    objective: dict[str, str]
    log: Log | None = None
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

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
