"""How a difference is attributed: to rounding, to something else, or to neither with confidence.

Every verdict in these checks comes from this one rule, and from no tuned number. A difference is compared with two
sizes that the case itself provides: the *spread*, what rounding may account for, and the *size* of the thing compared,
what a wholly wrong answer would leave. Then the difference is

* ``"within"`` the spread: no more than rounding may account for;
* ``"beyond"`` it: nearer to the size than to the spread, on a logarithmic scale (difference² > spread·size);
* ``"between"`` otherwise: larger than the spread, yet much smaller than an error worth its name. The spread is partly
  measured, not proved, so this is reported as *cannot tell*.

NaN is beyond.
"""

from __future__ import annotations

from typing import Literal

Standing = Literal["within", "between", "beyond"]


def standing(difference: float, spread: float, size: float) -> Standing:
    """Attribute one non-negative difference.

    >>> standing(1e-8, spread=1e-7, size=1.0), standing(1e-6, 1e-7, 1.0), standing(1e-2, 1e-7, 1.0)
    ('within', 'between', 'beyond')
    """
    if difference <= spread:
        return "within"
    if difference * difference <= spread * size:
        return "between"
    return "beyond"


def worst(standings: list[Standing]) -> Standing:
    """The gravest of several; within if there are none."""
    order: list[Standing] = ["within", "between", "beyond"]
    return max(standings, key=order.index, default="within")
