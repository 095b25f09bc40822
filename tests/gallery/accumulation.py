"""Windows of micro-batches: what people divide by, and when they zero."""

from __future__ import annotations

from typing import Any

from gallery.loops import WEIGHTS, Bug, World, torch


def window(world: World) -> dict[str, Any]:
    return {"x": [x for x, _ in world.data], "targets": [targets for _, targets in world.data]}


def uneven(world: World) -> dict[str, Any]:
    (x, targets), *_ = world.data
    parts = [slice(0, 4), slice(4, 24)]
    return {"x": [x[p] for p in parts], "targets": [{n: t[p] for n, t in targets.items()} for p in parts]}


def accumulate(world: World, divide: float, count: int = 3) -> None:
    world.optimizer.zero_grad()
    for x, targets in world.data[:count]:
        (world.total(x, targets) / divide).backward()
    world.optimizer.step()


def zeroed_inside(world: World) -> None:
    for x, targets in world.data:
        world.optimizer.zero_grad()
        (world.total(x, targets) / 3).backward()
    world.optimizer.step()


def means_of_means(world: World) -> None:
    world.optimizer.zero_grad()
    told = uneven(world)
    for x, targets in zip(told["x"], told["targets"], strict=True):
        (world.total(x, targets) / 2).backward()
    world.optimizer.step()


def by_samples(world: World) -> None:
    world.optimizer.zero_grad()
    told = uneven(world)
    for x, targets in zip(told["x"], told["targets"], strict=True):
        (world.total(x, targets) * len(x) / 24).backward()
    world.optimizer.step()


def never_zeroed(world: World) -> None:
    for x, targets in (world.data[1], world.data[0]):
        world.total(x, targets).backward()
        world.optimizer.step()


def always_zeroed(world: World) -> None:
    for x, targets in (world.data[1], world.data[0]):
        world.optimizer.zero_grad()
        world.total(x, targets).backward()
        world.optimizer.step()


def replicas(world: World, average: bool) -> None:
    """Two workers with half a batch each; their gradients are exchanged by a sum, or by a mean."""
    world.optimizer.zero_grad()
    halves = [slice(0, 12), slice(12, 24)]
    for half in halves:
        out = world.model(world.x[half])
        # Each worker's loss is divided by the global batch, so that a sum is the whole gradient.
        loss = WEIGHTS["digit"] * torch.nn.functional.cross_entropy(
            out["digit"], world.targets["digit"][half], reduction="sum"
        )
        loss = (
            loss
            + WEIGHTS["ink"] * torch.nn.functional.mse_loss(out["ink"], world.targets["ink"][half], reduction="sum") / 2
        )
        (loss / 24).backward()
    if average:
        for p in world.model.parameters():
            p.grad /= 2
    world.optimizer.step()


BUGS = [
    Bug("the window's gradients are added, not averaged", "https://github.com/fastai/fastai/issues/3023",
        "accumulation not divided", lambda w: accumulate(w, 1), lambda w: accumulate(w, 3), told=window),
    Bug("the loss is divided by the window, and once more by the trainer",
        "https://github.com/huggingface/transformers/pull/35210",
        "accumulation divided twice", lambda w: accumulate(w, 9), lambda w: accumulate(w, 3), told=window),
    Bug("the last window is short, but divided by the full length", "https://github.com/modelscope/ms-swift/pull/10084",
        "partial window", lambda w: accumulate(w, 4), lambda w: accumulate(w, 3),
        told=lambda w: {**window(w), "accumulation": 4}),
    Bug("micro-batches of different sizes, each averaged by itself",
        "https://github.com/huggingface/transformers/pull/34191", "mean of means", means_of_means, by_samples,
        told=uneven),
    Bug("zero_grad() at the start of every micro-batch discards the window",
        "https://github.com/huggingface/accelerate/issues/1299", "only one micro-batch", zeroed_inside,
        lambda w: accumulate(w, 3), told=window),
    Bug("backward() twice without zero_grad() between",
        "https://discuss.pytorch.org/t/how-are-optimizer-step-and-loss-backward-related/7350/14",
        "gradients not zeroed", never_zeroed, always_zeroed,
        told=lambda w: {"x": w.x, "targets": w.targets, "step": 1}),
    Bug("data-parallel workers average what was already divided by the global batch",
        "https://github.com/kubeflow/pytorch-operator/issues/122",
        "averaged", lambda w: replicas(w, True), lambda w: replicas(w, False)),
]  # fmt: skip
