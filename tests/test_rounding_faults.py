"""What rounding bounds refuse: planted faults, NaN, comparisons of nothing; and how sharp they are."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import textbook
from problems import Problem, plain
from textbook import Style

import pyengine as pe
from pyengine.rounding import GradientBounds, exceeds, gradient_bounds, unit_roundoff, worst_ratio

Array = np.ndarray[Any, Any]


def computed(given: Problem, **style: Any) -> SimpleNamespace:
    return textbook.gradients(*given, dtype=given.params.dtype, style=Style(**style))


def bounds_and_truth(given: Problem) -> tuple[GradientBounds, pe.Gradients]:
    """Both, after the truth was seen to pass."""
    bounds, exact = gradient_bounds(*given), pe.oracle.gradients(*given)
    assert bounds.check(computed(given), exact) == []
    return bounds, exact


def changed(given: Problem, name: str, value: Array) -> Problem:
    return given._replace(params=given.net.parameters({**given.params, name: value}))


# ------------------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize("scale", [1.001, 0.5, -1.0])
def test_a_scaled_gradient_exceeds_its_bound(scale: float, dtype: str) -> None:
    given = plain(dtype)
    bounds, exact = bounds_and_truth(given)
    wrong = computed(given)
    wrong.summed = {name: value * np.dtype(dtype).type(scale) for name, value in wrong.summed.items()}
    found = bounds.check(wrong, exact)
    assert {entry.name for entry in found} == {f"summed[{name!r}]" for name in given.net.layout.names}


def test_a_float64_gradient_scaled_by_one_billionth_exceeds_its_bound() -> None:
    given = plain("float64")
    bounds, exact = bounds_and_truth(given)
    wrong = computed(given)
    wrong.per_loss["ink"] = {name: value * (1 + 1e-9) for name, value in wrong.per_loss["ink"].items()}
    assert all(entry.name.startswith("per_loss['ink']") for entry in bounds.check(wrong, exact))
    assert len(bounds.check(wrong, exact)) == len(given.net.loss_layouts["ink"].names)


@pytest.mark.parametrize("layer", ["trunk.0", "trunk.1", "heads.digit.0", "heads.ink.0", "heads.ink.1"])
def test_a_missing_bias_exceeds_the_bound(layer: str, dtype: str) -> None:
    given = plain(dtype)
    bounds, exact = bounds_and_truth(given)
    without = changed(given, f"{layer}.bias", np.zeros_like(given.params[f"{layer}.bias"]))
    assert bounds.check(computed(without), exact)


def test_a_missing_sample_exceeds_the_bound(dtype: str) -> None:
    given = plain(dtype)
    bounds, exact = bounds_and_truth(given)
    weights = np.ones(16)
    weights[-1] = 0.0
    names = {entry.name for entry in bounds.check(computed(given._replace(sample_weight=weights)), exact)}
    assert {"losses['digit']", "losses['ink']", "total_loss"} <= names


def test_a_transposed_weight_exceeds_the_bound(dtype: str) -> None:
    given = plain(dtype)
    bounds, exact = bounds_and_truth(given)
    turned = changed(given, "trunk.1.weight", given.params["trunk.1.weight"].T)
    assert bounds.check(computed(turned), exact)


def test_a_wrong_divisor_exceeds_the_bound(dtype: str) -> None:
    given = plain(dtype)
    bounds, exact = bounds_and_truth(given)
    wrong = computed(given._replace(sample_weight=np.full(16, 16 / 15)))
    assert {entry.name for entry in bounds.check(wrong, exact)} >= {"losses['digit']", "losses['ink']"}


def test_a_missing_head_weight_exceeds_the_bound(dtype: str) -> None:
    given = plain(dtype)
    bounds, exact = bounds_and_truth(given)
    wrong = computed(given)
    wrong.summed["heads.ink.1.bias"] = wrong.per_loss["ink"]["heads.ink.1.bias"]
    assert [entry.name for entry in bounds.check(wrong, exact)] == ["summed['heads.ink.1.bias']"]


def test_a_flipped_relu_mask_exceeds_the_bound(dtype: str) -> None:
    given = plain(dtype)
    bounds, exact = bounds_and_truth(given)
    assert bounds.ambiguous["trunk.0"] == 0
    wrong = textbook.gradients(*given, dtype=dtype, style=Style(flipped=("trunk.0", 3, 2)))
    names = {entry.name for entry in bounds.check(wrong, exact)}
    assert "summed['trunk.0.weight']" in names
    assert not any("heads" in name for name in names)


# ------------------------------------------------------------------------------------------------------------- kinks


def near_a_kink(dtype: str) -> Problem:
    """One ReLU whose pre-activation cancels: exactly 0 or far from it, as the order of three terms has it."""
    net = pe.Network(3, [pe.Dense(1, "relu", bias=False)], {"a": pe.Head([pe.Dense(1, bias=False)], "mse")})
    params = net.parameters({"trunk.0.weight": np.ones((1, 3), dtype), "heads.a.0.weight": np.ones((1, 1), dtype)})
    # 1 + u rounds to 1, so from the left the sum is 0; u - 1 is exact, so from the right it is u.
    u = unit_roundoff(dtype)
    return Problem(net, params, np.array([[1.0, u, -1.0]], dtype), {"a": np.ones((1, 1), dtype)})


def test_both_sides_of_an_ambiguous_kink_hold(dtype: str) -> None:
    given = near_a_kink(dtype)
    bounds, exact = bounds_and_truth(given)
    assert bounds.ambiguous == {"trunk.0": 1}
    slopes = set()
    for order in ("sequential", "reversed"):
        found = computed(given, order=order)
        slopes.add(bool(found.summed["trunk.0.weight"].any()))
        assert bounds.check(found, exact) == []
    assert slopes == {False, True}, "the two orders must fall on the two sides"


def zero_weights(dtype: str) -> Problem:
    given = plain(dtype)
    bias = {name: np.zeros_like(value) for name, value in given.params.items() if name.startswith("trunk.0")}
    return given._replace(params=given.net.parameters({**given.params, **bias}))


def test_an_exact_zero_follows_the_convention_unless_any_is_allowed(dtype: str) -> None:
    given = zero_weights(dtype)
    bounds, exact = bounds_and_truth(given)
    assert bounds.ambiguous["trunk.0"] == 0
    with_slope = textbook.gradients(*given, dtype=dtype, style=Style(flipped=("trunk.0", 3, 2)))
    assert bounds.check(with_slope, exact)
    lenient = gradient_bounds(*given, kinks_at_zero="any")
    assert lenient.ambiguous["trunk.0"] == 16 * 8
    assert lenient.check(with_slope, exact) == []
    scaled = computed(given)
    scaled.summed["heads.digit.0.bias"] = scaled.summed["heads.digit.0.bias"] * np.dtype(dtype).type(1.001)
    assert lenient.check(scaled, exact)


# ---------------------------------------------------------------------------------------------------------- extremes


@pytest.mark.parametrize("scale", [0.0, 1e-30, 30.0, 1e4])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "clipped_cross_entropy"])
def test_large_and_small_logits_hold_finite_bounds(loss: str, scale: float, dtype: str) -> None:
    net = pe.Network(4, [pe.Dense(6, "tanh")], {"a": pe.Head([pe.Dense(5)], loss)})
    params = net.init(0, dtype)
    params["heads.a.0.weight"][...] *= np.dtype(dtype).type(scale)
    rng = np.random.default_rng(1)
    given = Problem(net, params, rng.standard_normal((9, 4)).astype(dtype), {"a": rng.integers(0, 5, 9)})
    bounds, exact = bounds_and_truth(given)
    assert np.isfinite(bounds.summed.flat).all()
    assert bounds.check(net.gradients(*given[1:]), exact) == []
    if np.abs(exact.summed.flat).max() > 0:
        assert bounds.summed.flat.max() < np.abs(exact.summed.flat).max()
        wrong = SimpleNamespace(summed={name: 2 * value for name, value in exact.summed.items()})
        assert bounds.check(wrong, exact)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "silu", "gelu", "gelu_tanh", "elu"])
@pytest.mark.parametrize("scale", [1e-30, 100.0])
def test_saturated_and_vanishing_activations_hold_finite_bounds(activation: str, scale: float, dtype: str) -> None:
    given = plain(dtype)
    net = pe.Network(6, [pe.Dense(8, activation), pe.Dense(8, activation)], given.net.heads)
    params = net.init(2, dtype)
    params.flat[:] *= np.dtype(dtype).type(scale)
    bounds, exact = bounds_and_truth(given._replace(net=net, params=params))
    assert np.isfinite(bounds.summed.flat).all()
    assert bounds.summed.flat.max() < np.abs(exact.summed.flat).max()


def test_width_one_batch_one_no_trunk_holds_and_its_fault_does_not(dtype: str) -> None:
    heads = {
        "a": pe.Head([pe.Dense(1)], "softmax_cross_entropy"),
        "b": pe.Head([pe.Dense(1, bias=False)], "huber", reduction="sum"),
    }
    net = pe.Network(1, [], heads)
    targets = {"a": np.array([0]), "b": np.array([[0.5]], dtype)}
    given = Problem(net, net.init(0, dtype), np.array([[1.5]], dtype), targets)
    bounds, exact = bounds_and_truth(given)
    assert not bounds.gramian.any()
    wrong = SimpleNamespace(summed={name: value + 1e-5 for name, value in exact.summed.items()})
    assert len(bounds.check(wrong, exact)) == 3


def test_sixty_heads_hold_and_a_missing_one_does_not(dtype: str) -> None:
    heads = {f"head{k}": pe.Head([pe.Dense(1)], "mae", weight=(-1) ** k * (k + 1.0)) for k in range(60)}
    net = pe.Network(3, [pe.Dense(4, "tanh")], heads)
    rng = np.random.default_rng(5)
    targets = {name: rng.standard_normal((8, 1)).astype(dtype) for name in heads}
    given = Problem(net, net.init(0, dtype), rng.standard_normal((8, 3)).astype(dtype), targets)
    bounds, exact = bounds_and_truth(given)
    without = {
        key: value - exact.per_loss["head0"][key] if key in net.loss_layouts["head0"].names else value
        for key, value in exact.summed.items()
    }
    assert bounds.check(SimpleNamespace(summed=without), exact)


def test_subnormal_inputs_may_vanish_only_where_flushing_is_allowed() -> None:
    net = pe.Network(1, [], {"a": pe.Head([pe.Dense(1, bias=False)], "mse")})
    params = net.parameters({"heads.a.0.weight": np.ones((1, 1), np.float32)})
    given = Problem(net, params, np.array([[1e-39]], np.float32), {"a": np.ones((1, 1), np.float32)})
    exact = pe.oracle.gradients(*given)
    vanished = SimpleNamespace(summed={"heads.a.0.weight": np.zeros((1, 1), np.float32)})
    assert gradient_bounds(*given).check(given.net.gradients(*given[1:]), exact) == []
    assert gradient_bounds(*given).check(vanished, exact)
    assert gradient_bounds(*given, flush_to_zero=True).check(vanished, exact) == []


def test_where_a_product_may_overflow_the_bound_is_infinite_but_nan_still_fails() -> None:
    given = plain("float32")
    huge = changed(given, "trunk.0.weight", np.full((8, 6), 3e38, np.float32))
    bounds = gradient_bounds(*huge)
    assert np.isinf(bounds.losses["ink"])
    exact = pe.oracle.gradients(*given)
    assert bounds.check(SimpleNamespace(losses={"digit": 0.0, "ink": float("nan")}), exact)


# --------------------------------------------------------------------------------------------------------- sharpness


def test_bounds_of_a_small_network_are_far_below_the_gradient(dtype: str) -> None:
    given = plain(dtype)
    bounds, exact = bounds_and_truth(given)
    # The bound grows with u; what multiplies it is a property of the network, here some hundreds of roundings.
    relative = bounds.summed.flat.max() / np.abs(exact.summed.flat).max()
    assert unit_roundoff(dtype) < relative
    assert relative < 1000 * unit_roundoff(dtype)


def test_bounds_are_within_a_few_hundred_actual_errors(dtype: str) -> None:
    given = plain(dtype)
    bounds, exact = bounds_and_truth(given)
    for style in (Style(), Style(order="sequential"), Style(order="reversed", derivative_from="h")):
        worst = bounds.worst(computed(given, **vars(style)), exact)
        assert worst.holds
        assert worst.ratio > 1 / 300, worst


# -------------------------------------------------------------------------------------------------------- comparison


def test_nan_fails_on_every_side() -> None:
    nan = float("nan")
    assert not worst_ratio("g", [nan], [1.0], [1.0]).holds
    assert not worst_ratio("g", [1.0], [nan], [1.0]).holds
    assert not worst_ratio("g", [1.0], [1.0], [nan]).holds
    assert not worst_ratio("g", [nan], [1.0], [float("inf")]).holds


def test_a_zero_bound_holds_for_equal_numbers_only() -> None:
    assert worst_ratio("g", [1.0], [1.0], [0.0]).holds
    assert not worst_ratio("g", [1.0], [np.nextafter(1.0, 2.0)], [0.0]).holds


def test_the_worst_entry_is_named(dtype: str) -> None:
    given = plain(dtype)
    bounds, exact = bounds_and_truth(given)
    wrong = computed(given)
    wrong.per_loss["digit"]["trunk.1.weight"][3, 5] += 1
    (entry,) = bounds.check(wrong, exact)
    assert (entry.name, entry.index) == ("per_loss['digit']['trunk.1.weight']", (3, 5))
    assert "[3, 5]" in str(entry)
    assert entry == bounds.worst(wrong, exact)


def test_other_shapes_missing_parameters_and_empty_comparisons_fail() -> None:
    given = plain("float64")
    bounds, exact = bounds_and_truth(given)
    with pytest.raises(ValueError, match="has shape"):
        worst_ratio("g", np.zeros(3), np.zeros((3, 1)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="lacks"):
        exceeds(SimpleNamespace(summed={}), exact, bounds)
    with pytest.raises(ValueError, match="nothing in common"):
        exceeds(SimpleNamespace(), exact, bounds)


def test_a_narrower_dtype_fails() -> None:
    given = plain("float64")
    with pytest.raises(ValueError, match="narrower"):
        gradient_bounds(*given, dtype="float32")
    with pytest.raises(TypeError, match="float32 or float64"):
        gradient_bounds(*given, dtype="float16")
    with pytest.raises(ValueError, match="kinks_at_zero"):
        gradient_bounds(*given, kinks_at_zero="never")  # type: ignore[arg-type]
    assert replace(Style(), order="blas") == Style()
