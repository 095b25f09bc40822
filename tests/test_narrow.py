"""Witnesses in bfloat16, float16 and TF32: correctly rounded computations pass, PyTorch's among them; faults do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import pyengine as pe
from pyengine.checks.staged.recording import recorded
from pyengine.rounding.formats import FORMATS
from pyengine.rounding.storage import TF32, nearest

BATCH = 48
FORMS = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
NET = pe.Network(
    32,
    [pe.Dense(64, "relu"), pe.Dense(48, "tanh")],
    {
        "a": pe.Head([pe.Dense(10)], loss="softmax_cross_entropy"),
        "b": pe.Head([pe.Dense(40, "sigmoid"), pe.Dense(3)], loss="mse", weight=0.3),
    },
)


def rounded(a: Any, name: str) -> Any:
    into = TF32 if name == "tf32" else FORMATS[name]
    return nearest(np.asarray(a, np.float64), into).astype(np.float32)


def problem(name: str) -> tuple[Any, Any, dict[str, Any]]:
    rng = np.random.default_rng(7)
    params = {k: rounded(v, name) for k, v in NET.init(seed=3).items()}
    x = rounded(rng.standard_normal((BATCH, 32)), name)
    return params, x, {"a": rng.integers(0, 10, BATCH), "b": rounded(rng.standard_normal((BATCH, 3)), name)}


def in_format(name: str, change: Any = None) -> tuple[Any, ...]:
    """Parameters, x, targets and the witnesses of a computation that rounds every result to the format."""
    params, x, targets = problem(name)

    def tamper(place: Any, value: Any, operands: Any) -> Any:
        value = value if change is None else change(place, value, operands)
        return rounded(value, name)

    witnesses = recorded(NET, params, x, targets, tamper=tamper)
    return params, x, targets, kept_as(witnesses, FORMS[name])


def kept_as(w: pe.Witnesses, dtype: Any) -> pe.Witnesses:
    def cast(named: Any) -> dict[str, Any]:
        return {k: v.astype(dtype) for k, v in named.items()}

    def backward(one: Any) -> pe.Backward:
        return pe.Backward(cast(one.dh), cast(one.dz), cast(one.gradient))

    return replace(
        w,
        z=cast(w.z),
        h=cast(w.h),
        outputs=cast(w.outputs),
        per_loss={k: backward(one) for k, one in w.per_loss.items()},
        summed=None if w.summed is None else backward(w.summed),
    )


def verified(name: str, change: Any = None) -> Any:
    params, x, targets, witnesses = in_format(name, change)
    dtype = FORMS[name]
    narrow = {k: v.astype(dtype) for k, v in params.items()}
    return pe.verify_witnesses(NET, narrow, x.astype(dtype), targets, witnesses)


@pytest.mark.parametrize("name", FORMS)
def test_a_correctly_rounded_computation_is_certified(name: str) -> None:
    report = verified(name)
    assert report.verdict == "CERTIFIED", report
    assert report.dtype == name
    # Not vacuous: the roundings that happen come close to what is allowed.
    assert max(stage.ratio for stage in report.stages) > 0.9


TINY_WEIGHT = {"bfloat16": 2.0**-112, "float16": 2.0**-6}
"""The weight of both losses with which part of the gradients of their sum is subnormal in the format."""


def flushed(name: str, least: float, *, declared: bool) -> Any:
    """The report on a computation that flushes to 0 what is below ``least`` times the smallest normal number."""
    heads = {k: replace(head, weight=TINY_WEIGHT[name]) for k, head in NET.heads.items()}
    net = pe.Network(NET.n_in, NET.trunk, heads)
    params, x, targets = problem(name)
    vanished = []

    def tamper(place: Any, value: Any, operands: Any) -> Any:
        value = rounded(value, name)
        small = np.abs(value) < least * FORMATS[name].smallest_normal
        vanished.append(bool((small & (value != 0.0)).any()))
        return np.where(small, np.float32(0.0), value)

    witnesses = kept_as(recorded(net, params, x, targets, tamper=tamper), FORMS[name])
    assert any(vanished)
    return pe.verify_witnesses(net, params, x, targets, witnesses, flush_to_zero=declared)


@pytest.mark.parametrize("name", FORMS)
def test_subnormal_numbers_may_vanish_where_that_is_declared(name: str) -> None:
    report = flushed(name, 1.0, declared=True)
    assert report.verdict == "CERTIFIED", report.answer


# In bfloat16, whose smallest numbers are float32's, every product of a sum may vanish too.
@pytest.mark.parametrize(
    ("name", "least", "declared"),
    [("bfloat16", 1.0, False), ("float16", 1.0, False), ("bfloat16", 2.0**10, True), ("float16", 16.0, True)],
)
def test_numbers_that_vanish_undeclared_or_far_above_the_smallest_normal_are_refuted(
    name: str, least: float, declared: bool
) -> None:
    assert flushed(name, least, declared=declared).verdict == "REFUTED"


def ulps(place: Any, value: Any, operands: Any) -> Any:
    return value * (1.0 + 2.0**-6) if place.part == "gradient" and place.key == "trunk.0.weight" else value


def a_quarter_of_a_rounding(place: Any, value: Any, operands: Any) -> Any:
    return value * (1.0 + 2.0**-10) if place.part == "gradient" and place.key == "trunk.0.weight" else value


def missing_sample(place: Any, value: Any, operands: Any) -> Any:
    if place.part != "gradient" or place.key != "trunk.1.weight":
        return value
    dz, h = operands
    return dz[1:].T @ h[1:]


def missing_sample_of_the_bias(place: Any, value: Any, operands: Any) -> Any:
    return operands[0][1:].sum(axis=0) if place.part == "gradient" and place.key == "trunk.1.bias" else value


def wrong_mean(place: Any, value: Any, operands: Any) -> Any:
    return value * (BATCH / (BATCH - 4.0)) if place.part == "dh" and place.key == "heads.b.1" else value


def missing_bias(place: Any, value: Any, operands: Any) -> Any:
    return operands[0] @ operands[1].T + 0.25 if place.part == "z" and place.key == "trunk.1" else value


def stale_mask(place: Any, value: Any, operands: Any) -> Any:
    return np.roll(operands[1], 1, axis=0) * operands[0] if place.part == "dz" and place.key == "trunk.0" else value


def wrong_weight(place: Any, value: Any, operands: Any) -> Any:
    return value * 1.1 if place.of == "summed" and place.key == "heads.b.1" and place.part == "dh" else value


def narrow_sums(name: str) -> Any:
    """Partial sums kept in the format, too: what an accumulator that is too narrow does."""

    def change(place: Any, value: Any, operands: Any) -> Any:
        if place.part != "gradient" or place.key != "trunk.0.weight":
            return value
        dz, h = operands
        total = np.zeros(value.shape, np.float32)
        for i in range(len(dz)):
            total = rounded(total + dz[i][:, None] * h[i][None], name)
        return total

    return change


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("fault", "where"),
    [
        (ulps, ".gradient['trunk.0.weight']"),
        (missing_sample, ".gradient['trunk.1.weight']"),
        (missing_sample_of_the_bias, ".gradient['trunk.1.bias']"),
        (wrong_mean, "per_loss['b'].dh['heads.b.1']"),
        (missing_bias, "z['trunk.1']"),
        (stale_mask, ".dz['trunk.0']"),
        (wrong_weight, "summed.dh['heads.b.1']"),
        ("narrow sums", ".gradient['trunk.0.weight']"),
    ],
)
def test_faults_in_a_narrow_format_are_refuted_where_they_are(name: str, fault: Any, where: str) -> None:
    report = verified(name, narrow_sums(name) if fault == "narrow sums" else fault)
    assert report.verdict == "REFUTED", report
    assert where in report.first_failure.name


def test_a_gradient_that_is_scaled_by_a_quarter_of_a_rounding_is_refuted() -> None:
    report = verified("bfloat16", a_quarter_of_a_rounding)
    assert report.verdict in {"REFUTED", "REFUTED_STATISTICAL"}, report
    assert "gradient['trunk.0.weight']" in report.first_failure.name


# ---------------------------------------------------------------------------------------------------------------- TF32


def by_tf32(digits: str) -> tuple[Any, ...]:
    """Products whose operands are rounded, all else in float32."""
    rng = np.random.default_rng(11)
    params, x = NET.init(seed=3), rng.standard_normal((BATCH, 32), np.float32)
    targets = {"a": rng.integers(0, 10, BATCH), "b": rng.standard_normal((BATCH, 3), np.float32)}

    def tamper(place: Any, value: Any, operands: Any) -> Any:
        if place.part == "z":
            product = rounded(operands[0], digits) @ rounded(operands[1], digits).T
            return product + operands[2] if len(operands) > 2 else product
        if place.part == "gradient" and len(operands) == 2:
            return rounded(operands[0], digits).T @ rounded(operands[1], digits)
        if place.part == "dh" and len(operands) == 2 and place.key in {"trunk.0", "heads.b.0"}:
            return rounded(operands[0], digits) @ rounded(operands[1], digits)
        return value

    return params, x, targets, recorded(NET, params, x, targets, tamper=tamper)


def test_declared_tf32_is_certified_and_undeclared_is_refuted() -> None:
    case = by_tf32("tf32")
    report = pe.verify_witnesses(NET, *case, tf32=True)
    assert report.verdict == "CERTIFIED", report
    assert report.dtype == "tf32"
    assert pe.verify_witnesses(NET, *case).verdict == "REFUTED"


def test_bfloat16_products_that_are_declared_as_tf32_are_refuted() -> None:
    assert not pe.verify_witnesses(NET, *by_tf32("bfloat16"), tf32=True).ok


# ------------------------------------------------------------------------------------------------------------- PyTorch


class Model(torch.nn.Module):
    def __init__(self, activation: Any) -> None:
        super().__init__()
        self.trunk = torch.nn.Sequential(torch.nn.Linear(24, 96), activation, torch.nn.Linear(96, 40), torch.nn.Tanh())
        self.a, self.b = torch.nn.Linear(40, 10), torch.nn.Linear(40, 3)

    def forward(self, x: Any) -> Any:
        h = self.trunk(x)
        return {"a": self.a(h), "b": self.b(h)}


def torch_case(activation: Any, regression: Any) -> tuple[Any, ...]:
    torch.manual_seed(5)
    targets = {"a": torch.randint(10, (BATCH,)), "b": torch.randn(BATCH, 3)}
    losses = {"a": torch.nn.CrossEntropyLoss(label_smoothing=0.1), "b": regression}
    return Model(activation), torch.randn(BATCH, 24), targets, losses, {"a": 1.0, "b": 0.3}


def in_bfloat16(model: Any, x: Any, targets: Any, losses: Any, weights: Any) -> tuple[Any, ...]:
    narrow = {k: v.bfloat16() if v.is_floating_point() else v for k, v in targets.items()}
    return model.bfloat16(), x.bfloat16(), narrow, losses, weights


CASES = [
    (torch.nn.ReLU(), torch.nn.MSELoss()),
    (torch.nn.Sigmoid(), torch.nn.HuberLoss(delta=0.7)),
    (torch.nn.SiLU(), torch.nn.L1Loss(reduction="sum")),
    (torch.nn.GELU(), torch.nn.BCEWithLogitsLoss()),
    (torch.nn.Softplus(), torch.nn.SmoothL1Loss(beta=0.5)),
    (torch.nn.ELU(), torch.nn.MSELoss(reduction="sum")),
]


@pytest.mark.parametrize(("activation", "regression"), CASES)
def test_pytorch_in_bfloat16_is_certified(activation: Any, regression: Any) -> None:
    case = torch_case(activation, regression)
    if isinstance(regression, torch.nn.BCEWithLogitsLoss):
        case[2]["b"] = (case[2]["b"] > 0).float()
    report = pe.verify(*in_bfloat16(*case))
    assert report.verdict == "CERTIFIED", report
    assert "bfloat16" in report.answer
    assert report.staged is not None
    assert report.staged.dtype == "bfloat16"


def test_pytorch_under_autocast_is_certified() -> None:
    case = torch_case(torch.nn.ReLU(), torch.nn.MSELoss())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = pe.verify(*case)
    assert report.verdict == "CERTIFIED", report
    assert report.staged is not None
    assert report.staged.dtype == "bfloat16"


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("factor", [1.0 + 2.0**-6, BATCH / (BATCH - 1.0), 0.0])
def test_a_wrong_gradient_of_pytorch_in_bfloat16_is_refuted(factor: float, autocast: bool) -> None:
    case = torch_case(torch.nn.ReLU(), torch.nn.MSELoss())
    case = case if autocast else in_bfloat16(*case)
    case[0].trunk[2].weight.register_hook(lambda g: g * factor)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        report = pe.verify(*case)
    assert report.verdict == "REFUTED", report
    assert report.staged is not None
    assert report.staged.first_failure is not None
    assert "gradient['trunk.1.weight']" in report.staged.first_failure.name


# ------------------------------------------------------------------------------------------------------------ refusals


def test_black_box_in_bfloat16_fails() -> None:
    with pytest.raises(ValueError, match="`mode` is 'blackbox' for bfloat16"):
        pe.verify(*in_bfloat16(*torch_case(torch.nn.ReLU(), torch.nn.MSELoss())), mode="blackbox")


def test_formats_that_do_not_go_together_fail() -> None:
    params, x, targets, witnesses = in_format("bfloat16")
    half = {k: v.astype(np.float16) for k, v in params.items()}
    with pytest.raises(ValueError, match="`params` are float16 beside witnesses in bfloat16"):
        pe.verify_witnesses(NET, half, x, targets, witnesses)
    with pytest.raises(ValueError, match="`tf32` is True for bfloat16"):
        pe.verify_witnesses(NET, params, x, targets, witnesses, tf32=True)
    with pytest.raises(ValueError, match="`loss_dtype` is 'float16'"):
        pe.verify_witnesses(NET, params, x, targets, witnesses, loss_dtype="float16")
    mixed = replace(witnesses, h={**witnesses.h, "trunk.1": witnesses.h["trunk.1"].astype(np.float16)})
    with pytest.raises(TypeError, match="has dtype float16"):
        pe.verify_witnesses(NET, params, x, targets, mixed)


def a_few_steps_off(place: Any, value: Any, operands: Any) -> Any:
    return value * (1.0 + 2.0**-6) if place.part == "h" and place.key == "trunk.1" else value


def far_off(place: Any, value: Any, operands: Any) -> Any:
    return value * 1.1 if place.part == "h" and place.key == "trunk.1" else value


def bias_summed_in_bfloat16(place: Any, value: Any, operands: Any) -> Any:
    if place.part != "gradient" or place.key != "trunk.1.bias":
        return value
    total = np.zeros(value.shape, np.float32)
    for row in operands[0]:
        total = rounded(total + row, "bfloat16")
    return total


def granted(change: Any) -> Any:
    params, x, targets, witnesses = in_format("bfloat16", change)
    narrow = {k: v.astype(ml_dtypes.bfloat16) for k, v in params.items()}
    return pe.verify_witnesses(NET, narrow, x, targets, witnesses, narrow_steps=True, narrow_sums=True)


def test_steps_and_sums_that_are_stored_hold_where_that_is_said_and_are_refuted_elsewhere() -> None:
    for change in (a_few_steps_off, bias_summed_in_bfloat16):
        assert granted(change).verdict == "CERTIFIED"
        assert verified("bfloat16", change).verdict == "REFUTED"


def test_faults_beyond_stored_steps_are_refuted() -> None:
    assert granted(far_off).first_failure.name == "h['trunk.1']"
    assert granted(missing_bias).first_failure.name == "z['trunk.1']"
    assert granted(stale_mask).first_failure.name.endswith(".dz['trunk.0']")
