"""What the check of one stage finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .statistics import Scale, Statistics, limit

Kind = Literal[
    "product", "activation", "output", "loss", "slope", "weight gradient", "bias gradient", "input gradient",
    "sum of heads", "weighted sum",
]  # fmt: skip
Standing = Literal["certified", "refuted", "refuted statistically"]


@dataclass(frozen=True)
class Worst:
    """The entry with the largest |r|/τ, or |r|/σ where only that was formed: what was computed and what is right."""

    index: tuple[int, ...]
    actual: float
    expected: float
    bound: float


@dataclass(frozen=True)
class Finding:
    """One stage, judged. ``name`` is the path of the judged witness, such as ``summed.dz['trunk.0']``.

    ``terms`` is how many terms an entry adds up, ``entries`` how many entries there are. ``ratio`` is R, the largest
    |r|/τ (for a large product that nothing is wrong with: an upper bound of it). ``statistics`` is None where the stage
    has no variance. ``replays`` holds, per statistic beyond its limit, the largest among correct recomputations;
    ``unexplained`` names those that no recomputation comes near. ``actual_error`` and ``expected_error`` are ‖r‖/‖Z‖
    and what V expects of it; None where there is no variance, or nothing but zeros.
    """

    name: str
    kind: Kind
    terms: int
    entries: int
    ratio: float
    worst: Worst | None = None
    statistics: Statistics | None = None
    scale: Scale | None = None
    replays: dict[str, float] = field(default_factory=dict)
    unexplained: tuple[str, ...] = ()
    note: str = ""
    actual_error: float | None = None
    expected_error: float | None = None

    @property
    def standing(self) -> Standing:
        if not self.ratio <= 1.0:
            return "refuted"
        return "refuted statistically" if self.unexplained else "certified"

    @property
    def holds(self) -> bool:
        return self.standing == "certified"

    @property
    def reason(self) -> str:
        """Why the stage fails, in words; empty where it holds."""
        if not self.ratio <= 1.0 and self.worst is not None:
            at = ", ".join(map(str, self.worst.index))
            return (
                f"[{at}] is {self.worst.actual!r}, exactly {self.worst.expected!r}: off by {self.ratio:.3g} times "
                f"what rounding can do ({self.worst.bound:.3g})"
            )
        if not self.ratio <= 1.0:
            return "not finite"
        return "; ".join(self._beyond(name) for name in self.unexplained)

    def _beyond(self, name: str) -> str:
        assert self.statistics is not None
        value = self.statistics.items()[name]
        text = f"{PHRASES[name]} {value:.3g} standard deviations (limit {limit(name, self.entries):.3g})"
        if name in {"whole", "row", "column"} and self.scale is not None:
            text += f", a factor of 1 {self.scale.value:+.2g} ± {self.scale.deviation:.1g} over the whole"
        return text


PHRASES = {
    "entry": "one entry is off by",
    "whole": "the whole is scaled by",
    "row": "a row is scaled by",
    "column": "a column is scaled by",
    "signs": "a random sum is off by",
}
