"""The command: run everything, write ``results.json``, and render it into ``README.md``."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

from pyengine.bench import machine
from pyengine.files import write_atomically

from .matrix import detection, false_alarms, small_detection, small_false_alarms
from .table import placed, readme

FOLDER = Path(__file__).resolve().parent
SEEDS = range(20_000, 20_200)
PACKAGES = ("pyengine-grad", "numpy", "torch", "jax", "tensorflow_cpu")


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0; the numbers speak for themselves."""
    parser = argparse.ArgumentParser(prog="python bench/judge", description=__doc__)
    parser.add_argument("--render", action="store_true", help="only render the committed results")
    parser.add_argument("--every", type=int, default=1, help="take every n-th fault and network, for a look")
    parser.add_argument("--out", type=Path, default=FOLDER / "results.json")
    given = parser.parse_args(arguments)
    if not given.render:
        began, facts = time.perf_counter(), machine.facts()

        def say(what: str) -> None:
            print(f"{time.perf_counter() - began:6.0f} s  {what:<80}", end="\r", file=sys.stderr, flush=True)

        faults, unmodified = detection(say, given.every)
        alarms = false_alarms(say, SEEDS[:: given.every])
        small_faults, small_unmodified = small_detection(say, given.every)
        result: dict[str, Any] = {
            "schema_version": 1,
            "machine": facts,
            "versions": {name: _version(name) for name in PACKAGES},
            "every": given.every,
            "seeds": [SEEDS.start, SEEDS.stop],
            "detection": faults,
            "unmodified": unmodified,
            "false_alarms": alarms,
            "small_detection": small_faults,
            "small_unmodified": small_unmodified,
            "small_false_alarms": small_false_alarms(say, given.every),
        }
        result["seconds"] = round(time.perf_counter() - began)
        write_atomically(given.out, json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    path = given.out.with_name("README.md")
    if path.exists():
        shown = placed(path.read_text(encoding="utf-8"), readme(json.loads(given.out.read_text(encoding="utf-8"))))
        write_atomically(path, shown)
    return 0


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
