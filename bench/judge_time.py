"""How long judging takes beside one float64 gradient of the same network: ``python bench/judge_time.py [size ...]``.

Staged (all witnesses of one backward pass per loss and of their sum), black-box (both losses' gradients and their sum),
and ``net.gradients`` in float64, one after the other in turn; medians. ``--write`` keeps them in
``bench/results_judge_time.json``, which docs/tolerances.md shows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT, DOCS = ROOT / "bench/results_judge_time.json", ROOT / "docs/tolerances.md"
BEGIN, END = "<!-- judge time: begin -->\n", "<!-- judge time: end -->"
sys.path.insert(0, str(ROOT / "tests"))


def measured(size: str, repetitions: int, threads: int) -> dict[str, Any]:
    """Medians in seconds, and the memory that each check allocates beyond its input, in floats of the input."""
    from staged_runs import everyday

    import pyengine as pe
    from pyengine.checks.staged.recording import recorded

    pe.set_num_threads(threads)
    given, wide = everyday(size), everyday(size, "float64")
    witnesses = recorded(*given)
    assert witnesses.summed is not None
    finals = {name: one.gradient for name, one in witnesses.per_loss.items()}

    def gradients() -> Any:
        return wide.net.gradients(wide.params, wide.x, wide.targets)

    def staged() -> Any:
        return pe.verify_witnesses(given.net, given.params, given.x, given.targets, witnesses)

    def blackbox() -> Any:
        summed = witnesses.summed.gradient if witnesses.summed else {}
        return pe.verify_gradients(given.net, given.params, given.x, given.targets, per_loss=finals, summed=summed)

    assert staged().verdict == "CERTIFIED"
    assert blackbox().verdict == "CONSISTENT"
    tasks: dict[str, Callable[[], Any]] = {"gradients": gradients, "staged": staged, "black-box": blackbox}
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repetitions):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - start)
    # What has to be held anyway: the activations forward and of every pass backward, the parameters and gradients.
    held = sum(
        array.size
        for group in (witnesses.z, witnesses.h, *(p for one in witnesses.passes.values() for p in vars(one).values()))
        for array in group.values()
    )
    memory = {}
    for name in ("staged", "black-box"):
        tracemalloc.start()
        tasks[name]()
        memory[name] = tracemalloc.get_traced_memory()[1] / 4 / held
        tracemalloc.stop()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds": medians,
        "ratio": {name: medians[name] / medians["gradients"] for name in ("staged", "black-box")},
        "memory": memory,
        "threads": threads,
        "repetitions": repetitions,
    }


def table(result: dict[str, Any]) -> str:
    """The committed figures as Markdown; a size that was measured again replaces itself."""
    lines = ["| | float64 gradients | staged | black-box | memory of staged, black-box |", "|-|-|-|-|-|"]
    for size, found in result["sizes"].items():
        s, r, m = found["seconds"], found["ratio"], found["memory"]
        cells = [
            f"{1e3 * s['gradients']:.3g} ms",
            *(f"{1e3 * s[k]:.3g} ms, {r[k]:.1f}×" for k in ("staged", "black-box")),
        ]
        lines.append(f"| {size} | {' | '.join(cells)} | {m['staged']:.1f}×, {m['black-box']:.1f}× |")
    here = result["machine"]
    where = f"{here['cpu']}, {here['threads']} thread(s), load before {here['load_before']}, {here['date'][:10]}."
    return "\n".join([*lines, "", f"{where} Memory: the peak of what is allocated, beside all witnesses.", ""])


def documented(result: dict[str, Any], text: str) -> str:
    """The page with its table anew."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}{table(result)}{END}{rest.partition(END)[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", default=["tiny", "small", "medium", "large"])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    found = {}
    for size in given.sizes:
        found[size] = measured(size, given.repetitions, given.threads)
        s, r = found[size]["seconds"], found[size]["ratio"]
        print(
            f"{size}: gradients {1e3 * s['gradients']:.4g} ms, staged {1e3 * s['staged']:.4g} ms ({r['staged']:.2f}×), "
            f"black-box {1e3 * s['black-box']:.4g} ms ({r['black-box']:.2f}×), memory {found[size]['memory']}",
            flush=True,
        )
    if given.write:
        from pyengine.bench.machine import facts

        held = json.loads(RESULT.read_text(encoding="utf-8"))["sizes"] if RESULT.exists() else {}
        result = {"sizes": {**held, **found}, "machine": {**facts(), "threads": given.threads}}
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        DOCS.write_text(documented(result, DOCS.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
