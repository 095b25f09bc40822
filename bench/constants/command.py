"""The command line of the sweep."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from fuzz import journal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .functions import ELEMENTARY, FRAMEWORKS, SHAPED, evaluation, quietly
from .measure import BINADES, Standard, Worst, chunks, ordered

ROOT = Path(__file__).resolve().parents[2]
RESULT, DOCS = Path(__file__).with_name("results.json"), ROOT / "docs/tolerances.md"
BEGIN, END = "<!-- constants: begin -->\n", "<!-- constants: end -->"
PACKAGES = {"numpy": "numpy", "torch": "torch", "jax": "jax", "tensorflow": "tensorflow_cpu"}
DESCRIPTION = """All 4 278 190 080 finite float32 through exp, log, tanh, erf and every activation and its derivative,
as the frameworks compute them, each as a share of its bound. Interrupt at any time: a binade in the journal is not
swept again."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python bench/constants", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="sweep binades and write them to the journal")
    run.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS))
    run.add_argument("--functions", nargs="+", choices=[*ELEMENTARY, *SHAPED], default=[*ELEMENTARY, *SHAPED])
    run.add_argument("--binades", type=int, default=len(BINADES), help="only so many, those first where functions bend")
    run.add_argument("--journal", type=Path, required=True)
    shown = commands.add_parser("summary", help="write results.json and the table of docs/tolerances.md")
    shown.add_argument("journals", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    if given.command == "run":
        return sweep(given.frameworks, given.functions, given.binades, given.journal)
    result = counted(record for path in given.journals for record in journal.read(path))
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    DOCS.write_text(documented(result, DOCS.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def sweep(frameworks: Iterable[str], functions: Iterable[str], binades: int, path: Path) -> int:
    """Sweep what the journal lacks; 1 where a bound is exceeded."""
    done = {(r["framework"], r["function"], r["sign"], r["exponent"]) for r in journal.read(path)}
    known = {
        (framework, name): found
        for framework in frameworks
        for name in functions
        if (found := evaluation(framework, name)) is not None
    }
    work = [(name, *binade) for binade in ordered()[:binades] for name in functions]
    exceeded = False
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("sweep", total=len(work))
        for name, sign, exponent in work:
            own = [f for f, n in known if n == name and (f, name, sign, exponent) not in done]
            worst = {framework: (Worst(), Worst()) for framework in own}
            for z in chunks(sign, exponent) if own else ():
                standard = Standard.of(name, z)
                for framework in own:
                    standard.judge(framework, *quietly(known[framework, name], z), worst[framework])
            for framework, (value, slope) in worst.items():
                record = {
                    "framework": framework,
                    "version": metadata.version(PACKAGES[framework]),
                    "function": name,
                    "sign": sign,
                    "exponent": exponent,
                    "value": [value.share, value.at],
                    "slope": None if name in ELEMENTARY else [slope.share, slope.at],
                    "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
                }
                journal.append(path, record)
                if not max(value.share, slope.share) <= 1.0:
                    exceeded = True
                    print(f"{framework} {name}: {record['value']}, slope {record['slope']}", flush=True)
            progress.advance(task)
    return 1 if exceeded else 0


def counted(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Per function and framework the largest share of the bound, where, and how many of the binades were swept."""
    found: dict[str, Any] = {}
    for record in records:
        here = found.setdefault(record["function"], {}).setdefault(
            record["framework"],
            {"value": [0.0, 0.0], "slope": None, "binades": 0, "version": record["version"], "date": record["date"]},
        )
        here["binades"] += 1
        for part in ("value", "slope"):
            if record[part] is not None and (here[part] is None or record[part][0] >= here[part][0]):
                here[part] = record[part]
    return {name: found[name] for name in (*ELEMENTARY, *SHAPED) if name in found}


def table(result: dict[str, Any]) -> str:
    """The largest shares as Markdown: value, and slope after a stroke; where the largest of a row is."""
    lines = [f"| | {' | '.join(FRAMEWORKS)} | largest at | swept |", "|-|" + "-|" * (len(FRAMEWORKS) + 2)]
    for name, held in result.items():
        cells = [_cell(held.get(framework)) for framework in FRAMEWORKS]
        found = [part for one in held.values() for part in (one["value"], one["slope"]) if part is not None]
        swept = min(one["binades"] for one in held.values())
        lines.append(f"| {name} | {' | '.join(cells)} | {max(found)[1]:.9g} | {swept} |")
    versions = {framework: one["version"] for held in result.values() for framework, one in held.items()}
    dates = max(one["date"] for held in result.values() for one in held.values())
    text = f"Swept: binades of 2²³ numbers each, of {len(BINADES)} (all finite float32). "
    return "\n".join([*lines, "", text + ", ".join(f"{k} {v}" for k, v in versions.items()) + f"; {dates}.", ""])


def _cell(one: dict[str, Any] | None) -> str:
    if one is None:
        return "–"
    return f"{one['value'][0]:.2f}" + ("" if one["slope"] is None else f" / {one['slope'][0]:.2f}")


def documented(result: dict[str, Any], text: str) -> str:
    """The page with its table anew."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}{table(result)}{END}{rest.partition(END)[2]}"
