"""Judging a model by its framework alone: what can be known without an engine that understands its layers."""

from __future__ import annotations

import math

from .checks.differences import Slope, check_differences, culprits, repeatable
from .checks.ledger import check_total
from .checks.reach import check_reach, faults
from .checks.routes import Routes, check_routes
from .errors import listing
from .observation import Observation
from .progress import say
from .report import formula
from .rounding.formats import FORMATS
from .runtime import environment
from .verification import Verdict, Verification


def verify_observation(seen: Observation, features: set[int], seed: int) -> Verification:
    """Judge what a framework computed for a model that the engine does not know.

    ``features`` are the numbers of outputs, as suspects for a common factor. CONSISTENT: the gradient of the total is
    the weighted sum of the losses' gradients, each gradient is the slope of its loss in float64, no gradient stops on
    its way, the total is the sum of its terms; the report says which of these could not be judged.
    """
    routes = check_routes(seen, features, seed)
    ledger = check_total(seen.weights, seen.losses, seen.total, FORMATS[seen.dtype].u)
    missing = {
        "stages": f"the engine did not take part: {seen.refusal}",
        "gradients": f"the engine did not take part: {seen.refusal}",
        **seen.missing,
    }
    twin = seen.twin
    slopes: tuple[Slope, ...] = ()
    if twin is not None and (restless := repeatable(twin)):
        missing["differences"] = f"two evaluations of {restless} with the same seed differ"
        twin = None
    if twin is not None:
        say("finite differences")
        slopes = check_differences(twin, seen.weights, seed)
        if any(slope.outcome == "differs" for slope in slopes):
            slopes += culprits(twin, seed)
        told = {slope.loss for slope in slopes if slope.outcome != "cannot tell"}
        if blind := [name for name in twin.gradients if name not in told]:
            missing["differences"] = (
                f"the slope of {listing(blind)} cannot be measured: too small beside the noise of the loss, or "
                "something inside computes in less than float64"
            )
    elif "differences" in missing:
        missing.setdefault("reach", "a gradient that was stopped shows only by moving parameters, in float64")
    reach = check_reach(routes.reach, twin, seed)
    found = []
    if routes.failures and not routes.bent:
        worst = max(routes.failures, key=lambda tensor: tensor.ratio)
        found.append(
            f"the gradient of the total is not {formula(seen.weights)} at {worst.name} ({worst.where}: "
            f"{worst.ratio:.3g} times what rounding explains)"
        )
    wrong = [slope for slope in slopes if slope.outcome == "differs"]
    if wrong:
        # Culprits come last: along one parameter, the name says where.
        last = wrong[-1]
        found.append(
            f"the gradient of {last.loss} says {last.claimed:.9g} along {last.along}, finite differences say "
            f"{last.measured:.9g} ± {last.bound:.2g}"
        )
    found += [f"{loss} is {how} at {name}" for loss, touched in faults(reach).items() for name, how in touched.items()]
    if ledger.standing == "beyond":
        found.append(f"the total has an unexplained rest of {ledger.rest:.9g}")
    doubts = []
    if routes.bent:
        doubts.append(f"the backward pass is not linear in the loss, or not repeatable: {routes.bent}")
    if not all(map(math.isfinite, seen.losses.values())):
        doubts.append("a loss is not finite")
    if ledger.standing == "between":
        doubts.append("the total differs from the sum of its terms by more than rounding, yet by little")
    verdict: Verdict = "INCONSISTENT" if found else "INCONCLUSIVE" if doubts else "CONSISTENT"
    return Verification(
        verdict,
        f"{seen.framework}: {_answer(seen, routes, found, doubts, bool(slopes) and 'differences' not in missing)}",
        combination=routes.combination,
        reach=reach,
        environment={**environment(), **seen.versions},
        ledger=ledger,
        routes=routes,
        slopes=slopes,
        not_judged=missing,
        refusal=seen.refusal,
        notes=seen.notes,
    )


def _answer(seen: Observation, routes: Routes, found: list[str], doubts: list[str], moved: bool) -> str:
    if found:
        return f"{'; '.join(found[:3])}."
    if doubts:
        return f"cannot tell: {'; '.join(doubts)}."
    slopes = ", and each of these is the slope of its loss by finite differences" if moved else ""
    noticed = (
        f" (a factor of 1 ± {routes.smallest_scale:.1e} would show)" if math.isfinite(routes.smallest_scale) else ""
    )
    return f"the gradient of the total is {formula(seen.weights)} by the framework's own gradients{noticed}{slopes}."
