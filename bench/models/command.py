"""The command line: models of one framework, judged, written to a journal; journals counted into results.json.

A framework is a file ``by_NAME.py`` with ``PACKAGES``, whose versions are recorded, perhaps ``STAND_IN``, which maps
losses that it lacks to those that it takes instead, and
``verified(given, seed) -> pe.Verification``, which builds the network in the framework and hands it to ``pe.verify``.
Keras has one backend a process: ``keras-jax`` is the file ``by_keras.py`` on that backend.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import json
import os
import sys
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

from fuzz import journal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import pyengine as pe

from .drawing import drawn

FOLDER = Path(__file__).resolve().parent
RESULT = FOLDER / "results.json"
BACKENDS = ("tensorflow", "jax", "torch")
FRAMEWORKS = sorted(
    {path.stem.removeprefix("by_") for path in FOLDER.glob("by_*.py")} - {"keras"} | {f"keras-{b}" for b in BACKENDS}
)

DESCRIPTION = """Random dense models, built in a framework as its users do and judged by pe.verify; every one must be
CERTIFIED. Interrupt at any time: what is in the journal is not computed again."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python bench/models", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="judge models and write them to the journal")
    run.add_argument("framework", choices=FRAMEWORKS)
    run.add_argument("--seeds", default="0:200", help="FIRST:PAST (default 0:200)")
    run.add_argument("--journal", type=Path, required=True)
    shown = commands.add_parser("summary", help="count journals into results.json")
    shown.add_argument("journals", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    if given.command == "summary":
        summarise(given.journals)
        return 0
    first, _, past = given.seeds.partition(":")
    return run_seeds(given.framework, range(int(first), int(past)), given.journal)


def run_seeds(framework: str, seeds: range, path: Path) -> int:
    """Judge what the journal does not have yet; 1 if any model is not certified."""
    name, _, backend = framework.partition("-")
    if backend:
        os.environ["KERAS_BACKEND"] = backend
    route = importlib.import_module(f".by_{name}", __package__)
    done = {(record["framework"], record["case"]) for record in journal.read(path)}
    left = [seed for seed in seeds if (framework, seed) not in done]
    wrong = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(framework, total=len(left))
        last = time.monotonic()
        for count, seed in enumerate(left):
            record = judged(framework, route, seed)
            journal.append(path, record)
            if record["verdict"] != "CERTIFIED":
                wrong += 1
                print(f"{framework} {seed}: {record['verdict']}: {record['answer']}", flush=True)
            progress.advance(task)
            if not sys.stderr.isatty() and time.monotonic() - last > 60.0:
                last = time.monotonic()
                print(f"{framework}: {count + 1} of {len(left)}", file=sys.stderr, flush=True)
    print(f"{framework}: {len(left)} models judged, {wrong} not certified")
    return 1 if wrong else 0


def judged(framework: str, route: Any, seed: int) -> dict[str, Any]:
    """One line of the journal."""
    given = drawn(seed)
    start = time.perf_counter()
    report: pe.Verification = route.verified(given, seed)
    stand_in = getattr(route, "STAND_IN", {})
    layers = [*given.net.trunk, *(layer for head in given.net.heads.values() for layer in head.layers)]
    return {
        "framework": framework,
        "case": seed,
        "verdict": report.verdict,
        "answer": report.answer,
        "combination": None if report.combination is None else report.combination.verdict,
        "stages": 0 if report.staged is None else len(report.staged.stages),
        "activations": sorted({layer.activation.name for layer in layers}),
        "losses": sorted({stand_in.get(h.loss.name, h.loss.name) for h in given.net.heads.values()}),
        "seconds": round(time.perf_counter() - start, 3),
        "versions": {name: metadata.version(name) for name in route.PACKAGES},
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
    }


def counted(records: list[dict[str, Any]]) -> dict[str, Any]:
    """What the records of one framework come to."""
    return {
        "models": len(records),
        "seeds": [min(r["case"] for r in records), max(r["case"] for r in records)],
        "verdicts": dict(Counter(r["verdict"] for r in records)),
        "not_certified": {str(r["case"]): r["answer"] for r in records if r["verdict"] != "CERTIFIED"},
        "combination": dict(Counter(str(r["combination"]) for r in records)),
        "stages": sum(r["stages"] for r in records),
        "activations": dict(sorted(Counter(name for r in records for name in r["activations"]).items())),
        "losses": dict(sorted(Counter(name for r in records for name in r["losses"]).items())),
        "seconds": round(sum(r["seconds"] for r in records), 1),
        "versions": records[-1]["versions"],
        "dates": sorted({r["date"] for r in records}),
    }


def summarise(journals: list[Path]) -> None:
    """Count journals into results.json; frameworks that they do not have stay as they are."""
    newest = {(record["framework"], record["case"]): record for path in journals for record in journal.read(path)}
    records = list(newest.values())
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for framework in sorted({record["framework"] for record in records}):
        found[framework] = counted([record for record in records if record["framework"] == framework])
    text = json.dumps(dict(sorted(found.items())), indent=2, ensure_ascii=False) + "\n"
    partial = RESULT.with_suffix(".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(RESULT)
