"""NumPy, by hand: every product one call of BLAS, every result into memory that the step before used."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..contestant import Answer, Contestant, per_loss_answer, summed_answer
from ..sizes import HEADS, WEIGHT_B, Array, Numbers, Size

TITLE = "NumPy"
PACKAGES = ("numpy",)
INSTALL = "pip install numpy"
TASKS = ("per-loss", "summed")


def environment(threads: int) -> dict[str, str]:
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


class Part:
    """The layers of the trunk or of a head: forward, and backward for ``losses`` losses at once, one above the other.

    ``dz`` is (losses, batch, n_out). All losses go through a layer in one product: (losses·batch, n_out) by W.
    """

    def __init__(self, size: Size, numbers: Numbers, part: str, losses: int, *, relu_last: bool) -> None:
        self.layers = list(zip(*[iter(numbers.part(size, part))] * 2, strict=True))
        self.losses, self.relu_last = losses, relu_last
        dtype, batch = numbers.x.dtype, size.batch
        widths = size.widths(part)
        self.h = [np.empty((batch, n_out), dtype) for _, n_out in widths]
        self.on = [np.empty((batch, n_out), bool) for _, n_out in widths]
        self.dh = [np.empty((losses, batch, n_in), dtype) for n_in, _ in widths]
        self.dW = [[np.empty((n_out, n_in), dtype) for n_in, n_out in widths] for _ in range(losses)]
        self.db = [[np.empty(n_out, dtype) for _, n_out in widths] for _ in range(losses)]
        self.ones = np.ones(batch, dtype)

    def forward(self, x: Array) -> Array:
        self.x = x
        last = len(self.layers) - 1
        for i, (W, b) in enumerate(self.layers):
            z = np.matmul(x, W.T, out=self.h[i])
            z += b
            if i < last or self.relu_last:
                np.greater(z, 0, out=self.on[i])
                np.maximum(z, 0, out=z)
            x = z
        return x

    def backward(self, dh: Array, *, to_input: bool) -> Array:
        last = len(self.layers) - 1
        for i in range(last, -1, -1):
            dz = dh
            if i < last or self.relu_last:
                np.multiply(dz, self.on[i], out=dz)
            x = self.h[i - 1] if i else self.x
            for k in range(self.losses):
                np.matmul(dz[k].T, x, out=self.dW[k][i])
                np.matmul(self.ones, dz[k], out=self.db[k][i])
            if i or to_input:
                dh = self.dh[i]
                flat = dz.reshape(-1, dz.shape[-1])
                np.matmul(flat, self.layers[i][0], out=dh.reshape(-1, dh.shape[-1]))
        return dh

    def gradients(self, loss: int = 0) -> list[Array]:
        return [array for pair in zip(self.dW[loss], self.db[loss], strict=True) for array in pair]


def setup(size: Size, numbers: Numbers, task: str, _threads: int) -> Contestant:
    trunk = Part(size, numbers, "trunk", 2 if task == "per-loss" else 1, relu_last=True)
    heads = {head: Part(size, numbers, f"heads.{head}", 1, relu_last=False) for head in HEADS}
    rows, batch = np.arange(size.batch), size.batch
    dh = np.empty((2, batch, size.trunk[-1]), numbers.x.dtype)
    row = np.empty((batch, 1), numbers.x.dtype)
    total = [np.empty_like(array) for array in trunk.gradients()]
    total_b = [np.empty_like(array) for array in heads["b"].gradients()]

    def to_features(weight_b: float) -> None:
        """Forward through all, back through the heads: fills ``dh``, head ``b`` in units of ``weight_b``."""
        h = trunk.forward(numbers.x)
        p, y = heads["a"].forward(h), heads["b"].forward(h)
        p -= np.max(p, axis=1, keepdims=True, out=row)
        np.exp(p, out=p)
        p *= np.divide(1.0 / batch, np.sum(p, axis=1, keepdims=True, out=row), out=row)
        p[rows, numbers.classes] -= 1.0 / batch
        y -= numbers.values
        y *= 2.0 * weight_b / y.size
        dh[0] = heads["a"].backward(p[None], to_input=True)[0]
        dh[1] = heads["b"].backward(y[None], to_input=True)[0]

    def per_loss() -> Any:
        to_features(1.0)
        trunk.backward(dh, to_input=False)
        for g_a, g_b, g in zip(trunk.gradients(0), trunk.gradients(1), total, strict=True):
            np.multiply(g_b, WEIGHT_B, out=g)
            g += g_a
        for g_b, g in zip(heads["b"].gradients(), total_b, strict=True):
            np.multiply(g_b, WEIGHT_B, out=g)

    def summed() -> Any:
        to_features(WEIGHT_B)
        dh[0] += dh[1]
        trunk.backward(dh[:1], to_input=False)

    def name_per_loss(_: Any) -> Answer:
        own = {head: heads[head].gradients() for head in HEADS}
        parts = {"trunk": total, "heads.a": own["a"], "heads.b": total_b}
        return per_loss_answer(size, {head: trunk.gradients(i) for i, head in enumerate(HEADS)}, own, parts)

    def name_summed(_: Any) -> Answer:
        parts = {"trunk": trunk.gradients()} | {f"heads.{head}": heads[head].gradients() for head in HEADS}
        return summed_answer(size, parts)

    versions = {"numpy": np.__version__}
    if task == "per-loss":
        return Contestant(per_loss, name_per_loss, versions)
    return Contestant(summed, name_summed, versions)
