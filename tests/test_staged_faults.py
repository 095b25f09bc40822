"""What the staged check refuses, and that it names the first operation that is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from problems import Problem, plain
from refusals import refused
from staged_runs import everyday, torch_witnesses, verdict_of, with_change

import pyengine as pe
from pyengine.checks.staged.recording import recorded
from pyengine.checks.staged.statistics import PROJECTED
from pyengine.rounding import unit_roundoff

Array = np.ndarray[Any, Any]


def everyday_witnesses(size: str, dtype: str = "float32", **options: Any) -> tuple[Problem, pe.Witnesses]:
    """Both, after the truth was seen to pass."""
    given = everyday(size, dtype, **options)
    witnesses = torch_witnesses(given)
    assert verdict_of(given, witnesses).verdict == "CERTIFIED"
    return given, witnesses


def refuted(given: Problem, witnesses: pe.Witnesses, first: str) -> pe.StagedReport:
    """Assert that the report is a refusal whose first failing stage is ``first``."""
    report = verdict_of(given, witnesses)
    assert report.verdict in {"REFUTED", "REFUTED_STATISTICAL"}
    assert not report
    assert report.first_failure is not None
    assert report.first_failure.name == first, report.answer
    assert str(report).splitlines()[3].startswith(first), "the first failing stage stands first in the table"
    with pytest.raises(pe.GradientMismatch, match="is wrong, and its inputs are not to blame"):
        report.raise_for_failure()
    return report


# ------------------------------------------------------------------------------------------------------------- scales


@pytest.mark.parametrize(("size", "factor"), [("tiny", 1 + 1e-6), ("small", 1 + 3e-7), ("medium", 1 + 3e-7)])
@pytest.mark.parametrize("one", ["a", "summed"])
def test_every_gradient_scaled_by_little_is_refuted(size: str, factor: float, one: str) -> None:
    given, witnesses = everyday_witnesses(size)
    held = witnesses.summed if one == "summed" else witnesses.per_loss[one]
    assert held is not None
    changed = replace(
        held, gradient={name: (value * factor).astype(np.float32) for name, value in held.gradient.items()}
    )
    wrong = (
        replace(witnesses, summed=changed)
        if one == "summed"
        else replace(witnesses, per_loss={**witnesses.per_loss, one: changed})
    )
    report = verdict_of(given, wrong)
    assert report.verdict == "REFUTED_STATISTICAL"
    failed = {stage.name for stage in report.staged.failures}
    path = "summed" if one == "summed" else f"per_loss['{one}']"
    # A gradient of few entries has little to average over.
    seen = {
        stage.name
        for stage in report.stages
        if stage.scale is not None
        and stage.name.startswith(f"{path}.gradient")
        and factor - 1 > 2 * PROJECTED * stage.scale.deviation
    }
    assert f"{path}.gradient['trunk.0.weight']" in seen
    assert failed >= seen
    assert all(name.startswith(f"{path}.gradient") for name in failed)


def test_one_scaled_row_of_a_gradient_is_refuted() -> None:
    given, witnesses = everyday_witnesses("medium")
    assert witnesses.summed is not None
    value = witnesses.summed.gradient["trunk.1.weight"].copy()
    value[17] *= np.float32(1 + 3e-6)
    wrong = with_change(witnesses, "summed", "gradient", "trunk.1.weight", value)
    report = refuted(given, wrong, "summed.gradient['trunk.1.weight']")
    assert report.first_failure is not None
    assert "row" in report.first_failure.unexplained


def test_a_float64_gradient_scaled_by_1e_14_is_refuted() -> None:
    given, witnesses = everyday_witnesses("small", "float64")
    assert witnesses.summed is not None
    value = witnesses.summed.gradient["trunk.0.weight"] * (1 + 1e-14)
    wrong = with_change(witnesses, "summed", "gradient", "trunk.0.weight", value)
    refuted(given, wrong, "summed.gradient['trunk.0.weight']")


# ---------------------------------------------------------------------------------------------------- wrong programs


def rerun(given: Problem, **changes: Any) -> pe.Witnesses:
    """Witnesses of a program that computes something else."""
    return torch_witnesses(given._replace(**changes))


def without_a_sample(given: Problem) -> pe.Witnesses:
    weights = np.ones(len(given.x))
    weights[3] = 0.0
    return rerun(given, sample_weight=weights)


def wrong_divisor(given: Problem) -> pe.Witnesses:
    n = len(given.x)
    return rerun(given, sample_weight=np.full(n, n / (n - 1)))


def with_heads(given: Problem, **options: Any) -> pe.Witnesses:
    """Another network's witnesses: the head ``a`` with other options."""
    head = given.net.heads["a"]
    loss = replace(head.loss, **{key: value for key, value in options.items() if key != "weight"})
    heads = {**given.net.heads, "a": pe.Head(head.layers, loss, options.get("weight", head.weight))}
    net = pe.Network(given.net.n_in, given.net.trunk, heads)
    return torch_witnesses(given._replace(net=net))


