"""The benchmark: only answers that agree are timed, who is missing is said, and the READMEs show the committed JSON."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyengine import cli
from pyengine.bench import contest, contestant, plot, table, terminal
from pyengine.bench.agreement import Judge
from pyengine.bench.contestant import ENGINE, PEERS, Answer, Contestant, installed, missing, peer
from pyengine.bench.machine import facts
from pyengine.bench.peers.engine import network
from pyengine.bench.process import ContestantProcess, Failed
from pyengine.bench.sizes import HEADS, SIZES, TASKS, Numbers, numbers

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).parent / "golden"
TINY = SIZES["tiny"]
JUDGES = {dtype: Judge(TINY, numbers(TINY, dtype)) for dtype in ("float32", "float64")}


def answer_of(name: str, task: str, dtype: str) -> Answer:
    made: Contestant = peer(name).setup(TINY, numbers(TINY, dtype), task, 1)
    made.step()  # the second answer must not contain the first
    return made.named(made.step())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["pyengine", "pyengine-fresh", "numpy"])
def test_contestants_that_need_nothing_agree(name: str, task: str, dtype: str) -> None:
    agreement = JUDGES[dtype].judge(answer_of(name, task, dtype), task)
    assert agreement.refusal == ""
    assert agreement.worst <= 1.0
    assert agreement.by_norm == 0, "the bounds of the smallest network must suffice"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PEERS if name not in {"pyengine", "pyengine-fresh", "numpy"}])
def test_frameworks_agree(name: str, tmp_path: Path) -> None:
    if why := missing(name):
        pytest.skip(why)
    given = numbers(TINY, "float32")
    given.save(tmp_path / "numbers.npz")
    with ContestantProcess(name, 1, tmp_path) as process:
        for task in peer(name).TASKS:
            answer, versions = process.setup(TINY, task, tmp_path / "numbers.npz")
            assert JUDGES["float32"].judge(answer, task).refusal == ""
            assert versions


def faults(answer: Answer) -> dict[str, Answer]:
    """The answer with one thing wrong with it, by what is wrong."""
    changed: dict[str, Answer] = {}

    def change(label: str) -> Answer:
        changed[label] = {part: {name: a.copy() for name, a in arrays.items()} for part, arrays in answer.items()}
        return changed[label]

    change("scaled")["summed"]["trunk.0.weight"] *= 1.01
    change("one entry")["a"]["heads.a.0.bias"][0] *= -1.0
    change("not a number")["b"]["trunk.0.bias"][3] = np.nan
    change("zeros")["b"]["heads.b.0.weight"][...] = 0.0
    wrong = change("weight forgotten")
    for name in wrong["summed"]:
        if name.startswith("heads.b."):
            wrong["summed"][name] *= 2.0
    del change("missing")["summed"]["heads.b.0.bias"]
    wrong = change("transposed")
    wrong["a"]["trunk.0.weight"] = wrong["a"]["trunk.0.weight"].T
    return changed


@pytest.mark.parametrize(
    "fault", ["scaled", "one entry", "not a number", "zeros", "weight forgotten", "missing", "transposed"]
)
def test_a_wrong_answer_fails(fault: str, dtype: str) -> None:
    answer = answer_of(ENGINE, "per-loss", dtype)
    agreement = JUDGES[dtype].judge(faults(answer)[fault], "per-loss")
    assert not agreement.holds
    assert agreement.refusal


def test_where_the_bound_is_larger_than_the_gradient_the_norm_decides() -> None:
    judge = copy.copy(JUDGES["float32"])
    judge.bounds = {
        part: {n: np.full_like(a, np.inf) for n, a in arrays.items()} for part, arrays in judge.truth.items()
    }
    answer = answer_of("numpy", "per-loss", "float32")
    agreement = judge.judge(answer, "per-loss")
    assert agreement.holds
    assert agreement.by_norm == agreement.arrays > 0
    answer["summed"]["trunk.0.weight"] = np.zeros_like(answer["summed"]["trunk.0.weight"])
    assert "of its norm from the truth" in judge.judge(answer, "per-loss").refusal


def test_the_numbers_vary_and_survive_a_file(tmp_path: Path, dtype: str) -> None:
    given = numbers(TINY, dtype)
    assert np.unique(given.classes).size == TINY.a[-1]
    assert all(np.unique(array).size == array.size for array in (given.x, given.values, *given.params.values()))
    given.save(tmp_path / "numbers.npz")
    read = Numbers.load(tmp_path / "numbers.npz")
    assert read.x.dtype == dtype
    assert {name: array.tolist() for name, array in read.params.items()} == {
        name: array.tolist() for name, array in given.params.items()
    }


@pytest.mark.parametrize("name", SIZES)
def test_names_and_shapes_are_those_of_the_network(name: str) -> None:
    size = SIZES[name]
    layout = network(size).layout
    assert [n for part in ("trunk", "heads.a", "heads.b") for n in size.names(part)] == list(layout.names)
    shapes = [(o, i) for part in ("trunk", "heads.a", "heads.b") for i, o in size.widths(part)]
    assert shapes == [shape for shape in layout.shapes.values() if len(shape) == 2]


def test_products_are_counted_by_hand() -> None:
    """Forward 16·32 + 32·4 + 32·1; heads' weights and inputs 2·160; the trunk's weights, once or twice, 512."""
    assert TINY.products("summed") == 2 * 32 * (512 + 160 + 320 + 512)
    assert TINY.products("per-loss") == 2 * 32 * (512 + 160 + 320 + 2 * 512)


def quick(**changes: Any) -> dict[str, Any]:
    return contest.compete(["tiny"], ["per-loss"], ["numpy"], **{"threads": 1, "seconds": 0.0, **changes})


def test_a_contest_gives_numbers_and_says_who_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contestant, "installed", lambda package: package != "numpy")
    held = quick()
    assert held["missing"] == {"numpy": "numpy not installed: pip install numpy"}
    assert list(held["contests"][0]["results"]) == [ENGINE]
    assert "NumPy did not take part" in terminal.plain(held, 120)
    assert "NumPy did not run" in table.full(held)


def test_result_has_the_schema() -> None:
    held = json.loads(json.dumps(quick()))
    assert held["schema_version"] == contest.SCHEMA_VERSION == 1
    assert held.keys() == {
        *("schema_version", "machine", "threads", "dtype", "seconds", "versions", "titles", "missing", "contests"),
    }
    assert held["machine"].keys() == {*facts(), "load_after"}
    (found,) = held["contests"]
    assert found.keys() == {"size", "shape", "task", "products", "rounds", "results", "refused"}
    assert (found["refused"], found["rounds"]) == ({}, contest.FEWEST_ROUNDS)
    assert list(found["results"]) == [ENGINE, "numpy"]
    for result in found["results"].values():
        assert result.keys() == {"median", "quartiles", "fastest", "samples", "rounds", "cores", "agreement"}
        assert 0.0 < result["fastest"] <= result["quartiles"][0] <= result["median"] <= result["quartiles"][1]
        assert len(result["rounds"]) == contest.FEWEST_ROUNDS <= result["samples"]
        assert result["agreement"]["worst"] <= 1.0


def test_who_disagrees_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = ContestantProcess.setup

    def wrong(self: ContestantProcess, *arguments: Any) -> Any:
        answer, versions = setup(self, *arguments)
        return (faults(answer)["scaled"] if self.name == "numpy" else answer), versions

    monkeypatch.setattr(ContestantProcess, "setup", wrong)
    held = quick()
    (found,) = held["contests"]
    assert list(found["results"]) == [ENGINE]
    assert found["refused"]["numpy"].startswith("disagrees, so it is not timed: summed['trunk.0.weight']")
    assert "disagrees" in terminal.plain(held, 120)
    assert "disagrees" in table.full(held)
    assert table.fastest_peer(found) is None


def test_a_contestant_that_raises_or_dies_is_reported(tmp_path: Path) -> None:
    with ContestantProcess("numpy", 1, tmp_path) as process:
        with pytest.raises(Failed, match="setup comes first"):
            process.ask("calibrate", warm=0.0)
        process._process.kill()
        process._process.wait()
        with pytest.raises(Failed, match="its process ended"):
            process.ask("calibrate", warm=0.0)


def test_what_is_not_there_is_not_installed() -> None:
    assert installed("numpy")
    assert not installed("a_package_that_nobody_wrote")
    assert [name for name in PEERS if not set(peer(name).TASKS) <= TASKS.keys()] == []


# ---------------------------------------------------------------------------------------------------------- rendering


def example() -> dict[str, Any]:
    """A result made up by hand: a win, a loss, one who disagreed, one who is missing."""

    def result(median: float, by_norm: int = 0) -> dict[str, Any]:
        return {
            "median": median,
            "quartiles": [median / 1.25, median * 1.5],
            "fastest": median / 2,
            "samples": 6,
            "rounds": [median / 1.25, median, median * 1.5],
            "cores": 1.5,
            "agreement": {"worst": 0.01, "error": 2.3e-7, "by_norm": by_norm, "arrays": 20},
        }

    def one(size: str, task: str, results: dict[str, Any], **refused: str) -> dict[str, Any]:
        products = SIZES[size].products(task)
        head = {"size": size, "shape": SIZES[size].shape, "task": task, "products": products, "rounds": 3}
        return {**head, "results": results, "refused": refused}

    return {
        "schema_version": 1,
        "machine": {
            "cpu": "Example CPU",
            "cores": 4,
            "usable_cores": 2,
            "system": "Linux x86_64",
            "python": "3.12.1",
            "commit": "abc123",
            "date": "2026-01-02T03:04:05Z",
            "load_before": 0.1,
            "load_after": 1.9,
        },
        "threads": 2,
        "dtype": "float32",
        "seconds": 10.0,
        "versions": {"pyengine": "0.1.0", "isa": "avx2", "numpy": "2.0.0"},
        "titles": {name: peer(name).TITLE for name in ("pyengine", "pyengine-fresh", "numpy", "torch", "jax")},
        "missing": {"jax": "jax not installed: pip install jax"},
        "contests": [
            one("tiny", "per-loss", {"pyengine": result(5e-6), "pyengine-fresh": result(8e-6), "numpy": result(1e-4)}),
            one("large", "per-loss", {"pyengine": result(0.3, 9), "numpy": result(0.5, 9), "torch": result(0.27, 9)}),
            one("tiny", "summed", {"pyengine": result(4e-6), "numpy": result(9e-5)}, torch="failed: it was tired"),
        ],
    }


def golden(name: str, written: str) -> None:
    """Delete the file to have it written anew."""
    path = GOLDEN / name
    if not path.exists():
        path.write_text(written + "\n", encoding="utf-8")
        pytest.fail(f"{path.name} was not there; look at what was written")
    assert written + "\n" == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "render"),
    [("bench_full.md", table.full), ("bench_summary.md", table.summary), ("bench_terminal.txt", terminal.plain)],
)
def test_the_tables_are_golden(name: str, render: Any) -> None:
    golden(name, "\n".join(line.rstrip() for line in render(example()).splitlines()))


def test_a_loss_is_called_a_loss() -> None:
    name, ratio = table.fastest_peer(example()["contests"][1]) or ("", 1.0)
    assert (name, table.digits(ratio)) == ("torch", "0.90")
    assert "PyTorch is faster: 1.11 times as fast as pyengine." in terminal.plain(example())


def test_a_busy_machine_is_said() -> None:
    held = example()
    held["machine"]["load_before"] = 1.5
    assert "mean little" in terminal.plain(held)
    assert "mean little" in table.full(held)


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_picture_is_drawn_and_is_the_same_each_time(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", exc_type=ImportError)
    for name in ("one", "two"):
        plot.save(example(), tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


def publish() -> Any:
    spec = importlib.util.spec_from_file_location("publish", ROOT / "bench/publish.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readmes_show_what_the_committed_results_render_to() -> None:
    module = publish()
    for path, block in module.blocks().items():
        text = path.read_text(encoding="utf-8")
        assert text == module.placed(text, block), f"run: python bench/publish.py ({path.name} differs)"
    assert module.BEGIN in (ROOT / "bench/README.md").read_text(encoding="utf-8")


def test_publishing_places_the_newest_result_between_the_markers(tmp_path: Path) -> None:
    module = publish()
    older = example()
    older["machine"]["date"] = "2025-01-01T00:00:00Z"
    (tmp_path / "b.json").write_text(json.dumps(older), encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(example()), encoding="utf-8")
    held = module.results(tmp_path)
    assert list(held) == ["b.json", "a.json"]
    assert "bench/results/a.json" in module.newest(held)
    assert module.everything(held).index("### a") < module.everything(held).index("### b")
    assert module.newest({}) == ""
    text = f"before\n{module.BEGIN}old\n{module.END}\nafter\n"
    assert module.placed(text, "new\n") == text.replace("old", "new")
    assert module.placed("no markers\n", "new\n") == "no markers\n"


# ------------------------------------------------------------------------------------------------------- command line


def test_the_command_prints_tables_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    assert cli.run_bench(["tiny"], "summed", "numpy", threads=1, seconds=0.0, json_path=path) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("tiny, summed")
    assert terminal.plain(json.loads(path.read_text(encoding="utf-8")), terminal.WIDEST) + "\n" == printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((["huge"], "both", "auto"), "`size` is 'huge'"),
        ((["tiny"], "neither", "auto"), "`task`"),
        ((["tiny"], "both", "theano"), "`peers`"),
    ],
)
def test_wrong_names_fail(arguments: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_bench(*arguments) == cli.WRONG_USAGE
    assert said in capsys.readouterr().err


def test_wrong_dtype_or_folder_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_bench(["tiny"], "both", "auto", dtype="float16") == cli.WRONG_USAGE
    assert "`dtype` is 'float16'; expected float32, float64" in capsys.readouterr().err
    assert cli.run_bench(["tiny"], "both", "auto", json_path=tmp_path / "none" / "r.json") == cli.WRONG_USAGE
    assert "no folder" in capsys.readouterr().err


def test_names_by_commas_come_in_their_order() -> None:
    assert cli._chosen("size", "small,tiny", list(SIZES), "all") == ["tiny", "small"]
    assert cli._chosen("size", "all", list(SIZES), "all") == list(SIZES)
    assert HEADS == ("a", "b")
