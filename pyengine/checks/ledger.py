"""The loss ledger: every term of the reported total, beside what the engine finds for the same batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..witnesses import Step
from .evidence import Evidence
from .standing import Standing, standing, worst


@dataclass(frozen=True)
class Term:
    """One loss: as the framework reported it, as recomputed, and what rounding may make of the difference."""

    name: str
    objective: str
    weight: float
    reported: float
    recomputed: float
    difference: float
    spread: float
    standing: Standing


@dataclass(frozen=True)
class Ledger:
    """The terms; the total; and the rest, reported total - Σ weight·reported loss, which no term explains.

    ``rest_spread`` is a bound, not a measurement: the roundings of K products, K - 1 sums and of the log itself.
    ``verdict`` is ``"balanced"``, ``"unexplained rest"``, ``"another loss"`` (a term is not the loss that it is called)
    or ``"cannot tell"``.
    """

    terms: tuple[Term, ...]
    total: float
    recomputed_total: float
    total_spread: float
    rest: float
    rest_spread: float
    verdict: str
    standing: Standing


def check_ledger(step: Step, evidence: Evidence) -> Ledger | None:
    """Compare the framework's log with the engine's losses; None where the framework reported nothing."""
    log = step.log
    if log is None:
        return None
    unit = step.unit
    terms = []
    for name, head in step.network.heads.items():
        recomputed, reported = evidence.losses[name], log.losses[name]
        spread = evidence.loss_spread[name] + log.roundings * unit * abs(recomputed)
        difference = reported - recomputed
        terms.append(
            Term(
                name,
                step.objective[name],
                head.weight,
                reported,
                recomputed,
                difference,
                spread,
                standing(abs(difference), spread, abs(recomputed)),
            )
        )
    for name, one in step.added.items():
        # Frameworks report no such term by itself: it is what the framework says when asked for it alone.
        terms.append(Term(name, one.source, 1.0, one.value, one.value, 0.0, unit * abs(one.value), "within"))
    weighed = [term.weight * term.reported for term in terms]
    size = sum(abs(value) for value in weighed)
    rest = log.total - sum(weighed)
    # Each term carries its log's roundings and one product, the total its own log's and K - 1 sums.
    rest_spread = (2 * log.roundings + len(terms)) * unit * size
    by_rest = standing(abs(rest), rest_spread, size)
    by_terms = worst([term.standing for term in terms])
    verdict = "balanced"
    if by_terms == "beyond":
        verdict = "another loss"
    elif by_rest == "beyond":
        verdict = "unexplained rest"
    elif "between" in (by_rest, by_terms):
        verdict = "cannot tell"
    return Ledger(
        terms=tuple(terms),
        total=log.total,
        recomputed_total=sum(term.weight * term.recomputed for term in terms),
        total_spread=sum(abs(term.weight) * term.spread for term in terms) + rest_spread,
        rest=rest,
        rest_spread=rest_spread,
        verdict=verdict,
        standing=worst([by_rest, by_terms]),
    )


def check_total(weights: Mapping[str, float], losses: Mapping[str, float], total: float, unit: float) -> Ledger:
    """Is the reported total the weighted sum of its terms? Without an engine the terms themselves are taken as given.

    Each weight is rounded to the dtype, each product and each of the K - 1 sums once.
    """
    weighed = [weights[name] * value for name, value in losses.items()]
    size = sum(map(abs, weighed))
    rest = total - sum(weighed)
    spread = (len(weighed) + 1) * unit * size
    found = standing(abs(rest), spread, size)
    terms = tuple(
        Term(name, name, weights[name], value, math.nan, math.nan, math.nan, "within") for name, value in losses.items()
    )
    verdict = {"within": "balanced", "beyond": "unexplained rest", "between": "cannot tell"}[found]
    return Ledger(terms, total, sum(weighed), spread, rest, spread, verdict, found)
