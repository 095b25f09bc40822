"""What a verdict rests on, in sentences for reports. docs/tolerances.md argues for each."""

from __future__ import annotations

ARITHMETIC = (
    "Every operation rounds to nearest in IEEE arithmetic; products are conventional, their terms in any order."
)
ELEMENTARY = "exp, expm1, log, log1p and tanh err by at most 8 units roundoff, erf and erfc by 8 in absolute terms."
INDEPENDENCE = (
    "Roundings have mean zero given what came before and the variance of a uniform distribution; sums add their terms "
    "in an order that has nothing to do with their sizes."
)
FIRST_ORDER = "Errors pass through the network to first order: the logits' rounding error is small against 1."

STAGED = (ARITHMETIC, ELEMENTARY, INDEPENDENCE)
BLACK_BOX = (ARITHMETIC, ELEMENTARY, INDEPENDENCE, FIRST_ORDER)

LOGIT_ERROR = 0.05
"""Standard deviation of a logit's rounding error from which a probability moves by 5 %."""


def logit_warning(head: str, sigma: float) -> str:
    """The warning about a loss whose logits carry so much rounding error."""
    return (
        f"the logits of {head!r} carry a rounding error of up to {sigma:.2g} (standard deviation; from {LOGIT_ERROR:g} "
        "on the first order is a rough guide): correct programs differ visibly here, and faults hide below that"
    )
