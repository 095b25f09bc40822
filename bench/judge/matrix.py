"""The detection matrix and the false alarms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from fuzz.networks import drawn
from fuzz.routes import ROUTES

import pyengine as pe
from pyengine.selftest.campaign import FAULTS, undisturbed
from pyengine.selftest.cases import Case, case, correct_cases
from pyengine.selftest.detection import detect, differs
from pyengine.selftest.fault import Evidence, Fault, ran

from .peers import COMPARING, DIFFERENTIATING, Program, accepted
from .reduced import at, reduced

SIZES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 3e-7, 1e-7)
"""Every scalable fault is planted at each of these; no check chose them."""

OWN = ("staged R", "staged P", "staged A", "staged", "black-box")
Say = Callable[[str], None]
Array = np.ndarray[Any, Any]
Rows = list[dict[str, Any]]


def gradients(evidence: Evidence) -> dict[str, Array]:
    """Everything that a comparison may look at: the per-loss gradients and the sum."""
    held = evidence.witnesses
    assert held is not None
    return {
        f"{of}.{name}": np.asarray(value) for of, one in held.passes.items() for name, value in one.gradient.items()
    }


def exact(arguments: Any) -> dict[str, Array]:
    """The same by the float64 reference."""
    found = pe.reference.gradients(*arguments)
    parts: dict[str | None, Any] = {**found.per_loss, None: found.summed}
    return {f"{of}.{name}": value for of, part in parts.items() for name, value in part.items()}


def kinds() -> list[Fault]:
    """The faults of gradients; those of logs and steps have no peer. One network for the scale of all is enough."""
    return [
        fault
        for fault in FAULTS
        if not {"ledger", "update"} & fault.must.keys() and fault.case not in ("tiny", "medium", "large")
    ]


def planted(make: Callable[[str], Case], judges: Callable[[Fault, Case, float, Evidence], dict[str, bool]], say: Say,
            every: int = 1) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Every fault at every size: which judge objects. A size at which nothing changes is left out."""
    cases: dict[str, Case] = {}
    for fault in kinds()[::every]:
        if fault.case not in cases:
            cases[fault.case] = make(fault.case)
        here = cases[fault.case]
        for size in SIZES if fault.scalable else (1.0,):
            say(f"{fault.name} {size:g}" if fault.scalable else fault.name)
            evidence = fault.plant(here, size)
            if differs(evidence, undisturbed(here, evidence)):
                yield {
                    "fault": fault.name, "does": fault.does, "case": here.name,
                    "size": size if fault.scalable else None, "caught": judges(fault, here, size, evidence),
                }  # fmt: skip


def comparing(case: Case, evidence: Evidence, truth: Mapping[str, Array]) -> dict[str, bool]:
    """Our checks and the tolerances: True where one objects."""
    found = detect(case, evidence)
    own = {check: found.by(check) for check in OWN}
    given = gradients(evidence)
    return {**own, **{name: not accepted(judge, given, truth) for name, judge in COMPARING.items()}}


def program(case: Case, plant: Callable[[Case], Evidence]) -> Program:
    """A program with its fault: at any parameters, the total that it computes and the gradient that it computes."""

    def run(flat: Array) -> tuple[float, Array]:
        evidence = plant(at(case, flat))
        assert evidence.witnesses is not None
        assert evidence.witnesses.summed is not None
        given = evidence.witnesses.summed.gradient
        return evidence.total, np.concatenate([np.ravel(given[name]) for name in case.net.layout.names])

    return run


def differentiating(case: Mapping[str, Case], plant: Callable[[Case], Evidence]) -> dict[str, bool]:
    """The finite differences: True where one objects."""
    found = {}
    with np.errstate(all="ignore"):
        for name, (dtype, judge) in DIFFERENTIATING.items():
            here = case[dtype]
            try:
                found[name] = not judge(program(here, plant), here.params.flat.copy())
            except (ValueError, RuntimeError):  # a NaN is refused before anything is compared
                found[name] = True
    return found


def detection(say: Say, every: int = 1) -> tuple[Rows, Rows]:
    """Faults in the self-test's networks, and the same networks without: our checks and the tolerances."""
    truths: dict[str, dict[str, Array]] = {}
    unmodified = []

    def judges(_fault: Fault, here: Case, _size: float, evidence: Evidence) -> dict[str, bool]:
        if here.name not in truths:
            truths[here.name] = exact(here.arguments)
            refused = comparing(here, Evidence(here.truth), truths[here.name])
            unmodified.append({"network": here.name, "refused": refused})
        return comparing(here, evidence, truths[here.name])

    return list(planted(case, judges, say, every)), unmodified


def small_detection(say: Say, every: int = 1) -> tuple[Rows, Rows]:
    """The same faults in small networks, where finite differences can visit every parameter; and these without."""
    both: dict[str, dict[str, Case]] = {}
    unmodified = []

    def make(name: str) -> Case:
        held = case(name)
        both[name] = {dtype: reduced(held, dtype) for dtype in ("float32", "float64")}
        unmodified.append({"network": held.name, "refused": _unmodified(both[name])})
        return both[name]["float32"]

    def judges(fault: Fault, here: Case, size: float, evidence: Evidence) -> dict[str, bool]:
        return {
            **comparing(here, evidence, exact(here.arguments)),
            **differentiating(both[fault.case], lambda moved: fault.plant(moved, size)),
        }

    return list(planted(make, judges, say, every)), unmodified


def _unmodified(both: Mapping[str, Case]) -> dict[str, bool]:
    narrow = both["float32"]
    return {
        **comparing(narrow, Evidence(narrow.truth), exact(narrow.arguments)),
        **differentiating(both, lambda moved: ran(moved, moved.run())),
    }


def false_alarms(say: Say, seeds: range) -> Rows:
    """Correct random networks by four frameworks: who objects."""
    found = []
    for seed in seeds:
        given = drawn(seed)
        framework = list(ROUTES)[seed % len(ROUTES)]
        say(f"correct network {seed} by {framework}")
        route = ROUTES[framework]
        run = route.run(given, seed)
        with np.errstate(all="ignore"):
            staged = pe.verify_witnesses(
                *given[:4], run.witnesses, given.sample_weight, flush_to_zero=route.flush_to_zero
            )
            per_loss, summed = run.gradients
            judged = pe.verify_gradients(*given, per_loss=per_loss, summed=summed, flush_to_zero=route.flush_to_zero)
            parts: dict[str | None, Any] = {**per_loss, None: summed}
            actual = {f"{of}.{name}": np.asarray(v) for of, part in parts.items() for name, v in part.items()}
            truth = exact(given)
        found.append(
            {
                "network": seed,
                "framework": framework,
                "refused": {
                    "staged": staged.verdict in ("REFUTED", "REFUTED_STATISTICAL"),
                    "black-box": judged.verdict == "INCONSISTENT",
                    **{name: not accepted(judge, actual, truth) for name, judge in COMPARING.items()},
                },
            }
        )
    return found


def small_false_alarms(say: Say, every: int = 1) -> Rows:
    """Correct small networks, every activation with every loss: who objects."""
    found = []
    for make in correct_cases(0)[::every]:
        held = make()
        say(f"correct network {held.name}")
        both = {dtype: reduced(held, dtype) for dtype in ("float32", "float64")}
        found.append({"network": held.name, "framework": "numpy", "refused": _unmodified(both)})
    return found