@pytest.mark.parametrize("size", ["tiny", "small", "medium"])
def test_a_missing_sample_a_wrong_divisor_and_smoothed_labels_are_refuted_at_the_loss(size: str) -> None:
    given, _ = everyday_witnesses(size)
    last = f"heads.a.{len(given.net.head_layers['a']) - 1}"
    for wrong in (without_a_sample(given), wrong_divisor(given)):
        refuted(given, wrong, f"per_loss['a'].dh['{last}']")
    refuted(given, with_heads(given, label_smoothing=1e-6), f"per_loss['a'].dh['{last}']")


@pytest.mark.parametrize("size", ["tiny", "small", "medium"])
def test_another_loss_weight_is_refuted_where_the_sum_begins(size: str) -> None:
    given, _ = everyday_witnesses(size)
    last = f"heads.a.{len(given.net.head_layers['a']) - 1}"
    refuted(given, with_heads(given, weight=1.001), f"summed.dh['{last}']")


@pytest.mark.parametrize("size", ["tiny", "small", "medium"])
def test_a_missing_bias_is_refuted_in_its_layer(size: str) -> None:
    given, _ = everyday_witnesses(size)
    params = {**given.params, "trunk.0.bias": np.zeros_like(given.params["trunk.0.bias"])}
    refuted(given, rerun(given, params=given.net.parameters(params)), "z['trunk.0']")


def test_a_stale_mask_is_refuted_at_its_slope() -> None:
    given, witnesses = everyday_witnesses("small")
    dh, dz = witnesses.per_loss["a"].dh["trunk.1"], witnesses.per_loss["a"].dz["trunk.1"]
    stale = np.roll(np.asarray(witnesses.z["trunk.1"]) > 0, 1, axis=0) * dh
    assert not np.array_equal(stale, dz)
    refuted(given, with_change(witnesses, "a", "dz", "trunk.1", stale), "per_loss['a'].dz['trunk.1']")


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_one_array_on_both_sides_of_an_activation_is_refuted(activation: str) -> None:
    given, witnesses = everyday_witnesses("tiny", activation=activation)
    assert witnesses.summed is not None
    same = replace(witnesses, h={**witnesses.h, "trunk.0": witnesses.z["trunk.0"]})
    refuted(given, same, "h['trunk.0']")
    same = with_change(witnesses, "summed", "dz", "trunk.0", witnesses.summed.dh["trunk.0"])
    refuted(given, same, "summed.dz['trunk.0']")


def test_gelu_by_tanh_is_not_gelu() -> None:
    given, _ = everyday_witnesses("small", activation="gelu")
    refuted(given, torch_witnesses(everyday("small", activation="gelu_tanh")), "h['trunk.0']")


