"""The four networks of the benchmark, their numbers, and the two tasks.

Every contestant gets the same network: a trunk of ReLU layers, head ``a`` for classes (softmax cross-entropy over
integers) and head ``b`` for values (mean squared error), both means over the batch, the second with weight 0.5. Layers
are ReLU but for the last of each head, which is linear. Peers read this file and nothing else of the package.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Task = Literal["per-loss", "summed"]

HEADS = ("a", "b")
WEIGHT_B = 0.5
TASKS: dict[str, str] = {
    "per-loss": "forward, the gradient of each loss for the trunk and its own head, and their weighted sum",
    "summed": "forward, and the gradient of the weighted sum by one backward pass",
}


@dataclass(frozen=True)
class Size:
    """Widths of a network, and its batch."""

    name: str
    batch: int
    n_in: int
    trunk: tuple[int, ...]
    a: tuple[int, ...]
    b: tuple[int, ...]

    def widths(self, part: str) -> list[tuple[int, int]]:
        """(n_in, n_out) of every layer of ``"trunk"``, ``"heads.a"`` or ``"heads.b"``."""
        first, widths = {
            "trunk": (self.n_in, self.trunk),
            "heads.a": (self.trunk[-1], self.a),
            "heads.b": (self.trunk[-1], self.b),
        }[part]
        return list(zip((first, *widths), widths, strict=False))

    def names(self, part: str) -> list[str]:
        """The names of the parameters of a part: weight, bias, weight, bias, …"""
        return [f"{part}.{i}.{kind}" for i in range(len(self.widths(part))) for kind in ("weight", "bias")]

    @property
    def shape(self) -> str:
        """The network in one line.

        >>> SIZES["tiny"].shape
        'batch 32, 16→32, a →4, b →1'
        """
        trunk, a, b = ("→".join(map(str, widths)) for widths in ((self.n_in, *self.trunk), self.a, self.b))
        return f"batch {self.batch}, {trunk}, a →{a}, b →{b}"

    def products(self, task: str) -> int:
        """Floating-point operations of the matrix products alone, which every method needs.

        Forward once; weights' and inputs' gradients of each head once, those of the trunk once per loss or once; no
        input gradient for the first layer.
        """
        own = {part: sum(i * o for i, o in self.widths(part)) for part in ("trunk", "heads.a", "heads.b")}
        heads, first = own["heads.a"] + own["heads.b"], self.n_in * self.trunk[0]
        passes = 2 if task == "per-loss" else 1
        return 2 * self.batch * (own["trunk"] + heads + 2 * heads + passes * (2 * own["trunk"] - first))


SIZES = {
    size.name: size
    for size in (
        Size("tiny", 32, 16, (32,), (4,), (1,)),
        Size("small", 128, 64, (128, 128), (10,), (1,)),
        Size("medium", 256, 784, (512, 512), (128, 10), (128, 1)),
        Size("large", 1024, 1024, (2048, 2048), (512, 1000), (512, 64)),
    )
}


@dataclass(frozen=True, eq=False)
class Numbers:
    """One batch and the parameters, as contiguous NumPy arrays; weights are (n_out, n_in)."""

    x: Array
    classes: Array
    values: Array
    params: dict[str, Array]

    def part(self, size: Size, part: str) -> list[Array]:
        """The parameters of a part, in the order of :meth:`Size.names`."""
        return [self.params[name] for name in size.names(part)]

    def save(self, path: Path) -> None:
        np.savez(path, x=self.x, classes=self.classes, values=self.values, **self.params)  # type: ignore[arg-type]

    @staticmethod
    def load(path: Path) -> Numbers:
        with np.load(path) as held:
            arrays = {name: held[name] for name in held.files}
        return Numbers(arrays.pop("x"), arrays.pop("classes"), arrays.pop("values"), arrays)


def numbers(size: Size, dtype: str, seed: int = 0) -> Numbers:
    """Seeded normal inputs and targets, Glorot-uniform weights, small normal biases.

    The biases are not zero, so that a contestant that leaves one out is found out.
    """
    rng = np.random.default_rng(seed)
    params: dict[str, Array] = {}
    for part in ("trunk", "heads.a", "heads.b"):
        for i, (n_in, n_out) in enumerate(size.widths(part)):
            limit = np.sqrt(6.0 / (n_in + n_out))
            params[f"{part}.{i}.weight"] = rng.uniform(-limit, limit, (n_out, n_in)).astype(dtype)
            params[f"{part}.{i}.bias"] = (rng.standard_normal(n_out) / 8.0).astype(dtype)
    return Numbers(
        x=rng.standard_normal((size.batch, size.n_in)).astype(dtype),
        classes=rng.integers(0, size.a[-1], size.batch),
        values=rng.standard_normal((size.batch, size.b[-1])).astype(dtype),
        params=params,
    )
