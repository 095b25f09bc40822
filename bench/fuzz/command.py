"""The command line of the campaign."""

from __future__ import annotations

import argparse
import datetime as dt
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pyengine.bench.machine import facts

from . import journal, summary
from .adversarial import CASES
from .networks import drawn
from .routes import ROUTES
from .threads import running
from .verdicts import alarms, judged, model

DESCRIPTION = """Correct networks by NumPy, PyTorch, JAX and TensorFlow, judged by both checks; every refusal is a false
alarm. Interrupt at any time: what is in the journal is not computed again."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python bench/fuzz", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="judge networks and write them to the journal")
    run.add_argument("framework", choices=list(ROUTES))
    run.add_argument("--seeds", default="0:20", help="FIRST:PAST of the random networks (default 0:20)")
    run.add_argument("--adversarial", action="store_true", help="the difficult cases instead of random networks")
    run.add_argument("--again", action="store_true", help="only what raised an alarm in the journal, once more")
    run.add_argument("--threads", type=int, help="threads that the framework computes on (default 1)")
    run.add_argument("--journal", type=Path, required=True)
    shown = commands.add_parser("summary", help="count journals: write results.json and the tables of the README")
    shown.add_argument("journals", type=Path, nargs="+")
    given = parser.parse_args(arguments)
    if given.command == "summary":
        summary.write(given.journals)
        return 0
    return _run(given)


def _run(given: argparse.Namespace) -> int:
    done = journal.newest(given.journal)
    threads = running(given.framework) if given.threads is None else given.threads
    names = list(CASES) if given.adversarial else [str(seed) for seed in _seeds(given.seeds)]
    if given.again:
        names = [name for name in names if alarms(done.get((given.framework, name, threads), _SILENT))]
    else:
        names = [name for name in names if (given.framework, name, threads) not in done]
    refused = 0
    for name, record in _judged(given.framework, names, adversarial=given.adversarial):
        if record["threads"] != threads:
            print(f"{given.framework} computes on {record['threads']} threads, not on {threads}", file=sys.stderr)
            return 2
        journal.append(given.journal, record)
        if found := alarms(record):
            refused += 1
            print(f"{given.framework} {name}: {', '.join(found)}: {_reasons(record)}", flush=True)
    print(f"{given.framework}: {len(names)} networks judged, {refused} false alarms")
    return 1 if refused else 0


_SILENT = {"staged": {"verdict": "CERTIFIED"}, "blackbox": {"verdict": "CONSISTENT"}}


def _judged(framework: str, names: list[str], *, adversarial: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    route = ROUTES[framework]
    common = {
        "framework": framework,
        "model": model(),
        "commit": facts()["commit"],
        "versions": {name: metadata.version(name) for name in ("numpy", *route.packages) if _installed(name)},
        "machine": platform.machine(),
    }
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(framework, total=len(names))
        last = time.monotonic()
        for count, name in enumerate(names):
            given = CASES[name]() if adversarial else drawn(int(name))
            number = list(CASES).index(name) if adversarial else int(name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of overflow in what the frameworks compute
                record = judged(route, given, number)
            date = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d")
            yield (
                name,
                {
                    **common,
                    "case": name,
                    "adversarial": adversarial,
                    "threads": running(framework),
                    "date": date,
                    **record,
                },
            )
            progress.advance(task)
            if not sys.stderr.isatty() and time.monotonic() - last > 60.0:
                last = time.monotonic()
                print(f"{framework}: {count + 1} of {len(names)}", file=sys.stderr, flush=True)


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _seeds(text: str) -> range:
    first, _, past = text.partition(":")
    return range(int(first), int(past))


def _reasons(record: dict[str, Any]) -> str:
    found = [*record["staged"]["failures"].items(), *record["blackbox"]["reasons"].items()]
    return "; ".join(f"{name}: {reason}" for name, reason in found)[:500]
