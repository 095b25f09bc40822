"""Gradients from anywhere: correct ones pass, planted faults are caught and named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import textbook
from networks import EVERY_PAIR, Problem, pair, problem
from refusals import refused

import pyengine as pe
from pyengine.batch import checked_batch
from pyengine.checks.blackbox import GradientTests, Program
from pyengine.checks.blackbox.replay import replays, restored
from pyengine.rounding import precision

Gradient = dict[str, np.ndarray[Any, Any]]


def shared_two(batch: int = 64, seed: int = 0, activation: str = "relu", dtype: str = "float32") -> Problem:
    net = pe.Network(
        n_in=12,
        trunk=[pe.Dense(24, activation), pe.Dense(16, "tanh")],
        heads={
            "digit": pe.Head([pe.Dense(10)], "softmax_cross_entropy"),
            "ink": pe.Head([pe.Dense(8, activation), pe.Dense(2)], "mse", weight=0.5),
        },
    )
    return problem(net, dtype, batch=batch, seed=seed, weighted=False, classes=True)


def judged(given: Problem, **gradients: Any) -> pe.Verification:
    net, params, x, targets, weights = given.arguments
    return pe.verify_gradients(net, params, x, targets, weights, **gradients)


def correct(given: Problem) -> pe.Gradients:
    net, params, x, targets, weights = given.arguments
    return net.gradients(params, x, targets, weights)


def combined(given: Problem, coefficients: dict[str, float]) -> Gradient:
    """Σ coefficient·∇loss, computed by the engine in the problem's own precision."""
    heads = {n: pe.Head(h.layers, h.loss, coefficients[n]) for n, h in given.net.heads.items()}
    net = pe.Network(given.net.n_in, given.net.trunk, heads)
    return dict(net.summed_gradient(given.params, given.x, given.targets))