def test_weight_decay_in_a_gradient_is_refuted() -> None:
    given, witnesses = everyday_witnesses("small")
    assert witnesses.summed is not None
    value = witnesses.summed.gradient["trunk.0.weight"] + np.float32(1e-6) * given.params["trunk.0.weight"]
    wrong = with_change(witnesses, "summed", "gradient", "trunk.0.weight", value)
    refuted(given, wrong, "summed.gradient['trunk.0.weight']")


def bfloat16(a: Array) -> Array:
    return a.astype(ml_dtypes.bfloat16).astype(np.float32)


def tf32(a: Array) -> Array:
    """Ten bits of significand behind the leading one, rounded to nearest."""
    bits = a.view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.mark.parametrize("narrow", [bfloat16, tf32])
@pytest.mark.parametrize("size", ["tiny", "small", "medium"])
def test_a_product_in_lower_precision_is_refuted(size: str, narrow: Any) -> None:
    given, witnesses = everyday_witnesses(size)
    dz, w = np.asarray(witnesses.per_loss["a"].dz["trunk.0"]), given.params["trunk.0.weight"]
    value = np.ascontiguousarray(narrow(np.ascontiguousarray(dz.T)) @ narrow(given.x))
    assert value.shape == w.shape
    wrong = with_change(witnesses, "a", "gradient", "trunk.0.weight", value)
    refuted(given, wrong, "per_loss['a'].gradient['trunk.0.weight']")


def test_a_missing_head_is_refuted_where_the_heads_meet() -> None:
    given, witnesses = everyday_witnesses("small")
    only = witnesses.per_loss["a"].dh["trunk.1"]
    refuted(given, with_change(witnesses, "summed", "dh", "trunk.1", only), "summed.dh['trunk.1']")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("size", ["tiny", "medium"])
def test_numbers_that_are_not_finite_are_refuted_everywhere(size: str, value: float) -> None:
    given, witnesses = everyday_witnesses(size)
    assert witnesses.summed is not None
    for part, key in (
        ("dh", "trunk.0"),
        ("dz", "trunk.0"),
        ("gradient", "trunk.0.weight"),
        ("gradient", "trunk.0.bias"),
    ):
        array = np.array(getattr(witnesses.summed, part)[key])
        array.flat[-1] = value
        wrong = with_change(witnesses, "summed", part, key, array)
        report = refuted(given, wrong, f"summed.{part}['{key}']")
        assert report.verdict == "REFUTED"
        assert "null" in report.to_json()


# ------------------------------------------------------------------------------------------------- what may differ


def one_relu(x: float, weight: float) -> tuple[Problem, pe.Witnesses]:
    net = pe.Network(1, [pe.Dense(1, "relu", bias=False)], {"a": pe.Head([pe.Dense(1, bias=False)], "mse")})
    ones = {name: np.full(shape, weight, np.float32) for name, shape in net.layout.shapes.items()}
    given = Problem(net, net.parameters(ones), np.full((1, 1), x, np.float32), {"a": np.ones((1, 1), np.float32)})
    witnesses = recorded(*given)
    assert verdict_of(given, witnesses)
    return given, witnesses


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0, 0.3])
def test_a_relu_at_zero_has_one_of_three_derivatives(slope: float) -> None:
    given, witnesses = one_relu(0.0, 0.5)
    for name in ("a", "summed"):
        held = witnesses.summed if name == "summed" else witnesses.per_loss[name]
        assert held is not None
        witnesses = with_change(witnesses, name, "dz", "trunk.0", held.dh["trunk.0"] * np.float32(slope))
    report = verdict_of(given, witnesses)
    stages = {stage.name: stage for stage in report.stages}
    found = stages["summed.dz['trunk.0']"]
    assert found.holds == (slope != 0.3)
    assert found.note.endswith(f"f'(0) = {slope:g}" if slope != 0.3 else "no derivative")


