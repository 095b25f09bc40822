"""PyTorch modules as people wrap and tie them: the module inside is judged, or what the engine lacks is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pyengine as pe

torch = pytest.importorskip("torch")
nn = torch.nn

LOSSES = {"a": nn.CrossEntropyLoss(), "b": nn.MSELoss()}
WEIGHTS = {"a": 1.0, "b": 0.5}


class Model(nn.Module):  # type: ignore[misc, name-defined]
    """A trunk of two layers and two heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8), nn.ReLU())
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Any) -> dict[str, Any]:
        h = self.trunk(x)
        return {"a": self.a(h), "b": self.b(h)}


class Tied(Model):
    """Head a has the weights of the trunk's second layer, transposed by nobody: one tensor under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.a.weight = self.trunk[0].weight


class TiedHeads(Model):
    """Both heads share a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Linear(8, 8)
        self.b.bias = self.a.bias


def batch(columns: int = 2) -> tuple[Any, dict[str, Any]]:
    drawn = torch.Generator().manual_seed(1)
    x = torch.randn(24, 8, generator=drawn)
    return x, {"a": torch.randint(8, (24,), generator=drawn), "b": torch.randn(24, columns, generator=drawn)}


def verified(model: Any, **options: Any) -> pe.Verification:
    x, targets = batch(8 if isinstance(model, TiedHeads) else 2)
    return pe.verify(model, x, targets, losses=LOSSES, loss_weights=WEIGHTS, **options)


def watched(model: Any, optimizer: Any = None, weight: float = 0.5) -> pe.Verification:
    x, targets = batch()
    optimizer = torch.optim.Adam(model.parameters()) if optimizer is None else optimizer
    with pe.watch(model, losses=LOSSES, loss_weights=WEIGHTS, optimizer=optimizer) as seen:
        out = model(x)
        (LOSSES["a"](out["a"], targets["a"]) + weight * LOSSES["b"](out["b"], targets["b"])).backward()
        optimizer.step()
    return seen.report(x, targets)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process."""
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def distributed(model: Any) -> Any:
    return nn.parallel.DistributedDataParallel(model)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("wrap", [nn.DataParallel, distributed], ids=["DataParallel", "DistributedDataParallel"])
def test_a_model_for_several_devices_is_that_inside(wrap: Callable[[Any], Any]) -> None:
    report = verified(wrap(Model()))
    assert report.verdict == "CERTIFIED", report
    assert report.native["trunk.0.weight"] == "trunk.0.weight"
    seen = watched(wrap(Model()))
    assert (seen.verdict, seen.refusal) == ("CONSISTENT", ""), seen
    assert not watched(wrap(Model()), weight=0.4).ok


TWO = """
import sys, torch, pyengine as pe
sys.path.insert(0, sys.argv[3])
from test_torch_wrapped import LOSSES, WEIGHTS, Model, batch, distributed
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", f"file://{sys.argv[2]}", rank=rank, world_size=2)
model, (x, targets) = distributed(Model()), batch()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
part = slice(12 * rank, 12 * rank + 12)
with pe.watch(model, losses=LOSSES, loss_weights=WEIGHTS, optimizer=optimizer) as seen:
    out = model(x[part])
    (LOSSES["a"](out["a"], targets["a"][part]) + 0.5 * LOSSES["b"](out["b"], targets["b"][part])).backward()
    optimizer.step()
whole = seen.report(x, targets)
own = seen.report(x[part], {name: target[part] for name, target in targets.items()})
print(whole.verdict, whole.combination.verdict, own.verdict, "2 processes" in str(own), flush=True)
torch.distributed.destroy_process_group()
"""


def test_two_processes_average_their_gradients_and_the_report_says_so(tmp_path: Path) -> None:
    """The batch of both explains the step; that of one does not."""
    here = Path(__file__).parent
    arguments = [str(tmp_path / "group"), str(here)]
    running = [
        subprocess.Popen([sys.executable, "-c", TWO, str(rank), *arguments], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in running]
    assert said == ["CONSISTENT summed INCONSISTENT True\n"] * 2


def compiled(model: Any) -> Any:
    return torch.compile(model, backend="aot_eager")


def compiled_in_place(model: Any) -> Any:
    model.compile(backend="aot_eager")
    return model


@pytest.mark.filterwarnings("ignore")  # of torch.compile itself
@pytest.mark.parametrize("wrap", [compiled, compiled_in_place])
def test_a_compiled_model_is_judged_by_what_was_compiled(wrap: Callable[[Any], Any]) -> None:
    report = verified(wrap(Model()))
    assert report.verdict == "CONSISTENT", report
    assert "compiled" in report.answer
    assert report.combination is not None
    assert report.combination.verdict == "summed"
    assert watched(wrap(Model())).verdict == "CONSISTENT"


def wrong_by_a_thousandth(graph: Any, inputs: Any) -> Any:
    """A compiler that is wrong: what it returns is scaled."""
    from torch._dynamo.backends.common import aot_autograd

    def make(module: Any, _: Any) -> Any:
        return lambda *given: [out if out is None else out * 1.001 for out in module(*given)]

    return aot_autograd(fw_compiler=lambda module, _: module, bw_compiler=make)(graph, inputs)


@pytest.mark.filterwarnings("ignore")
def test_a_wrong_compiler_is_caught() -> None:
    report = verified(torch.compile(Model(), backend=wrong_by_a_thousandth))
    assert report.verdict == "INCONSISTENT", report


@pytest.mark.parametrize("frozen", ["trunk.0", "trunk.2", "a"])
def test_frozen_layers_are_judged_and_left_frozen(frozen: str) -> None:
    model = Model()
    layer = model.get_submodule(frozen)
    layer.requires_grad_(False)
    report = verified(model)
    assert report.verdict == "CERTIFIED", report
    assert f"Frozen, and judged as if they were trained: {frozen}.weight, {frozen}.bias." in report.notes
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [
        f"{frozen}.weight",
        f"{frozen}.bias",
    ]
    assert watched(model).verdict == "CONSISTENT"
    assert not watched(model, weight=0.4).ok


@pytest.mark.parametrize("model", [Tied, TiedHeads])
def test_tied_parameters_are_refused_by_name_and_judged_without_the_engine(model: Callable[[], Any]) -> None:
    report = verified(model())
    assert report.verdict == "CONSISTENT", report
    assert "at two places" in report.refusal


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_normed_weights_are_refused_by_name_and_judged_without_the_engine(norm: Callable[[Any], Any]) -> None:
    model = Model()
    norm(model.trunk[0])
    report = verified(model)
    assert report.verdict == "CONSISTENT", report
    assert "trunk.0" in report.refusal


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_normed_weights_are_watched_where_the_model_can_be_copied() -> None:
    model = Model()
    nn.utils.parametrizations.weight_norm(model.trunk[0])
    assert watched(model).verdict == "CONSISTENT"
    old = Model()
    nn.utils.weight_norm(old.trunk[0])
    with pytest.raises(ValueError, match=r"parametrizations\.weight_norm"):
        watched(old)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_groups_with_rates_of_their_own_are_replayed(kind: Any) -> None:
    model = Model()
    rest = [*model.trunk[2].parameters(), *model.a.parameters(), *model.b.parameters()]
    optimizer = kind([{"params": model.trunk[0].parameters(), "lr": 3e-2}, {"params": rest, "lr": 1e-3}])
    report = watched(model, optimizer)
    assert report.verdict == "CONSISTENT", report
    assert report.update is not None
    assert report.update.verdict == "summed"
    assert not watched(model, optimizer, weight=0.4).ok
