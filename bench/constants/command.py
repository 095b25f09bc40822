"""The command line of the sweep."""

from __future__ import annotations

import argparse
import copy
import datetime as dt
import json
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from fuzz import journal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .functions import ELEMENTARY, FRAMEWORKS, SHAPED, Evaluation, evaluation, quietly
from .limits import limit
from .measure import BINADES, BLOCK, Standard, Worst, chunks, ordered

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
    run.add_argument("--outwards", action=argparse.BooleanOptionalAction, default=True, help="or the outermost first")
    run.add_argument("--afresh", action="store_true", help="sweep again what the committed figures cover")
    run.add_argument("--journal", type=Path, required=True)
    shown = commands.add_parser("summary", help="write results.json and the table of docs/tolerances.md")
    shown.add_argument("--afresh", action="store_true", help="without the committed figures")
    shown.add_argument("journals", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    if given.command == "run":
        chosen = ordered()[:: 1 if given.outwards else -1][: given.binades]
        known = covered(committed(given.afresh))
        return sweep(given.frameworks, given.functions, chosen, given.journal, known)
    before = committed(given.afresh)
    result = counted((record for path in given.journals for record in journal.read(path)), before)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    DOCS.write_text(documented(result, DOCS.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def sweep(
    frameworks: Iterable[str],
    functions: Iterable[str],
    chosen: Iterable[tuple[int, int]],
    path: Path,
    before: set[tuple[str, str, int, int]],
) -> int:
    """Sweep what the journal and earlier figures lack; 1 where a bound is exceeded."""
    done = before | {(r["framework"], r["function"], r["sign"], r["exponent"]) for r in journal.read(path)}
    known = {
        (framework, name): found
        for framework in frameworks
        for name in functions
        if (found := evaluation(framework, name)) is not None
    }
    work = [(name, *binade) for binade in chosen for name in functions]
    exceeded = False
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("sweep", total=len(work))
        for name, sign, exponent in work:
            own = [f for f, n in known if n == name and (f, name, sign, exponent) not in done]
            for framework, (value, slope) in swept(name, sign, exponent, {f: known[f, name] for f in own}).items():
                record = {
                    "framework": framework,
                    "version": metadata.version(PACKAGES[framework]),
                    "function": name,
                    "sign": sign,
                    "exponent": exponent,
                    "value": [value.share, value.at],
                    "slope": None if name in ELEMENTARY else [slope.share, slope.at],
                    "undefined": slope.undefined,
                    "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
                }
                journal.append(path, record)
                if not max(value.share, slope.share) <= 1.0:
                    exceeded = True
                    print(f"{framework} {name}: {record['value']}, slope {record['slope']}", flush=True)
            progress.advance(task)
    return 1 if exceeded else 0


def swept(name: str, sign: int, exponent: int, evaluations: Mapping[str, Evaluation]) -> dict[str, tuple[Worst, Worst]]:
    """The largest shares of a binade, of value and slope, or upper bounds of them where the function is a line."""
    worst = {framework: (Worst(), Worst()) for framework in evaluations}
    line = limit(name, sign, exponent) if evaluations else None
    for z in chunks(sign, exponent) if evaluations else ():
        look, unsure = None if line is None else line.on(z), {}
        for framework, evaluate in evaluations.items():
            value, slope = quietly(evaluate, z)
            shares = None if look is None else look.shares(framework, value, slope)
            if shares is None:
                unsure[framework] = value, slope
            else:
                # Where no slope is promised, its NaN are counted.
                worst[framework][1].undefined += 0 if slope is None else int(np.isnan(slope).sum())
                for one, share in zip(worst[framework], shares, strict=True):
                    one.at_most(share, float(z[0]))
        for start in range(0, len(z) if unsure else 0, BLOCK):
            part = slice(start, start + BLOCK)
            standard = Standard.of(name, z[part])
            for framework, (value, slope) in unsure.items():
                standard.judge(framework, value[part], None if slope is None else slope[part], worst[framework])
    return worst


def counted(records: Iterable[dict[str, Any]], onto: dict[str, Any] | None = None) -> dict[str, Any]:
    """Per function and framework the largest share of the bound, where, and which binades were swept.

    ``onto`` are earlier figures of the same versions; a binade counts once.
    """
    found = copy.deepcopy(onto or {})
    for record in records:
        here = found.setdefault(record["function"], {}).setdefault(
            record["framework"],
            {"value": [0.0, 0.0], "slope": None, "undefined": 0, "version": record["version"], "swept": [[], []]},
        )
        here["date"] = max(here.get("date", ""), record["date"])
        if here["version"] != record["version"]:
            raise ValueError(f"{record['framework']} {record['version']} is not the {here['version']} of the figures")
        exponents = held(here["swept"][record["sign"]])
        if record["exponent"] in exponents:
            continue
        here["swept"][record["sign"]] = ranges(exponents | {record["exponent"]})
        here["undefined"] += record.get("undefined", 0)
        for part in ("value", "slope"):
            if record[part] is not None and (here[part] is None or record[part][0] >= here[part][0]):
                here[part] = record[part]
    return {name: found[name] for name in (*ELEMENTARY, *SHAPED) if name in found}


def ranges(exponents: set[int]) -> list[list[int]]:
    """Numbers as runs, first and last."""
    runs: list[list[int]] = []
    for exponent in sorted(exponents):
        if runs and runs[-1][1] == exponent - 1:
            runs[-1][1] = exponent
        else:
            runs.append([exponent, exponent])
    return runs


def held(runs: list[list[int]]) -> set[int]:
    """What :func:`ranges` was made of."""
    return {exponent for first, last in runs for exponent in range(first, last + 1)}


def binades(one: dict[str, Any]) -> int:
    """How many binades one framework's figures of a function cover."""
    return sum(len(held(runs)) for runs in one["swept"])


def covered(result: dict[str, Any]) -> set[tuple[str, str, int, int]]:
    """Framework, function, sign and exponent of every binade of some figures."""
    return {
        (framework, name, sign, exponent)
        for name, by_framework in result.items()
        for framework, one in by_framework.items()
        for sign in (0, 1)
        for exponent in held(one["swept"][sign])
    }


def committed(afresh: bool) -> dict[str, Any]:
    """The figures of results.json, which later sweeps add to."""
    found: dict[str, Any] = {} if afresh else json.loads(RESULT.read_text(encoding="utf-8"))
    return found


def table(result: dict[str, Any]) -> str:
    """The largest shares as Markdown: value, and slope after a stroke; where the largest of a row is."""
    lines = [f"| | {' | '.join(FRAMEWORKS)} | largest at | swept |", "|-|" + "-|" * (len(FRAMEWORKS) + 2)]
    for name, by_framework in result.items():
        cells = [_cell(by_framework.get(framework)) for framework in FRAMEWORKS]
        found = [part for one in by_framework.values() for part in (one["value"], one["slope"]) if part is not None]
        swept = min(binades(one) for one in by_framework.values())
        lines.append(f"| {name} | {' | '.join(cells)} | {max(found)[1]:.9g} | {swept} |")
    every = [(framework, one) for by_framework in result.values() for framework, one in by_framework.items()]
    versions = {framework: one["version"] for framework, one in every}
    dates = max(one["date"] for _, one in every)
    text = f"Swept: binades of 2²³ numbers each, of {len(BINADES)} (all finite float32), the least of the row. "
    return "\n".join([*lines, "", text + ", ".join(f"{k} {v}" for k, v in versions.items()) + f"; {dates}.", ""])


def _cell(one: dict[str, Any] | None) -> str:
    if one is None:
        return "–"
    return f"{one['value'][0]:.2f}" + ("" if one["slope"] is None else f" / {one['slope'][0]:.2f}")


def documented(result: dict[str, Any], text: str) -> str:
    """The page with its table anew."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}{table(result)}{END}{rest.partition(END)[2]}"
