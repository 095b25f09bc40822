"""The run over all faults, and over correct computations."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..optimizers import Adam
from ..runtime import info
from .cases import Case, case, correct_cases
from .detection import Detection, detect, differs
from .fault import CHECKS, Check, Evidence, Fault
from .faults_layers import FAULTS as LAYERS
from .faults_losses import FAULTS as LOSSES
from .faults_numbers import FAULTS as NUMBERS
from .faults_steps import FAULTS as STEPS
from .faults_steps import honest, moved, reported, total
from .faults_sums import FAULTS as SUMS

FAULTS: tuple[Fault, ...] = (*NUMBERS, *LOSSES, *LAYERS, *SUMS, *STEPS)
SEARCHED = ("staged", "black-box", "combination", "ledger", "update")
"""Checks whose smallest caught size is searched for."""

FARTHEST, HALVINGS = 2.0**20, 6
"""How far below the required size the search goes, and that it stops at a factor of 2^(20/2⁶) = 1.24."""

SLOW = {"medium", "large"}
Say = Callable[[str, int, int], None]
"""Hears what is being done, how many parts are done, and of how many."""


@dataclass(frozen=True)
class Planted:
    """One fault, planted: which checks caught it at its own size, the smallest size that each catches, and what is
    wrong with that, in sentences; empty if nothing is."""

    name: str
    does: str
    case: str
    size: float | None
    caught: dict[Check, bool]
    required: dict[str, float]
    first: str
    called: dict[str, str]
    smallest: dict[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Correct:
    """One correct computation, and what the checks said; ``problems`` are false alarms."""

    name: str
    verdicts: dict[str, str]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """Everything that a self-test found. It holds if no fault escaped and no correct computation was refused."""

    planted: tuple[Planted, ...]
    correct: tuple[Correct, ...]
    seconds: float
    seed: int
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return bool(self.planted) and bool(self.correct) and not self.problems

    @property
    def problems(self) -> list[str]:
        """Escaped faults, wrong names and false alarms, one sentence each."""
        named = [(one.name, one.problems) for one in self.planted] + [(one.name, one.problems) for one in self.correct]
        return [f"{name}: {text}" for name, problems in named for text in problems]


def plant(fault: Fault, within: Case, *, search: bool = True) -> Planted:
    """Plant one fault and see what the checks make of it."""
    size = fault.size
    evidence = fault.plant(within, size)
    found = detect(within, evidence)
    problems = []
    if not differs(evidence, undisturbed(within, evidence)):
        problems.append("the planted fault changes no number")
    for check, required in fault.must.items():
        here = found if required == size else detect(within, fault.plant(within, required), only=check)
        if not here.by(check):
            problems.append(f"escapes {check}" + (f" at {required:g}" if fault.scalable else ""))
    problems += _misnamed(fault, found)
    smallest = {}
    if fault.scalable and search:
        for check in SEARCHED:
            sizes = [of for name, of in fault.must.items() if name.startswith(check)]
            if sizes and found.by(check):
                smallest[check] = _smallest(fault, within, check, max(sizes))
    return Planted(
        fault.name, fault.does, within.name, size if fault.scalable else None,
        {check: found.caught[check] for check in CHECKS if check in found.caught},
        dict(fault.must), found.first, dict(found.called), smallest, tuple(problems),
    )  # fmt: skip


def _misnamed(fault: Fault, found: Detection) -> list[str]:
    problems = []
    if fault.where and found.by("staged") and not found.first.startswith(fault.where):
        problems.append(f"is seen at {found.first} first, not at {fault.where}")
    for check, expected in fault.called.items():
        said = found.called.get(check, "nothing")
        if not (expected in said if check == "suspect" else said == expected):
            problems.append(f"is called {said!r}, not {expected!r}")
    return problems


def undisturbed(within: Case, evidence: Evidence) -> Evidence:
    """What the same computation leaves without the fault."""
    rule = evidence.optimizer or Adam()
    return Evidence(
        None if evidence.witnesses is None else within.truth,
        None if evidence.log is None else reported(within),
        None if evidence.after is None else moved(within, rule, [total(within)]),
    )


def _smallest(fault: Fault, within: Case, check: str, caught: float) -> float:
    """The smallest size that is caught, by bisection of the logarithm below one that is, or the farthest size."""

    def catches(size: float) -> bool:
        return detect(within, fault.plant(within, size), only=check).by(check)

    if not catches(caught):
        return float("inf")
    escaped = caught / FARTHEST
    if catches(escaped):
        return escaped
    for _ in range(HALVINGS):
        middle = (caught * escaped) ** 0.5
        if catches(middle):
            caught = middle
        else:
            escaped = middle
    return caught


def check_correct(make: Callable[[], Case]) -> Correct:
    """Run a correct computation: staged it must be certified, black-box not refused, its combination the sum."""
    within = make()
    held = detect(within, Evidence(within.truth))
    problems = []
    if held.verdicts["staged"] != "CERTIFIED":
        problems.append(f"a correct computation is {held.verdicts['staged']} at {held.first}")
    if held.verdicts["black-box"] == "INCONSISTENT":
        problems.append("a correct gradient is INCONSISTENT")
    if held.caught["combination"]:
        problems.append(f"a correct sum is called {held.verdicts['combination']}")
    if held.caught["reach"]:
        problems.append("correct reach is called wrong")
    return Correct(within.name, dict(held.verdicts), tuple(problems))


def check_honest(within: Case) -> list[Correct]:
    """Logs and steps without a fault: the ledger must balance, the update must be the step on the sum."""
    found = []
    for evidence in honest(within):
        held = detect(within, evidence)
        name = f"{within.name}, {'log' if evidence.optimizer is None else evidence.optimizer!r}"
        problems = [
            f"{check} objects to what is right: {held.called[check]}" for check, bad in held.caught.items() if bad
        ]
        found.append(Correct(name, dict(held.verdicts), tuple(problems)))
    return found


def run(
    faults: Iterable[Fault] | None = None,
    *,
    seed: int = 0,
    quick: bool = False,
    full: bool = False,
    say: Say | None = None,
) -> Outcome:
    """The self-test. ``quick`` takes every third fault and searches no sizes, ``full`` adds the large network.

    >>> outcome = run(FAULTS[:1], quick=True)
    >>> outcome.ok, [check for check, caught in outcome.planted[0].caught.items() if caught]
    (True, ['staged R', 'staged P', 'staged A', 'black-box', 'combination'])
    """
    began = time.perf_counter()
    tell: Say = (lambda *_: None) if say is None else say
    chosen: Sequence[Fault] = list(FAULTS if faults is None else faults)
    if faults is None and quick:
        chosen = [fault for fault in chosen if fault.case not in SLOW][::3]
    elif faults is None and not full:
        chosen = [fault for fault in chosen if fault.case != "large"]
    honest_cases = correct_cases(seed, quick=quick)
    count = len(chosen) + len(honest_cases) + 1
    correct: list[Correct] = []
    for i, make in enumerate(honest_cases):
        tell("correct networks", i, count)
        correct.append(check_correct(make))
    tell("correct logs and steps", len(honest_cases), count)
    correct += check_honest(case("tiny", seed))
    cases: dict[str, Case] = {}
    planted = []
    for i, fault in enumerate(chosen):
        tell(fault.name, len(honest_cases) + 1 + i, count)
        if fault.case not in cases:
            cases[fault.case] = case(fault.case, seed)
        planted.append(plant(fault, cases[fault.case], search=not quick and fault.case not in SLOW))
    tell("done", count, count)
    return Outcome(tuple(planted), tuple(correct), time.perf_counter() - began, seed, _environment())


def _environment() -> dict[str, str]:
    here = info()
    pyengine = f"{here['version']} ({here['isa']})"
    return {"pyengine": pyengine, "numpy": np.__version__, "python": platform.python_version()}