@pytest.mark.parametrize("order", ["blas", "sequential", "reversed"])
@pytest.mark.parametrize(("activation", "loss", "reduction"), EVERY_PAIR[:: len(EVERY_PAIR) // 45])
def test_textbook_in_float32_is_consistent(activation: str, loss: str, reduction: str, order: str) -> None:
    given = pair(activation, loss, reduction, "float32", batch=16)
    g = textbook.gradients(*given.arguments, dtype="float32", style=textbook.Style(order=order))
    report = judged(given, summed=g.summed, per_loss=g.per_loss)
    assert report.verdict == "CONSISTENT", report
    assert report.combination is not None
    assert report.combination.verdict in {"summed", "cannot tell"}, report


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_engine_is_consistent_and_summed(dtype: str, seed: int) -> None:
    given = shared_two(seed=seed, dtype=dtype)
    g = correct(given)
    report = judged(given, summed=g.summed, per_loss=g.per_loss)
    assert report
    assert report.combination is not None
    assert report.combination.verdict == "summed"
    for alpha in report.combination.alpha.values():
        assert alpha.holds(alpha.configured)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("roundings", [32, 2**10, 2**20])
def test_scale_is_caught_and_measured(dtype: str, roundings: int) -> None:
    given = shared_two(dtype=dtype)
    factor = 1.0 + roundings * float(np.finfo(dtype).eps)
    report = judged(given, summed={n: v * v.dtype.type(factor) for n, v in correct(given).summed.items()})
    assert report.verdict == "INCONSISTENT", report
    assert report.combination is not None
    assert report.combination.verdict == "scaled"
    assert report.combination.factor is not None
    # Every element was rounded once more: the factor is known to far better than one rounding of it.
    assert abs(report.combination.factor - factor) <= float(np.finfo(dtype).eps)
    with pytest.raises(pe.GradientMismatch, match="scale"):
        report.raise_for_failure()


@pytest.mark.parametrize(
    ("coefficients", "verdict"),
    [
        ({"digit": 0.5, "ink": 0.25}, "averaged"),
        ({"digit": 0.5, "ink": 1.0}, "weights exchanged"),
        ({"digit": 1.0, "ink": 0.0}, "missing loss"),
        ({"digit": 1.0 / 64, "ink": 0.5 / 64}, "scaled"),
        ({"digit": 1.0, "ink": 0.501}, "other weights"),
    ],
)
def test_combination_is_named(coefficients: dict[str, float], verdict: str) -> None:
    given = shared_two()
    report = judged(given, summed=combined(given, coefficients))
    assert report.verdict == "INCONSISTENT"
    assert report.combination is not None
    assert report.combination.verdict == verdict, report
    if verdict == "scaled":
        assert "divided by the batch, 64, once more" in report.combination.reason


def spoil_element(g: Gradient) -> None:
    g["trunk.0.weight"][3, 4] *= 1.01


def spoil_bias(g: Gradient) -> None:
    g["trunk.1.bias"][:] = 0.0


def spoil_row(g: Gradient) -> None:
    g["trunk.0.weight"][5] *= 1.001


def spoil_head(g: Gradient) -> None:
    g["heads.ink.0.weight"] *= 1.0001


def add_decay(g: Gradient) -> None:
    g["trunk.0.weight"] += 0.001 * shared_two().params["trunk.0.weight"]


def to_bfloat16(g: Gradient) -> None:
    for value in g.values():
        value.view(np.uint32)[...] &= np.uint32(0xFFFF0000)


@pytest.mark.parametrize("fault", [spoil_element, spoil_bias, spoil_row, spoil_head, add_decay, to_bfloat16])
def test_fault_is_caught(fault: Any) -> None:
    given = shared_two()
    g = {name: value.copy() for name, value in correct(given).summed.items()}
    fault(g)
    report = judged(given, summed=g)
    assert report.verdict == "INCONSISTENT", report
    assert not report


def test_logits_that_carry_much_rounding_error_are_warned_of() -> None:
    given = shared_two()
    quiet = judged(given, summed=correct(given).summed)
    assert quiet.warnings == ()
    assert len(quiet.assumptions) == 4
    for name, value in given.params.items():
        if name == "heads.digit.0.weight":
            value *= np.float32(1e6)
    loud = judged(given, summed=correct(given).summed)
    assert len(loud.warnings) == 1
    assert "logits of 'digit'" in loud.warnings[0]
    assert "Warning" in str(loud)
    assert json.loads(loud.to_json())["warnings"] == list(loud.warnings)


def test_missing_sample_is_caught() -> None:
    given = shared_two()
    fewer = replace(given, x=given.x[1:], targets={n: t[1:] for n, t in given.targets.items()})
    assert judged(given, summed=correct(fewer).summed).verdict == "INCONSISTENT"


def test_a_fault_in_one_loss_names_that_loss() -> None:
    given = shared_two()
    per_loss = {n: {p: v.copy() for p, v in g.items()} for n, g in correct(given).per_loss.items()}
    per_loss["ink"]["heads.ink.1.weight"] *= np.float32(1.001)
    report = judged(given, per_loss=per_loss)
    assert [f.verdict for f in report.findings] == ["CONSISTENT", "INCONSISTENT"]
    assert "per_loss['ink']" in report.answer
    assert report.combination is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_inconsistent(value: float) -> None:
    given = shared_two()
    g = {name: v.copy() for name, v in correct(given).summed.items()}
    g["heads.digit.0.bias"][2] = value
    report = judged(given, summed=g)
    assert report.verdict == "INCONSISTENT"
    assert "heads.digit.0.bias" in report.answer
    json.loads(report.to_json())


def test_a_unit_on_the_other_side_of_its_kink_is_found() -> None:
    given = shared_two(batch=8)
    net, params, x, targets, _ = given.arguments
    # Sample 2 puts unit 7 a rounding away from zero: its derivative may be 0 or 1.
    z = x[2].astype(np.float64) @ params["trunk.0.weight"][7].astype(np.float64)
    params["trunk.0.bias"][7] = np.float32(-z)
    style = textbook.Style(flipped=("trunk.0", 2, 7))
    flipped = textbook.gradients(net, params, x, targets, dtype="float32", style=style)
    plain = textbook.gradients(net, params, x, targets, dtype="float32", style=textbook.Style())
    found = [judged(given, summed=g.summed) for g in (flipped, plain)]
    assert [report.verdict for report in found] == ["CONSISTENT", "CONSISTENT"]
    flips = [flip for report in found for flip in report.findings[0].flips]
    assert [(f.layer, f.sample, f.unit) for f in flips] == [("trunk.0", 2, 7)]


def test_a_flip_far_from_the_kink_is_caught() -> None:
    given = shared_two(batch=8)
    style = textbook.Style(flipped=("trunk.0", 2, 7))
    g = textbook.gradients(*given.arguments, dtype="float32", style=style)
    assert judged(given, summed=g.summed).verdict == "INCONSISTENT"


def test_copies_of_a_sample_pass_and_a_fault_among_them_is_caught() -> None:
    given = shared_two(batch=4)
    copies = replace(
        given, x=np.repeat(given.x, 64, axis=0), targets={n: np.repeat(t, 64, axis=0) for n, t in given.targets.items()}
    )
    g = textbook.gradients(*copies.arguments, dtype="float32", style=textbook.Style(order="sequential"))
    assert judged(copies, summed=g.summed).verdict == "CONSISTENT"
    bad = {name: value * np.float32(1.01) for name, value in g.summed.items()}
    assert judged(copies, summed=bad).verdict == "INCONSISTENT"


def test_parallel_losses_cannot_be_told_apart() -> None:
    head = pe.Head([pe.Dense(1)], "mse")
    net = pe.Network(5, [pe.Dense(6, "tanh")], {"a": head, "b": head})
    given = problem(net, "float32", batch=16, weighted=False)
    for part in ("weight", "bias"):
        given.params[f"heads.b.0.{part}"][...] = given.params[f"heads.a.0.{part}"]
    given.targets["b"][...] = given.targets["a"]
    report = judged(given, summed=correct(given).summed)
    assert report.verdict == "CONSISTENT"
    assert report.combination is not None
    assert report.combination.verdict == "cannot tell"


def test_a_detached_loss_shows_in_reach() -> None:
    given = shared_two()
    g = {name: value.copy() for name, value in correct(given).per_loss["ink"].items()}
    for name, value in g.items():
        if name.startswith("trunk."):
            value[...] = 0.0
    report = judged(given, per_loss={"ink": g})
    assert report.verdict == "INCONSISTENT"
    assert {how for name, how in report.reach["ink"].items() if name.startswith("trunk.")} == {"detached"}


def behind(factor: float) -> Problem:
    """A trunk that the second loss reaches through two layers with weights of this size."""
    heads = {"a": pe.Head([pe.Dense(2)], "mse"), "b": pe.Head([pe.Dense(3, bias=False), pe.Dense(2)], "mse")}
    given = problem(pe.Network(5, [pe.Dense(6, "tanh")], heads), "float32", batch=16, weighted=False)
    for layer in (0, 1):
        given.params[f"heads.b.{layer}.weight"][...] *= factor
    return given


def test_a_gradient_that_underflows_is_not_called_detached() -> None:
    given = behind(1e-25)
    exact = pe.reference.gradients(*given.arguments).per_loss["b"]
    own = correct(given).per_loss["b"]
    assert (exact["trunk.0.weight"] != 0.0).any()
    assert not own["trunk.0.weight"].any()
    report = judged(given, per_loss={"b": own})
    assert report.verdict == "CONSISTENT", report
    assert report.reach["b"]["trunk.0.weight"] == "vanished"


def test_a_tiny_gradient_that_the_format_holds_is_called_detached_where_it_is_zero() -> None:
    given = behind(1e-15)
    own = {name: value.copy() for name, value in correct(given).per_loss["b"].items()}
    assert own["trunk.0.weight"].any()
    own["trunk.0.weight"][...] = 0.0
    report = judged(given, per_loss={"b": own})
    assert report.verdict == "INCONSISTENT"
    assert report.reach["b"]["trunk.0.weight"] == "detached"


@pytest.mark.parametrize(("activation", "loss", "reduction"), EVERY_PAIR[:: len(EVERY_PAIR) // 60])
def test_amplitudes_are_the_derivatives_of_the_projection(activation: str, loss: str, reduction: str) -> None:
    """Against central differences of the program's own gradient along the weights: the tangent pass is its adjoint."""
    given = pair(activation, loss, reduction, batch=5)
    net, params, x, targets, weights = given.arguments
    batch = checked_batch(x, targets, weights, n_in=net.n_in, heads=net.heads, dtype=params.dtype)
    program = Program(net, params, batch)
    loss_weights = {name: head.weight for name, head in net.heads.items()}
    back = program.backward(loss_weights)
    rng = np.random.default_rng(1)
    direction = {name: rng.normal(size=value.shape) for name, value in params.items()}
    found = program.amplitudes(back, direction)
    # ∂⟨R, g⟩/∂b is Σ over the samples of the amplitude of z.
    for visit in program.visits():
        if not visit.layer.bias:
            continue
        name, step = f"{visit.layer.name}.bias", float(np.cbrt(np.finfo(float).eps))
        sides = []
        for sign in (1.0, -1.0):
            moved = net.parameters(params)
            moved[name][0] += sign * step
            g = Program(net, moved, batch).backward(loss_weights).gradient
            sides.append(sum(float((direction[n] * g[n]).sum()) for n in direction))
        measured = (sides[0] - sides[1]) / (2.0 * step)
        # A central difference errs by about step² and by eps/step, relative to the numbers that it subtracts.
        size = abs(sides[0]) + abs(measured) + float(np.abs(found.z[visit.layer.name]).sum())
        assert abs(measured - found.z[visit.layer.name][:, 0].sum()) <= 100.0 * size * step**2


def test_program_is_the_reference() -> None:
    given = shared_two(dtype="float64")
    net, params, x, targets, _ = given.arguments
    batch = checked_batch(x, targets, None, n_in=net.n_in, heads=net.heads, dtype=params.dtype)
    found = Program(net, params, batch).backward({name: head.weight for name, head in net.heads.items()}).gradient
    exact = pe.reference.gradients(net, params, x, targets)
    bounds = pe.rounding.gradient_bounds(net, params, x, targets, against="float64")
    for name in params:
        assert pe.rounding.worst_ratio(name, found[name], exact.summed[name], bounds.summed[name]).holds


def test_replays_return_to_the_original_order() -> None:
    given = shared_two(dtype="float64")
    net, params, x, targets, _ = given.arguments
    batch = checked_batch(x, targets, None, n_in=net.n_in, heads=net.heads, dtype=params.dtype)
    bounds = pe.rounding.gradient_bounds(net, params, x, targets, against="float64")
    expected = pe.reference.gradients(net, params, x, targets).summed
    found = [restored(g.summed, order) for g, order in replays(net, params, batch, 0)]
    assert any((a["trunk.0.weight"] != found[0]["trunk.0.weight"]).any() for a in found[1:])
    for gradient in found:
        for name in params:
            assert pe.rounding.worst_ratio(name, gradient[name], expected[name], bounds.summed[name]).holds


def test_predicted_deviation_covers_the_observed_and_is_of_its_size() -> None:
    """Calibration: over random networks, T/σ of correct float32 gradients stays in reach of a standard normal's."""
    seen = []
    for seed in range(20):
        given = shared_two(seed=seed)
        net, params, x, targets, _ = given.arguments
        batch = checked_batch(x, targets, None, n_in=net.n_in, heads=net.heads, dtype=params.dtype)
        tests = GradientTests(Program(net, params, batch), {"digit": 1.0, "ink": 0.5}, precision("float32"))
        difference = {n: correct(given).summed[n] - tests.truth[n] for n in tests.names}
        for test in tests.tests:
            if test.statistic.startswith("random"):
                sigma = tests.deviation(test.direction)
                t = sum(float((test.direction[n] * difference[n]).sum()) for n in tests.names)
                seen.append(t / sigma)
    rms = float(np.sqrt(np.mean(np.square(seen))))
    # 60 statistics: a variance right to within its model (sequential sums; blocked ones err less) is between these.
    assert 1.0 / 8.0 < rms < 1.0 + 3.0 / np.sqrt(2.0 * len(seen))


def test_results_can_be_kept(tmp_path: Path) -> None:
    given = shared_two()
    report = judged(given, summed=correct(given).summed)
    data = json.loads(report.to_json())
    assert data["schema_version"] == 1
    assert data["ok"] is True
    assert len(data["parameters"]) == len(given.params)
    page = tmp_path / "report.html"
    report.to_html(page)
    assert "CONSISTENT" in page.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [page]
    with pytest.raises(FileNotFoundError, match="folder"):
        report.to_html(tmp_path / "none" / "report.html")
    assert report.plot().axes
    assert "trunk.0.weight" in str(report)


def test_without_gradients_fails() -> None:
    refused(lambda: judged(shared_two()), ValueError, "summed", "missing", "at least one")


def test_wrong_gradients_fail() -> None:
    given = shared_two()
    g = dict(correct(given).summed)
    fewer = {n: v for n, v in g.items() if n != "trunk.0.bias"}
    turned = {**g, "trunk.0.weight": g["trunk.0.weight"].T}
    counts = {**g, "trunk.0.bias": np.zeros(24, np.int64)}
    refused(lambda: judged(given, summed=fewer), ValueError, "summed", "lacks trunk.0.bias", "trunk.1.weight")
    refused(lambda: judged(given, summed=turned), ValueError, "summed['trunk.0.weight']", "(12, 24)", "(24, 12)")
    refused(lambda: judged(given, summed=counts), TypeError, "summed['trunk.0.bias']", "int64", "floating")
    refused(lambda: judged(given, per_loss={"colour": g}), ValueError, "per_loss", "colour", "digit")
    refused(lambda: judged(given, summed=g["trunk.0.bias"]), TypeError, "summed", "ndarray", "parameter names")
