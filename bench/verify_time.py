"""How long ``pe.verify`` takes beside one training step of the framework: ``python bench/verify_time.py [name ...]``.

The medium network of the benchmark, its batch, and Adam, as its users train it: PyTorch eagerly, JAX by one ``jit`` of
gradient and optax's update, Keras by ``train_on_batch``. Each framework has a process of its own. First calls are
counted apart, on both sides with what they compile; after them step and verification take turns, and medians are kept.
``--write`` keeps them in ``bench/results_verify_time.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "bench/results_verify_time.json"

Pair = tuple[Callable[[], Any], Callable[[], Any]]


def torch(threads: int) -> Pair:
    """PyTorch: zero_grad, forward, backward, Adam."""
    import torch
    from torch import nn

    import pyengine as pe
    from pyengine.bench.sizes import SIZES, WEIGHT_B, numbers

    torch.set_num_threads(threads)
    size = SIZES["medium"]
    given = numbers(size, "float32")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.a, self.b = (_stack(nn, size, part) for part in ("trunk", "heads.a", "heads.b"))

        def forward(self, x: Any) -> dict[str, Any]:
            h = self.trunk(x)
            return {"a": self.a(h), "b": self.b(h)}

    torch.manual_seed(0)
    model = Model()
    x = torch.from_numpy(given.x)
    targets = {"a": torch.from_numpy(given.classes), "b": torch.from_numpy(given.values)}
    losses = {"a": nn.CrossEntropyLoss(), "b": nn.MSELoss()}
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        out = model(x)
        (losses["a"](out["a"], targets["a"]) + WEIGHT_B * losses["b"](out["b"], targets["b"])).backward()
        optimizer.step()

    return step, lambda: pe.verify(model, x, targets, losses=losses, loss_weights={"b": WEIGHT_B})


def jax(_: int) -> Pair:
    """JAX: one compiled function of value, gradient and optax's Adam. Its threads are set before the process starts."""
    import jax
    import optax

    import pyengine as pe
    from pyengine.bench.sizes import SIZES, WEIGHT_B, numbers

    size = SIZES["medium"]
    given = numbers(size, "float32")
    params = {name: jax.numpy.asarray(array) for name, array in given.params.items()}
    x = jax.numpy.asarray(given.x)
    targets = {"a": jax.numpy.asarray(given.classes), "b": jax.numpy.asarray(given.values)}

    def apply(params: Any, x: Any) -> dict[str, Any]:
        def layers(part: str, h: Any, last: bool) -> Any:
            count = len(size.widths(part))
            for i in range(count):
                z = h @ params[f"{part}.{i}.weight"].T + params[f"{part}.{i}.bias"]
                h = z if last and i == count - 1 else jax.nn.relu(z)
            return h

        h = layers("trunk", x, False)
        return {"a": layers("heads.a", h, True), "b": layers("heads.b", h, True)}

    def cross_entropy(z: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(z, y).mean()

    def squared(z: Any, y: Any) -> Any:
        return optax.squared_error(z, y).mean()

    losses = {"a": cross_entropy, "b": squared}

    def total(params: Any, x: Any, targets: Any) -> Any:
        out = apply(params, x)
        return losses["a"](out["a"], targets["a"]) + WEIGHT_B * losses["b"](out["b"], targets["b"])

    optimizer = optax.adam(1e-3)

    @jax.jit
    def train(params: Any, state: Any, x: Any, targets: Any) -> Any:
        value, gradient = jax.value_and_grad(total)(params, x, targets)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    held = {"params": params, "state": optimizer.init(params)}

    def step() -> None:
        held["params"], held["state"], value = train(held["params"], held["state"], x, targets)
        jax.block_until_ready((held, value))

    def verify() -> Any:
        model = pe.JaxModel(apply, held["params"])
        return pe.verify(model, x, targets, losses=losses, loss_weights={"b": WEIGHT_B})

    return step, verify


def keras(threads: int) -> Pair:
    """Keras on the backend in ``KERAS_BACKEND``: ``train_on_batch``, which compiles where the backend does."""
    import keras
    import numpy as np

    import pyengine as pe
    from pyengine.bench.sizes import SIZES, WEIGHT_B, numbers

    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(threads)
    size = SIZES["medium"]
    given = numbers(size, "float32")
    keras.utils.set_random_seed(0)
    pixels = keras.Input((given.x.shape[1],))

    def stack(part: str, h: Any) -> Any:
        widths = size.widths(part)
        for i, (_, n_out) in enumerate(widths):
            last = part != "trunk" and i == len(widths) - 1
            h = keras.layers.Dense(n_out, None if last else "relu", name=part[-1] if last else None)(h)
        return h

    h = stack("trunk", pixels)
    model = keras.Model(pixels, [stack("heads.a", h), stack("heads.b", h)])
    losses = [keras.losses.SparseCategoricalCrossentropy(from_logits=True), "mse"]
    model.compile("adam", loss=losses, loss_weights=[1.0, WEIGHT_B])
    targets = [np.asarray(given.classes), np.asarray(given.values)]
    return lambda: model.train_on_batch(given.x, targets), lambda: pe.verify(model, given.x, targets)


BACKENDS = ("tensorflow", "jax", "torch")
FRAMEWORKS: dict[str, Callable[[int], Pair]] = {"torch": torch, "jax": jax, **{f"keras-{b}": keras for b in BACKENDS}}


def _stack(nn: Any, size: Any, part: str) -> Any:
    layers = []
    for n_in, n_out in size.widths(part):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*(layers if part == "trunk" else layers[:-1]))


