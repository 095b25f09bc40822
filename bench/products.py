"""Times the forward product of one linear layer: pyengine's Network.forward beside torch.nn.functional.linear.

Both get the same float32 or float64 arrays; runs of the two alternate, so that a disturbance of the machine meets both.
Prints a table and, with --json FILE, writes the medians and all timings. A wrong product ends the program with
status 1. pyengine's side includes Python, the result's memory and the packing of the weights.

    python bench/products.py --threads 1 2 --runs 30 --json products.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import pyengine

# (batch, n_in, n_out): the layers of the four networks of bench/cpp/networks.hpp, without the narrowest, and squares.
SHAPES = [
    (32, 16, 32),
    (128, 64, 128),
    (128, 128, 128),
    (256, 784, 512),
    (256, 512, 512),
    (256, 512, 128),
    (1024, 1024, 2048),
    (1024, 2048, 2048),
    (1024, 2048, 512),
    (1024, 512, 1000),
    (1024, 512, 64),
    (256, 256, 256),
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
]

PAUSE = 0.02
"""Seconds; libgomp's threads spin for a few milliseconds."""


def dyadic(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """Multiples of 1/8 up to 2: sums of a few thousand products are exact in float32 in any order."""
    return (rng.integers(-16, 16, shape) / 8).astype(dtype)


def product_holds(x: Any, w: Any, y: Any) -> bool:
    """Freivalds' check of y = x·wᵀ, exact in float64 for a vector of whole numbers; it must notice one wrong number."""
    v = np.random.default_rng(1).integers(1, 2**15, len(w)).astype(np.float64)
    expected = x.astype(np.float64) @ (v @ w.astype(np.float64))

    def holds(product: np.ndarray[Any, Any]) -> bool:
        return bool(np.array_equal(product.astype(np.float64) @ v, expected))

    one_off = y.copy()
    one_off[-1, -1] += 1
    return holds(y) and not holds(one_off)


def seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def interleaved(calls: dict[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """`runs` timings of each call in turn, a timing being as many calls as fill five milliseconds.

    Both libraries' threads wait for more work by spinning, on the processor that the other's needs: so a pause until
    they sleep, and one call untimed, before each timing.
    """
    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, round(5e-3 / seconds(call, 1)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            time.sleep(PAUSE)
            call()
            times[name].append(seconds(call, repeats[name]))
    return times


def compare(shape: tuple[int, int, int], dtype: str, threads: int, runs: int) -> dict[str, Any]:
    import torch

    batch, n_in, n_out = shape
    rng = np.random.default_rng(0)
    x, w = dyadic(rng, (batch, n_in), dtype), dyadic(rng, (n_out, n_in), dtype)
    net = pyengine.Network(n_in, [], {"y": pyengine.Head([pyengine.Dense(n_out, bias=False)], loss="mse")})
    params = net.init(0, dtype=dtype)
    params["heads.y.0.weight"][...] = w
    x_torch, w_torch = torch.from_numpy(x), torch.from_numpy(w)
    pyengine.set_num_threads(threads)
    torch.set_num_threads(threads)
    calls: dict[str, Callable[[], object]] = {
        "pyengine": lambda: net.forward(params, x),
        "torch": lambda: torch.nn.functional.linear(x_torch, w_torch),
    }
    for name, y in (
        ("pyengine", net.forward(params, x)["y"]),
        ("torch", torch.nn.functional.linear(x_torch, w_torch).numpy()),
    ):
        if not product_holds(x, w, y):
            raise SystemExit(f"{name}: the product {shape}, {dtype}, {threads} threads, is wrong")
    with torch.inference_mode():
        times = interleaved(calls, runs)
    flops = 2.0 * batch * n_in * n_out
    medians = {name: statistics.median(t) for name, t in times.items()}
    return {
        "batch": batch,
        "n_in": n_in,
        "n_out": n_out,
        "dtype": dtype,
        "threads": threads,
        "median_us": {name: 1e6 * t for name, t in medians.items()},
        "best_us": {name: 1e6 * min(t) for name, t in times.items()},
        "median_gflops": {name: flops / t / 1e9 for name, t in medians.items()},
        # Of pairs of neighbours, which a disturbance meets together.
        "torch_over_pyengine": statistics.median(b / a for a, b in zip(times["pyengine"], times["torch"], strict=True)),
        "seconds": times,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"], choices=["float32", "float64"])
    parser.add_argument("--runs", type=int, default=30, help="timings of each side")
    parser.add_argument("--largest", type=float, default=20.0, help="leave out products of more GFLOP than this")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("products.py compares with PyTorch: pip install torch", file=sys.stderr)
        return 2

    rows = []
    print(f"{'batch x n_in x n_out':>20} {'dtype':>8} threads  pyengine     torch GFLOP/s   torch/pyengine (time)")
    for shape in SHAPES:
        if 2e-9 * shape[0] * shape[1] * shape[2] > options.largest:
            continue
        for dtype in options.dtypes:
            for threads in options.threads:
                row = compare(shape, dtype, threads, options.runs)
                rows.append(row)
                speed = row["median_gflops"]
                print(
                    f"{'x'.join(map(str, shape)):>20} {dtype:>8} {threads:>7} {speed['pyengine']:9.1f} "
                    f"{speed['torch']:9.1f}           {row['torch_over_pyengine']:6.2f}",
                    flush=True,
                )
    if options.json:
        about = {"machine": platform.machine(), "pyengine": pyengine.__version__, "torch": torch.__version__}
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
