"""What enters the total: losses cut off, exchanged, scaled, averaged; parameters that nobody steps."""

from __future__ import annotations

from typing import Any

from gallery.loops import WEIGHTS, Bug, World, torch


def step(world: World, total: Any) -> None:
    world.optimizer.zero_grad()
    total.backward()
    world.optimizer.step()


def right(world: World) -> None:
    step(world, world.total())


def detached_head(world: World) -> None:
    h = world.model.trunk(world.x)
    digit = world.losses["digit"](world.model.digit(h), world.targets["digit"])
    ink = world.losses["ink"](world.model.ink(h.detach()), world.targets["ink"])
    step(world, digit + 0.5 * ink)


def rewrapped(world: World) -> None:
    values = world.values()
    step(world, values["digit"] + 0.5 * torch.tensor(values["ink"].item()))


def averaged(world: World) -> None:
    values = world.values()
    step(world, torch.stack([WEIGHTS[name] * value for name, value in values.items()]).mean())


def scaled_trunk(world: World) -> None:
    """The trunk's gradient is multiplied by a factor that was meant for something else."""
    world.optimizer.zero_grad()
    world.total().backward()
    for parameter in world.model.trunk.parameters():
        parameter.grad *= 0.25
    world.optimizer.step()


def stale(world: World) -> None:
    x, targets = world.data[1]
    world.optimizer.zero_grad()
    world.total(x, targets).backward()
    world.total()  # this batch's loss is computed, and its backward() comes after the step
    world.optimizer.step()


def in_turn(world: World) -> None:
    for name in world.losses:
        step(world, WEIGHTS[name] * world.values()[name])


def without_head(world: World) -> Any:
    parts = [*world.model.trunk.parameters(), *world.model.digit.parameters()]
    return torch.optim.Adam(parts, lr=1e-2)


def two(world: World) -> Any:
    trunk = list(world.model.trunk.parameters())
    return [
        torch.optim.Adam([*trunk, *world.model.digit.parameters()], lr=1e-2),
        torch.optim.Adam([*trunk, *world.model.ink.parameters()], lr=1e-2),
    ]


def apart(world: World) -> Any:
    return [
        torch.optim.Adam([*world.model.trunk.parameters(), *world.model.digit.parameters()], lr=1e-2),
        torch.optim.Adam(world.model.ink.parameters(), lr=1e-2),
    ]


def both_step(world: World) -> None:
    for optimizer in world.optimizer:
        optimizer.zero_grad()
    world.total().backward()
    for optimizer in world.optimizer:
        optimizer.step()


BUGS = [
    Bug("a head reads detached features", "https://github.com/bboylyg/NAD/issues/8", "missing loss", detached_head,
        right),
    Bug("a loss is rewrapped as a new tensor", "https://github.com/guopengf/FL-MRCM/issues/10", "missing loss",
        rewrapped, right),
    Bug("the losses are averaged although a sum is meant",
        "https://discuss.pytorch.org/t/training-a-network-with-multiple-heads/50679", "averaged", averaged, right),
    Bug("the shared parameters' gradient is scaled away", "https://github.com/facebookresearch/fairchem/pull/283",
        "scaled", scaled_trunk, right),
    Bug("step() before this batch's backward()",
        "https://discuss.pytorch.org/t/how-are-optimizer-step-and-loss-backward-related/7350/14", "previous batch",
        stale, right,
        told=lambda w: {"x": w.x, "targets": w.targets, "previous": w.data[1]}),
    Bug("one step per loss instead of one on the sum",
        "https://discuss.pytorch.org/t/multi-task-learning-whats-the-difference-between-jointly-backward-and-backward-with-retain-graph-true/28162",
        "losses in turn", in_turn, right),
    Bug("the optimizer is made without one head", "https://github.com/zjunlp/HVPNeT/issues/5", "not stepped", right,
        right, optimizer=without_head, cured=lambda w: torch.optim.Adam(w.model.parameters(), lr=1e-2)),
    Bug("two optimizers hold the trunk", "https://github.com/ShiqiYu/OpenGait/issues/147", "several optimizers",
        both_step, both_step, optimizer=two, cured=apart),
]  # fmt: skip
