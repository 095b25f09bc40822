"""Gradient surgery and clipping: on what, over which parameters, and in which order."""

from __future__ import annotations

from typing import Any

from gallery.loops import WEIGHTS, Bug, World, torch


def project(gradients: list[Any]) -> list[Any]:
    """PCGrad (Yu et al. 2020, Algorithm 1) on flat gradients."""
    found = []
    for i, gradient in enumerate(gradients):
        own = gradient.clone()
        for j, other in enumerate(gradients):
            dot = own @ other
            if i != j and dot < 0:
                own -= dot / (other @ other) * other
        found.append(own)
    return found


def flat(parameters: list[Any]) -> Any:
    return torch.cat([p.grad.reshape(-1) if p.grad is not None else torch.zeros(p.numel()) for p in parameters])


def put(parameters: list[Any], vector: Any) -> None:
    start = 0
    for p in parameters:
        p.grad = vector[start : start + p.numel()].reshape(p.shape).clone()
        start += p.numel()


def pcgrad(world: World, shared: list[Any], share: float = 1.0, *, of_sum: bool = False) -> None:
    everything = list(world.model.parameters())
    gradients, rest = [], torch.zeros(sum(p.numel() for p in everything))
    for name in world.losses:
        world.optimizer.zero_grad()
        (world.total() if of_sum else WEIGHTS[name] * world.values()[name]).backward()
        gradients.append(flat(shared))
        rest = rest + flat(everything)
    projected = share * torch.stack(project(gradients)).sum(0)
    put(everything, rest / 2 if of_sum else rest)
    put(shared, projected / 2 if of_sum else projected)
    world.optimizer.step()


def right(world: World) -> None:
    pcgrad(world, list(world.model.trunk.parameters()))


def on_the_sum(world: World) -> None:
    """One backward of the total; then every "task" projects what lies in .grad, which is the same sum."""
    pcgrad(world, list(world.model.trunk.parameters()), of_sum=True)


def opposed() -> Any:
    """A model whose losses pull the trunk apart: the cosine of their gradients is -0.55."""
    from gallery.loops import model

    return model(3)


def clipped(world: World, order: str) -> None:
    world.optimizer.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    norm = torch.nn.utils.clip_grad_norm_
    scaler.scale(world.total()).backward()
    if order == "unscaled first":
        scaler.unscale_(world.optimizer)
    if order != "never":
        norm(world.model.parameters(), 0.1)
    scaler.step(world.optimizer)
    scaler.update()


def still_scaled(world: World) -> None:
    world.optimizer.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaler.scale(world.total()).backward()
    world.optimizer.step()  # not through the scaler


def unscaled_twice(world: World) -> None:
    """The wrapper of the optimizer and the optimizer inside are two objects to the scaler."""
    world.optimizer.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaler.scale(world.total()).backward()
    outer = torch.optim.SGD(world.model.parameters(), lr=0.0)
    scaler.unscale_(outer)
    scaler.step(world.optimizer)


def plain(world: World) -> None:
    world.optimizer.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaler.scale(world.total()).backward()
    scaler.step(world.optimizer)


def all_parameters(world: World) -> None:
    pcgrad(world, list(world.model.parameters()))


PROJECTED = {"asked": {"surgery": "pcgrad"}, "model": opposed}
CLIPPED = {"asked": {"clip_norm": 0.1}}

BUGS = [
    Bug("PCGrad after one backward() of the total",
        "https://github.com/KanishJebaMathewM/Truxify/issues/11390", "surgery without effect", on_the_sum, right,
        **PROJECTED),
    Bug("heads count among the shared parameters", "https://github.com/WeiChengTseng/Pytorch-PCGrad/issues/1",
        "surgery over heads", all_parameters, right, **PROJECTED),
    Bug("reduction='sum' is ignored, the projections are averaged",
        "https://github.com/WeiChengTseng/Pytorch-PCGrad/issues/14", "surgery averaged",
        lambda w: pcgrad(w, list(w.model.trunk.parameters()), 0.5), right, **PROJECTED),
    Bug("clipped before unscaling", "https://github.com/Lightning-AI/pytorch-lightning/issues/9599",
        "clipped before unscaling", lambda w: clipped(w, "scaled"), lambda w: clipped(w, "unscaled first"), **CLIPPED),
    Bug("optimizer.step() beside the scaler's", "https://github.com/IAHispano/Applio/pull/860", "not unscaled",
        still_scaled, plain),
    Bug("the gradients are unscaled twice", "https://github.com/huggingface/accelerate/pull/115", "unscaled too often",
        unscaled_twice, plain),
    Bug("clipping is forgotten where gradients are accumulated", "https://github.com/huggingface/accelerate/issues/641",
        "not clipped", lambda w: clipped(w, "never"), lambda w: clipped(w, "unscaled first"), **CLIPPED),
]  # fmt: skip
