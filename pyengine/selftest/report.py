"""The result of the self-test: as a table in a terminal, as plain text, as JSON."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from .fault import CHECKS

if TYPE_CHECKING:
    from rich.console import Console

    from .campaign import Outcome, Planted

SCHEMA_VERSION = 1
MARKS = {True: "●", False: "·"}
HEADING = ("fault", "in", *(check.removeprefix("staged ") for check in CHECKS), "smallest caught", "")


def answer(outcome: Outcome) -> str:
    """The result in one sentence."""
    faults, correct = outcome.planted, outcome.correct
    required = [one for one in faults if one.required]
    below = len(faults) - len(required)
    text = f"{len(required)} kinds of faults planted, {len(correct)} correct computations"
    if below:
        text += f", {below} faults below what rounding may do"
    if outcome.ok:
        return f"HOLDS  {text}: every fault is caught where it was planted, nothing else is refused."
    escaped, refused = sum(bool(one.problems) for one in faults), sum(bool(one.problems) for one in correct)
    return (
        f"FAILS  {text}: {escaped} faults are not caught as they must be, {refused} correct computations are refused."
    )


def row(one: Planted) -> tuple[str, ...]:
    """A fault as a row under :data:`HEADING`."""
    marks = (MARKS[one.caught[check]] if check in one.caught else "" for check in CHECKS)
    found = ", ".join(f"{check} {_size(value)}" for check, value in one.smallest.items())
    state = "; ".join(one.problems) if one.problems else "" if one.required else "below rounding"
    return one.name, one.case, *marks, found, state


def _size(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else "none"


def plain(outcome: Outcome) -> str:
    """Everything as text: the answer, one line a fault, then what is wrong."""
    lines = [answer(outcome), "", *_aligned([HEADING, *map(row, outcome.planted)]), "", *_legend(outcome)]
    return "\n".join([*lines, *(f"✗ {text}" for text in outcome.problems)])


def show(outcome: Outcome, console: Console) -> None:
    """The same in colour."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(HEADING):
        table.add_column(name, justify="center" if 2 <= i < 2 + len(CHECKS) else "left", no_wrap=i < 2 + len(CHECKS))
    for one in outcome.planted:
        table.add_row(*map(escape, row(one)), style="bold red" if one.problems else None if one.required else "dim")
    console.print(answer(outcome), style="bold green" if outcome.ok else "bold red", highlight=False, markup=False)
    console.print()
    console.print(table)
    console.print()
    for line in _legend(outcome):
        console.print(line, highlight=False, markup=False)
    for text in outcome.problems:
        console.print(f"✗ {text}", style="bold red", highlight=False, markup=False)


def _legend(outcome: Outcome) -> list[str]:
    silent = sum(not one.problems for one in outcome.correct)
    versions = ", ".join(" ".join(one) for one in outcome.environment.items())
    return [
        "R, P, A: the staged check's bounds, largest entries, sums. ● objects, · does not, blank: does not apply.",
        "Sizes are relative; the smallest caught is known within a factor of 1.24.",
        f"Silent on {silent} of {len(outcome.correct)} correct computations.",
        f"{outcome.seconds:.0f} s, seed {outcome.seed}, {versions}.",
    ]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(one, widths, strict=True)).rstrip() for one in rows]


def to_dict(outcome: Outcome) -> dict[str, Any]:
    """The result as plain data: the content of :func:`to_json`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "ok": outcome.ok,
        "answer": answer(outcome),
        "problems": outcome.problems,
        "faults": [
            {
                "name": one.name,
                "does": one.does,
                "case": one.case,
                "size": one.size,
                "caught": dict(one.caught),
                "required": one.required,
                "first_stage": one.first,
                "called": one.called,
                "smallest": {check: size if math.isfinite(size) else None for check, size in one.smallest.items()},
                "problems": list(one.problems),
            }
            for one in outcome.planted
        ],
        "correct": [
            {"name": one.name, "verdicts": one.verdicts, "problems": list(one.problems)} for one in outcome.correct
        ],
        "seconds": outcome.seconds,
        "seed": outcome.seed,
        "environment": outcome.environment,
    }


def to_json(outcome: Outcome) -> str:
    """The result as JSON."""
    return json.dumps(to_dict(outcome), indent=2, ensure_ascii=False, allow_nan=False)