def measured(name: str, repetitions: int, threads: int) -> dict[str, Any]:
    """Seconds: the first call of each, then medians of calls in turn."""
    import pyengine as pe

    step, verify = FRAMEWORKS[name](threads)
    pe.set_num_threads(threads)
    first = {"step": _seconds(step), "verify": _seconds(verify)}
    report = verify()
    assert report.verdict == "CERTIFIED", report
    assert report.combination is not None
    assert report.combination.verdict == "summed", report
    seconds: dict[str, list[float]] = {"step": [], "verify": []}
    for _ in range(repetitions):
        # After the other's memory traffic a step is slower than it is in a loop of steps: one is not timed.
        step()
        seconds["step"].append(_seconds(step))
        seconds["verify"].append(_seconds(verify))
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    return {
        "first": {**first, "ratio": first["verify"] / first["step"]},
        "later": {**medians, "ratio": medians["verify"] / medians["step"]},
        "threads": threads,
        "repetitions": repetitions,
        "version": report.environment[{"torch": "torch", "jax": "jax"}.get(name, "keras")],
    }


def _seconds(task: Callable[[], Any]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(FRAMEWORKS))
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--here", action="store_true", help="measure in this process and print JSON")
    given = parser.parse_args()
    if given.here:
        print(json.dumps(measured(given.names[0], given.repetitions, given.threads)))
        return
    found = {}
    for name in given.names:
        command = [sys.executable, __file__, name, "--here", "--threads", str(given.threads)]
        command += ["--repetitions", str(given.repetitions)]
        backend = name.partition("-")[2]
        own = {"KERAS_BACKEND": backend} if backend else {}
        own |= {"TF_NUM_INTRAOP_THREADS": str(given.threads), "TF_NUM_INTEROP_THREADS": str(given.threads)}
        own |= {"OMP_NUM_THREADS": str(given.threads), "XLA_FLAGS": "" if given.threads > 1 else ONE_THREAD}
        done = subprocess.run(command, env={**os.environ, **own}, stdout=subprocess.PIPE, check=True, text=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        for which in ("first", "later"):
            step, verify, ratio = (found[name][which][key] for key in ("step", "verify", "ratio"))
            print(f"{name}, {which}: step {1e3 * step:.4g} ms, verify {1e3 * verify:.4g} ms, {ratio:.1f}×", flush=True)
    if given.write:
        from pyengine.bench.machine import facts

        held = json.loads(RESULT.read_text(encoding="utf-8"))["frameworks"] if RESULT.exists() else {}
        result = {"frameworks": {**held, **found}, "machine": facts()}
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


if __name__ == "__main__":
    main()