def test_subnormal_numbers_vanish_only_where_that_is_allowed() -> None:
    given, witnesses = one_relu(1e-39, 0.5)
    zero = np.zeros((1, 1), np.float32)
    vanished = replace(witnesses, z={**witnesses.z, "trunk.0": zero}, h={**witnesses.h, "trunk.0": zero})
    refuted(given, vanished, "z['trunk.0']")
    stages = {stage.name: stage for stage in verdict_of(given, vanished, flush_to_zero=True).stages}
    assert stages["z['trunk.0']"].holds
    wrong = replace(vanished, z={**witnesses.z, "trunk.0": zero + np.float32(1e-36)})
    stages = {stage.name: stage for stage in verdict_of(given, wrong, flush_to_zero=True).stages}
    assert not stages["z['trunk.0']"].holds


# ------------------------------------------------------------------------------------------------------------ missing


def test_missing_witnesses_are_inconclusive_and_no_pass() -> None:
    given = plain("float32")
    witnesses = recorded(*given)
    assert witnesses.summed is not None
    gap = {name: value for name, value in witnesses.summed.dz.items() if name != "trunk.1"}
    report = verdict_of(given, replace(witnesses, summed=replace(witnesses.summed, dz=gap)))
    assert report.verdict == "INCONCLUSIVE"
    assert "summed.dz['trunk.1']" in report.staged.unjudged
    with pytest.raises(pe.GradientMismatch, match="INCONCLUSIVE"):
        report.raise_for_failure()


def test_what_is_copied_may_be_missing() -> None:
    given = plain("float32")
    witnesses = recorded(*given)
    without = {name: value for name, value in witnesses.h.items() if name != "trunk.0"}
    assert verdict_of(given, replace(witnesses, h=without))


def test_a_sum_put_together_from_per_loss_gradients_is_judged_as_such(dtype: str) -> None:
    given = plain(dtype)
    witnesses = recorded(*given)
    total: dict[str, Array] = {}
    for name, head in given.net.heads.items():
        for key, value in witnesses.per_loss[name].gradient.items():
            total[key] = total.get(key, 0) + value.dtype.type(head.weight) * value
    combined = replace(witnesses, summed=pe.Backward(gradient=total))
    assert verdict_of(given, combined)
    key = "trunk.1.bias"
    wrong = {**total, key: total[key] * (1 + 16 * unit_roundoff(dtype))}
    wrong[key] = wrong[key].astype(dtype)
    refuted(given, replace(combined, summed=pe.Backward(gradient=wrong)), "summed.gradient['trunk.1.bias']")


# ----------------------------------------------------------------------------------------------------------- refusals


def test_a_record_without_a_backward_pass_fails() -> None:
    given = plain("float32")
    refused(lambda: verdict_of(given, pe.Witnesses()), ValueError, "witnesses", "has neither", "backward pass")
    refused(lambda: verdict_of(given, {}), TypeError, "witnesses", "is of type dict", "pyengine.Witnesses")  # type: ignore[arg-type]


def test_wrong_names_shapes_and_dtypes_fail() -> None:
    given = plain("float32")
    held = recorded(*given)
    z = {**held.z}
    refused(
        lambda: verdict_of(given, replace(held, z={"trunk.9": z["trunk.0"]})), ValueError, "witnesses.z['trunk.9']", ""
    )
    refused(
        lambda: verdict_of(given, replace(held, z={**z, "trunk.0": z["trunk.0"].T})),
        ValueError, "witnesses.z['trunk.0']", "has shape (8, 16)", "(16, 8)",
    )  # fmt: skip
    refused(
        lambda: verdict_of(given, replace(held, z={**z, "trunk.0": z["trunk.0"].astype(float)})),
        TypeError, "witnesses.z['trunk.0']", "has dtype float64", "float32",
    )  # fmt: skip
    refused(
        lambda: verdict_of(given, replace(held, per_loss={"nobody": pe.Backward()})),
        ValueError, "witnesses.per_loss", "unknown key 'nobody'", "digit, ink",
    )  # fmt: skip
