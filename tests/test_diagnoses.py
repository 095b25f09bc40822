"""Every name of a diagnosis is planted in a loop and found, here or in the gallery, and its twin passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyengine.checks.diagnosis import NAMES

torch = pytest.importorskip("torch")

from gallery.loops import LOSSES, WEIGHTS, Bug, World, expect_consistent, expect_named  # noqa: E402
from gallery.test_gallery import EVERY  # noqa: E402


def step(world: World, total: Any = None) -> None:
    world.optimizer.zero_grad()
    (world.total() if total is None else total).backward()
    world.optimizer.step()


def stepped(change: Callable[[World], None], times: int = 1) -> Callable[[World], None]:
    """A loop that changes something between backward and step."""

    def loop(world: World) -> None:
        for _ in range(times):
            world.optimizer.zero_grad()
            world.total().backward()
            change(world)
            world.optimizer.step()

    return loop


def nothing(_: World) -> None:
    pass


def clip(world: World) -> None:
    torch.nn.utils.clip_grad_norm_(world.model.parameters(), 0.25)


def head_too_fast(world: World) -> None:
    """A learning rate of one head by hand: its gradient is not that of its loss."""
    for parameter in world.model.ink.parameters():
        parameter.grad *= 3.0


def noisy(world: World) -> None:
    """Gradient noise, which is no combination of the losses' gradients."""
    torch.manual_seed(0)
    for parameter in world.model.trunk.parameters():
        parameter.grad += 0.1 * torch.randn_like(parameter)


def written(world: World) -> None:
    """Weights are clipped after the step, as for a Lipschitz bound."""
    step(world)
    with torch.no_grad():
        for parameter in world.model.parameters():
            parameter.clamp_(-0.05, 0.05)


def broken(world: World) -> None:
    """A gradient of a square root at zero, which somebody's hook lets through."""
    world.model.trunk[0].weight.grad[2, 3] = float("nan")


def exchanged(world: World) -> None:
    values = world.values()
    step(world, WEIGHTS["ink"] * values["digit"] + WEIGHTS["digit"] * values["ink"])


def lost(world: World) -> None:
    """Somebody clears the gradient of one layer."""
    world.model.trunk[0].weight.grad = None


def moving(world: World) -> Any:
    """An optimizer with a hook that moves the parameters a little farther, as a wrong learning rate would."""
    optimizer = torch.optim.Adam(world.model.parameters(), lr=1e-2)
    before = [p.detach().clone() for p in world.model.parameters()]

    def farther(*_: Any) -> None:
        with torch.no_grad():
            for old, parameter in zip(before, world.model.parameters(), strict=True):
                parameter += 0.01 * (parameter - old)

    optimizer.register_step_post_hook(farther)
    return optimizer


def bug(named: str, wrong: Callable[[World], None], right: Callable[[World], None] = step, **more: Any) -> Bug:
    return Bug(named, "", named, wrong, right, **more)


def sgd(world: World) -> Any:
    return torch.optim.SGD(world.model.parameters(), lr=0.1)


PLANTED = [
    bug("clipped", stepped(clip), stepped(nothing), optimizer=sgd),
    bug("head differs", stepped(head_too_fast), stepped(nothing)),
    bug("another gradient", stepped(noisy), stepped(nothing)),
    bug("not finite", stepped(broken), stepped(nothing)),
    bug("stepped twice", stepped(nothing, times=2), stepped(nothing)),
    bug("changed outside", written),
    bug("wrong step", step, optimizer=moving, cured=lambda world: torch.optim.Adam(world.model.parameters(), lr=1e-2)),
    bug("no gradient", stepped(lost), stepped(nothing)),
    bug("weights exchanged", exchanged),
]


@pytest.mark.parametrize("planted", PLANTED, ids=[one.named for one in PLANTED])
def test_a_planted_fault_is_named(planted: Bug) -> None:
    expect_named(planted)


@pytest.mark.parametrize("planted", PLANTED, ids=[one.named for one in PLANTED])
def test_its_twin_is_consistent(planted: Bug) -> None:
    expect_consistent(planted)


def test_the_head_that_differs_is_named_with_its_factor() -> None:
    from gallery.loops import judged

    one = next(p for p in PLANTED if p.named == "head differs")
    (found,) = judged(one, one.wrong, one.optimizer).diagnoses
    assert "'ink'" in found.sentence
    assert "3 times it" in found.sentence
    assert set(LOSSES) == set(WEIGHTS)


def test_every_name_is_planted_somewhere() -> None:
    assert {one.named for one in [*EVERY, *PLANTED]} == set(NAMES)
