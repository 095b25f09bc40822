"""The process of one contestant: ``python -m pyengine.bench.worker NAME``.

It reads one JSON object a line and answers each with one. Whatever a framework prints goes to the standard error.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .contestant import Contestant, peer
from .sizes import Numbers, Size

SHORTEST_SAMPLE = 200e-6
"""Seconds: one reading of the clock covers at least so many steps that reading it costs next to nothing."""


class Worker:
    """Holds one contestant, set up for one size and task at a time."""

    def __init__(self, name: str) -> None:
        self.peer = peer(name)
        self.contestant: Contestant | None = None

    def setup(self, size: dict[str, Any], task: str, threads: int, numbers: str, answer: str) -> dict[str, Any]:
        """Set up, warm up, and write the answer to be judged."""
        widths: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in size.items()}
        self.contestant = None
        gc.collect()
        chosen = Size(**widths)
        self.contestant = self.peer.setup(chosen, Numbers.load(Path(numbers)), task, threads)
        self.contestant.step()
        named = self.contestant.named(self.contestant.step())
        flat: dict[str, Any] = {
            f"{part}/{name}": array for part, arrays in named.items() for name, array in arrays.items()
        }
        np.savez(answer, **flat)
        return {"versions": self.contestant.versions}

    def calibrate(self, warm: float) -> dict[str, Any]:
        """Run for ``warm`` seconds; answer with the median seconds a step and the steps that one sample needs."""
        step = self._step()
        seconds = float(np.median(_samples(step, 1, 0.0) + _samples(step, 1, 0.0) + _samples(step, 1, warm)))
        return {"seconds": seconds, "loops": max(1, int(np.ceil(SHORTEST_SAMPLE / seconds)))}

    def burst(self, seconds: float, loops: int) -> dict[str, Any]:
        """Seconds a step, over ``loops`` steps each time, after one such sample untimed; and the cores kept busy.

        Samples follow one another until ``seconds`` are over; there is at least one.
        """
        step = self._step()
        _samples(step, loops, 0.0)
        busy, wall = time.process_time(), time.perf_counter()
        times = _samples(step, loops, seconds)
        return {"times": times, "cores": (time.process_time() - busy) / (time.perf_counter() - wall)}

    def _step(self) -> Callable[[], Any]:
        if self.contestant is None:
            raise RuntimeError("setup comes first")
        return self.contestant.step


def _samples(step: Callable[[], Any], loops: int, seconds: float) -> list[float]:
    """As in ``timeit``, no garbage is collected while the clock runs."""
    clock, repeat = time.perf_counter, range(loops)
    times: list[float] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = clock() + seconds
        while not times or clock() < end:
            start = clock()
            for _ in repeat:
                step()
            times.append((clock() - start) / loops)
    finally:
        if collecting:
            gc.enable()
    return times


def main(name: str) -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker(name)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(worker, asked.pop("do"))(**asked)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
