"""pyengine, each call writing into the result of the call before (``out=``), as a training loop would."""

from __future__ import annotations

from typing import Any

from ..contestant import Answer, Contestant
from ..sizes import HEADS, WEIGHT_B, Numbers, Size

TITLE = "pyengine"
PACKAGES = ("pyengine",)
INSTALL = "pip install pyengine-grad"
TASKS = ("per-loss", "summed")


def environment(threads: int) -> dict[str, str]:
    return {"PYENGINE_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}


def setup(size: Size, numbers: Numbers, task: str, threads: int) -> Contestant:
    return contestant(size, numbers, task, threads, reuse=True)


def contestant(size: Size, numbers: Numbers, task: str, threads: int, *, reuse: bool) -> Contestant:
    """``reuse``: whether ``out=`` is given."""
    import pyengine as pe

    pe.set_num_threads(threads)
    net: pe.Network = network(size)
    params = net.parameters(numbers.params)
    x, targets, per_loss = numbers.x, {"a": numbers.classes, "b": numbers.values}, task == "per-loss"
    out = net.empty_gradients(x.dtype, per_loss=per_loss) if reuse else None

    def step() -> pe.Gradients:
        return net.gradients(params, x, targets, per_loss=per_loss, out=out)

    def named(g: Any) -> Answer:
        answer = {head: dict(g.per_loss[head]) for head in HEADS} if per_loss else {}
        return answer | {"summed": dict(g.summed)}

    info = pe.info()
    return Contestant(step, named, {"pyengine": info["version"], "isa": info["isa"], "compiler": info["compiler"]})


def network(size: Size) -> Any:
    """The network of a size, as pyengine's own."""
    import pyengine as pe

    def layers(widths: tuple[int, ...], last: str) -> list[pe.Dense]:
        return [pe.Dense(width, "relu") for width in widths[:-1]] + [pe.Dense(widths[-1], last)]

    return pe.Network(
        n_in=size.n_in,
        trunk=layers(size.trunk, "relu"),
        heads={
            "a": pe.Head(layers(size.a, "linear"), loss="softmax_cross_entropy"),
            "b": pe.Head(layers(size.b, "linear"), loss="mse", weight=WEIGHT_B),
        },
    )
