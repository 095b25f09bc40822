"""pe.watch leaves everything as it was, records every step, and refuses what it cannot judge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from refusals import refused

import pyengine as pe

torch = pytest.importorskip("torch")


def problem(seed: int = 0) -> tuple[Any, dict[str, Any], Any, dict[str, Any]]:
    from gallery.loops import LOSSES, batch, model

    return model(seed), dict(LOSSES), *batch(seed)


def loop(model: Any, losses: dict[str, Any], optimizer: Any, x: Any, targets: dict[str, Any]) -> None:
    optimizer.zero_grad()
    out = model(x)
    (losses["digit"](out["digit"], targets["digit"]) + 0.5 * losses["ink"](out["ink"], targets["ink"])).backward()
    optimizer.step()


OPTIMIZERS = [
    lambda p: torch.optim.SGD(p, lr=0.1),
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    lambda p: torch.optim.Adam(p, lr=1e-2),
    lambda p: torch.optim.AdamW(p, lr=1e-2),
    lambda p: torch.optim.RMSprop(p, lr=1e-3),
    lambda p: torch.optim.NAdam(p, lr=1e-2),
    lambda p: torch.optim.Adagrad(p, lr=1e-2),
    lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1, amsgrad=True),
]


@pytest.mark.parametrize("make", OPTIMIZERS, ids=range(len(OPTIMIZERS)))
def test_right_loop_is_consistent_with_every_optimizer_in_its_third_step_too(make: Any) -> None:
    model, losses, x, targets = problem()
    optimizer = make(model.parameters())
    with pe.watch(model, losses=losses, optimizer=optimizer, loss_weights={"ink": 0.5}) as seen:
        for _ in range(3):
            loop(model, losses, optimizer, x, targets)
    for step in range(3):
        report = seen.report(x, targets, step=step)
        assert report.verdict == "CONSISTENT", report
        assert (report.combination.verdict, report.update.verdict) == ("summed", "summed")
        assert report.update.applied.own
    assert seen.report(x, targets).diagnoses[0].name == "stepped twice"


@pytest.mark.parametrize("make", OPTIMIZERS, ids=range(len(OPTIMIZERS)))
def test_wrong_step_size_is_caught_with_every_optimizer(make: Any) -> None:
    """The gradient is right; after the step somebody moves the parameters a little farther."""
    model, losses, x, targets = problem()
    optimizer = make(model.parameters())
    before = [p.detach().clone() for p in model.parameters()]

    def farther(*_: Any) -> None:
        with torch.no_grad():
            for old, p in zip(before, model.parameters(), strict=True):
                p += 0.01 * (p - old)

    optimizer.register_step_post_hook(farther)
    with pe.watch(model, losses=losses, optimizer=optimizer, loss_weights={"ink": 0.5}) as seen:
        loop(model, losses, optimizer, x, targets)
    report = seen.report(x, targets)
    assert "wrong step" in {d.name for d in report.diagnoses}


def test_model_optimizer_and_hooks_are_as_before_and_the_loop_runs_the_same_bits() -> None:
    results = []
    for watched in (False, True):
        model, losses, x, targets = problem()
        optimizer = torch.optim.Adam(model.parameters())
        if watched:
            with pe.watch(model, losses=losses, optimizer=optimizer):
                loop(model, losses, optimizer, x, targets)
        else:
            loop(model, losses, optimizer, x, targets)
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks
        assert not model._forward_hooks
        results.append([p.detach().numpy().tobytes() for p in model.parameters()])
    assert results[0] == results[1]


def test_hooks_are_gone_after_an_exception() -> None:
    model, losses, x, targets = problem()
    optimizer = torch.optim.Adam(model.parameters())
    seen = pe.watch(model, losses=losses, optimizer=optimizer)

    def interrupted() -> None:
        with seen:
            loop(model, losses, optimizer, x, targets)
            raise RuntimeError("in the loop")

    with pytest.raises(RuntimeError, match="in the loop"):
        interrupted()
    assert len(seen.steps) == 1
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_gradients_of_a_closure_are_seen() -> None:
    model, losses, x, targets = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def closure() -> Any:
        optimizer.zero_grad()
        out = model(x)
        total = losses["digit"](out["digit"], targets["digit"]) + 0.5 * losses["ink"](out["ink"], targets["ink"])
        total.backward()
        return total

    with pe.watch(model, losses=losses, optimizer=optimizer, loss_weights={"ink": 0.5}) as seen:
        optimizer.step(closure)
    assert seen.report(x, targets).verdict == "CONSISTENT"


def test_report_tells_the_user_what_to_do_and_goes_into_json() -> None:
    model, losses, x, targets = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pe.watch(model, losses=losses, optimizer=optimizer) as seen:
        losses["digit"](model(x)["digit"], targets["digit"]).backward()
        optimizer.step()
    report = seen.report(x, targets)
    assert "detach()" in str(report)
    assert report.to_dict()["diagnoses"][0]["name"] == "missing loss"
    with pytest.raises(pe.GradientMismatch, match="contributes nothing"):
        report.raise_for_failure()


def test_block_without_a_step_fails() -> None:
    model, losses, x, targets = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pe.watch(model, losses=losses, optimizer=optimizer) as seen:
        model(x)
    refused(lambda: seen.report(x, targets), ValueError, "optimizer", "took no step")


def test_wrong_arguments_fail() -> None:
    model, losses, x, targets = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def watched(*args: Any, **options: Any) -> Any:
        return lambda: pe.watch(*args, **options)

    refused(watched(model, losses, "adam"), TypeError, "optimizer", "is str")
    refused(watched("model", losses, optimizer), TypeError, "model", "type str")
    refused(watched(model, optimizer=optimizer), ValueError, "losses", "missing")
    refused(watched(model, losses, optimizer, surgery="cagrad"), ValueError, "surgery", "cagrad")
    with pe.watch(model, losses=losses, optimizer=optimizer) as seen:
        loop(model, losses, optimizer, x, targets)
    refused(lambda: seen.report(x, targets, step=3), ValueError, "step", "is 3")
    refused(lambda: seen.report([x], targets), ValueError, "targets", "micro-batches")
    refused(lambda: seen.report(x, np.zeros(3)), TypeError, "targets", "ndarray")
