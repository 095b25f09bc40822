"""The contest: agreement first, then rounds in which everyone runs a little, in an order drawn for each round."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from . import machine
from .agreement import Agreement, Judge
from .contestant import ENGINE, PEERS, missing, peer
from .process import ContestantProcess, Failed
from .sizes import SIZES, Size, numbers

SCHEMA_VERSION = 1
BURST = 0.05
"""Seconds that a contestant is timed for in one round, or one sample if that is longer."""
PAUSE = 0.15
"""Seconds between two contestants, in which the threads of the first stop spinning: OpenBLAS' do so for 0.1 s."""
FEWEST_ROUNDS = 3
WARM_UP = 0.3

Say = Callable[[str], None]


def compete(
    sizes: Sequence[str],
    tasks: Sequence[str],
    peers: Sequence[str],
    *,
    threads: int,
    dtype: str = "float32",
    seconds: float = 10.0,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Run the benchmark and return its result, ready for JSON; ``bench/README.md`` describes the fields.

    ``seconds`` is the time for the rounds of one size and task, exceeded where three rounds take longer. ``peers`` are
    names from ``PEERS``; the engine always takes part. Who is missing, fails or disagrees is reported, not timed.
    """
    names = [ENGINE, *(name for name in PEERS if name in peers and name != ENGINE)]
    absent = {name: why for name in names if (why := missing(name))}
    present = [name for name in names if name not in absent]
    held: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "machine": machine.facts(),
        "threads": threads,
        "dtype": dtype,
        "seconds": seconds,
        "versions": {},
        "titles": {name: peer(name).TITLE for name in names},
        "missing": absent,
        "contests": [],
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyengine-bench-")))
        processes = {name: stack.enter_context(ContestantProcess(name, threads, folder)) for name in present}
        for size in (SIZES[name] for name in sizes):
            path = folder / "numbers.npz"
            given = numbers(size, dtype)
            given.save(path)
            say(f"{size.name}: reference and bounds")
            judge = Judge(size, given)
            for task in tasks:
                held["contests"].append(_contest(processes, size, task, path, judge, seconds, held["versions"], say))
    held["machine"]["load_after"] = machine.load()
    return held


def _contest(
    processes: dict[str, ContestantProcess],
    size: Size,
    task: str,
    path: Path,
    judge: Judge,
    seconds: float,
    versions: dict[str, str],
    say: Say,
) -> dict[str, Any]:
    """Everyone on one size and task."""
    refused: dict[str, str] = {}
    agreed: dict[str, tuple[ContestantProcess, Agreement, int]] = {}
    for name, process in processes.items():
        if task not in peer(name).TASKS:
            continue
        say(f"{size.name}, {task}: {peer(name).TITLE} compiles and is checked")
        try:
            answer, found = process.setup(size, task, path)
            agreement = judge.judge(answer, task)
            if not agreement.holds:
                refused[name] = f"disagrees, so it is not timed: {agreement.refusal}"
                continue
            agreed[name] = process, agreement, process.ask("calibrate", warm=WARM_UP)["loops"]
        except Failed as error:
            refused[name] = f"failed: {error}"
            continue
        versions.update(found)
    say(f"{size.name}, {task}: timing {len(agreed)} contestants for {seconds:g} s")
    times, failed = _rounds({name: (process, loops) for name, (process, _, loops) in agreed.items()}, seconds)
    return {
        "size": size.name,
        "shape": size.shape,
        "task": task,
        "products": size.products(task),
        "rounds": max((len(found) for found in times.values()), default=0),
        "results": {
            name: _summary(times[name], agreed[name][1]) for name in agreed if name in times and name not in failed
        },
        "refused": refused | failed,
    }


def _rounds(
    contestants: dict[str, tuple[ContestantProcess, int]], seconds: float
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Bursts of every contestant, round by round, until the time is over."""
    order, failed = list(contestants), {}
    shuffle = random.Random(0).shuffle
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < FEWEST_ROUNDS or time.perf_counter() < end:
        shuffle(order)
        for name in order:
            if name in failed:
                continue
            process, loops = contestants[name]
            time.sleep(PAUSE)
            try:
                found[name].append(process.ask("burst", seconds=BURST, loops=loops))
            except Failed as error:
                failed[name] = f"failed: {error}"
        rounds += 1
    return found, failed


def _summary(bursts: list[dict[str, Any]], agreement: Agreement) -> dict[str, Any]:
    """Every round counts once: a contestant's time in a round is the median of its samples there."""
    rounds = [float(np.median(burst["times"])) for burst in bursts]
    low, median, high = np.percentile(rounds, [25, 50, 75])
    return {
        "median": _short(median),
        "quartiles": [_short(low), _short(high)],
        "fastest": _short(min(min(burst["times"]) for burst in bursts)),
        "samples": sum(len(burst["times"]) for burst in bursts),
        "rounds": [_short(seconds) for seconds in rounds],
        "cores": round(float(np.median([burst["cores"] for burst in bursts])), 2),
        "agreement": {
            "worst": float(f"{agreement.worst:.3g}"),
            "error": float(f"{agreement.error:.3g}"),
            "by_norm": agreement.by_norm,
            "arrays": agreement.arrays,
        },
    }


def _short(seconds: float) -> float:
    """Four digits: more are noise."""
    return float(f"{seconds:.4g}")
