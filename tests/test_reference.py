"""The reference: against balls, the oracle and the frameworks, its conventions at kinks, and the call it shares."""

from __future__ import annotations

import copy
import sys
from types import ModuleType
from typing import Any

import balls
import numpy as np
import pytest
from networks import EVERY_PAIR, EXTREMES, SOME_PAIRS, Problem, pair, problem
from refusals import refused

import pyengine as pe
from pyengine.rounding import gradient_bounds, unit_roundoff

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
TINY = {"float32": 2.0**-126, "float64": 2.0**-1022}


def widened(case: Problem, dtype: str = "float64") -> balls.BallGradients:
    """Balls that hold whatever an arithmetic of this dtype may return."""
    assert UNIT[dtype] == unit_roundoff(dtype)
    return balls.gradients(*case.arguments, unit=UNIT[dtype], tiny=TINY[dtype])


@pytest.mark.parametrize(("activation", "loss", "reduction"), EVERY_PAIR)
def test_gradients_lie_in_balls_widened_by_float64_rounding(activation: str, loss: str, reduction: str) -> None:
    case = pair(activation, loss, reduction)
    found = widened(case)
    g = pe.reference.gradients(*case.arguments)
    assert balls.outside(found, g) == []
    largest = int(np.abs(g.summed.flat).argmax())
    g.summed.flat[largest] *= 1.0 + 1e-6
    assert len(balls.outside(found, g)) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("activation", "loss", "reduction"), EVERY_PAIR)
def test_reference_agrees_with_oracle(activation: str, loss: str, reduction: str, dtype: str) -> None:
    case = pair(activation, loss, reduction, dtype, batch=7, seed=1)
    bounds = gradient_bounds(*case.arguments, dtype="float64")
    oracle, reference = pe.oracle.gradients(*case.arguments), pe.reference.gradients(*case.arguments)
    assert bounds.check(reference, oracle) == []
    reference.summed["trunk.0.weight"][...] *= 1.0 + 1e-6
    assert bounds.check(reference, oracle) != []


@pytest.mark.parametrize("name", EXTREMES)
def test_gradients_at_extremes_lie_in_balls_and_bounds(name: str) -> None:
    case = EXTREMES[name]()
    g = pe.reference.gradients(*case.arguments)
    assert balls.outside(widened(case), g) == []
    assert gradient_bounds(*case.arguments).check(g, pe.oracle.gradients(*case.arguments)) == []


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("activation", "loss", "reduction"), EVERY_PAIR)
def test_torch_agrees_with_balls(activation: str, loss: str, reduction: str, dtype: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from frameworks import torch_gradients

    case = pair(activation, loss, reduction, dtype)
    assert balls.outside(widened(case, dtype), torch_gradients(*case.arguments)) == []


@pytest.mark.parametrize(("activation", "loss", "reduction"), SOME_PAIRS)
def test_jax_agrees_with_balls(activation: str, loss: str, reduction: str) -> None:
    pytest.importorskip("jax", reason="JAX is not installed")
    from frameworks import jax_gradients

    case = pair(activation, loss, reduction)
    found, g = widened(case), jax_gradients(*case.arguments)
    assert balls.outside(found, g) == []
    g = copy.deepcopy(g)
    g.summed["trunk.0.weight"] = g.summed["trunk.0.weight"] * (1.0 + 1e-6)
    assert balls.outside(found, g) != []


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "clipped_cross_entropy"])
def test_frameworks_smooth_and_index_classes_alike(framework: str, loss: str) -> None:
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    import frameworks

    net = pe.Network(3, [], {"only": pe.Head([pe.Dense(4)], loss, label_smoothing=0.2)})
    case = problem(net, classes=True, weighted=False)
    g = getattr(frameworks, f"{framework}_gradients")(*case.arguments)
    assert balls.outside(widened(case), g) == []


# -------------------------------------------------------------------------------------------------------------- kinks


@pytest.fixture(params=["reference", "oracle"])
def route(request: pytest.FixtureRequest) -> ModuleType:
    """Both independent routes."""
    return sys.modules[f"pyengine.{request.param}"]


def one_number(activation: Any, loss: str, target: float, **options: Any) -> tuple[pe.Network, Any, Any, Any]:
    """One input 1, a trunk unit with the activation and weight 0, a head that copies: z = 0, output f(0)."""
    net = pe.Network(
        1, [pe.Dense(1, activation, bias=False)], {"only": pe.Head([pe.Dense(1, bias=False)], loss, **options)}
    )
    params = net.parameters({"trunk.0.weight": np.zeros((1, 1)), "heads.only.0.weight": np.ones((1, 1))})
    return net, params, np.ones((1, 1)), {"only": np.full((1, 1), target)}


@pytest.mark.parametrize(
    ("activation", "slope"),
    [("relu", 0.0), (pe.LeakyReLU(0.25), 0.25), (pe.ELU(0.5), 0.5), (pe.LeakyReLU(-1.0), -1.0), ("linear", 1.0)],
)
def test_slope_at_zero_is_that_of_the_convention(route: ModuleType, activation: Any, slope: float) -> None:
    # L = (0 - 1)², ∂L/∂h = -2.
    g = route.gradients(*one_number(activation, "mse", 1.0))
    assert g.summed["trunk.0.weight"][0, 0] == -2.0 * slope


def test_mae_at_its_target_has_no_gradient(route: ModuleType) -> None:
    assert route.gradients(*one_number("linear", "mae", 0.0)).summed["trunk.0.weight"][0, 0] == 0.0


@pytest.mark.parametrize(("target", "loss", "gradient"), [(-0.5, 0.125, 0.5), (-2.0, 0.875, 0.5), (2.0, 0.875, -0.5)])
def test_huber_turns_into_a_line_at_delta(route: ModuleType, target: float, loss: float, gradient: float) -> None:
    g = route.gradients(*one_number("linear", "huber", target, delta=0.5))
    assert g.losses["only"] == loss
    assert g.summed["trunk.0.weight"][0, 0] == gradient


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clip_bounds_are_those_of_the_parameters_dtype(route: ModuleType, dtype: str) -> None:
    net = pe.Network(1, [], {"only": pe.Head([pe.Dense(2)], "clipped_cross_entropy")})
    params = net.parameters(
        {"heads.only.0.weight": np.zeros((2, 1), dtype), "heads.only.0.bias": np.array([40.0, 0.0], dtype)}
    )
    g = route.gradients(net, params, np.zeros((1, 1), dtype), {"only": np.array([1])})
    low, _ = pe.ClippedCrossEntropy.clip_bounds(np.dtype(dtype))
    assert g.losses["only"] == -np.log(low)
    assert not g.summed.flat.any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("z", "target"), [(40.0, 0.0), (-40.0, 1.0)])
def test_the_clip_of_a_sigmoid_is_that_of_the_parameters_dtype(
    route: ModuleType, dtype: str, z: float, target: float
) -> None:
    net = pe.Network(1, [], {"only": pe.Head([pe.Dense(1)], "clipped_binary_cross_entropy")})
    params = net.parameters({"heads.only.0.weight": np.zeros((1, 1), dtype), "heads.only.0.bias": np.array([z], dtype)})
    g = route.gradients(net, params, np.zeros((1, 1), dtype), {"only": np.array([[target]], dtype)})
    low, high = pe.ClippedBinaryCrossEntropy.clip_bounds(np.dtype(dtype))
    assert g.losses["only"] == -(np.log(low) if target else np.log1p(-high))
    assert not g.summed.flat.any()


# ----------------------------------------------------------------------------------------------------------- the call


def test_out_is_overwritten_and_returned(route: ModuleType) -> None:
    case = pair("tanh", "softmax_cross_entropy", "mean", "float32")
    expected = route.gradients(*case.arguments)
    out = case.net.empty_gradients("float64")
    assert route.gradients(*case.arguments, out=out) is out
    assert out.losses == expected.losses
    assert out.total_loss == expected.total_loss
    np.testing.assert_array_equal(out.summed.flat, expected.summed.flat)
    np.testing.assert_array_equal(out.per_loss["first"].flat, expected.per_loss["first"].flat)
    np.testing.assert_array_equal(out.gramian, expected.gramian)


def test_out_of_float32_fails(route: ModuleType) -> None:
    case = pair("tanh", "softmax_cross_entropy", "mean", "float32")
    out = case.net.empty_gradients("float32")
    refused(lambda: route.gradients(*case.arguments, out=out), TypeError, "out.per_loss['first']", "float32", "float64")


def test_what_out_holds_beyond_the_request_is_overwritten_too(route: ModuleType) -> None:
    case, other = pair("tanh", "mse", "mean"), pair("tanh", "mse", "mean", seed=1)
    out = route.gradients(*other.arguments)
    expected = route.gradients(*case.arguments)
    route.gradients(*case.arguments, per_loss=False, out=out)
    np.testing.assert_array_equal(out.per_loss["first"].flat, expected.per_loss["first"].flat)
    np.testing.assert_array_equal(out.gramian, expected.gramian)


def test_asking_for_nothing_fails(route: ModuleType) -> None:
    case = pair("tanh", "mse", "mean")
    refused(
        lambda: route.gradients(*case.arguments, per_loss=False, summed=False), ValueError, "per_loss", "both False"
    )


def test_parts_not_asked_for_are_not_computed(route: ModuleType) -> None:
    case = pair("tanh", "mse", "mean")
    both = route.gradients(*case.arguments)
    only_summed = route.gradients(*case.arguments, per_loss=False)
    only_per_loss = route.gradients(*case.arguments, summed=False)
    np.testing.assert_array_equal(only_summed.summed.flat, both.summed.flat)
    np.testing.assert_array_equal(only_per_loss.per_loss["second"].flat, both.per_loss["second"].flat)
    with pytest.raises(AttributeError, match="per_loss"):
        _ = only_summed.gramian
    with pytest.raises(AttributeError, match="summed"):
        _ = only_per_loss.summed


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_are_float64_and_inputs_untouched(route: ModuleType, dtype: str) -> None:
    case = pair("relu", "mse", "weighted_mean", dtype)
    before = copy.deepcopy((case.params.flat, case.x, case.targets, case.sample_weight))
    g = route.gradients(*case.arguments)
    outputs = route.forward(case.net, case.params, case.x)
    assert g.summed.dtype == np.float64
    assert {array.dtype for array in outputs.values()} == {np.dtype(np.float64)}
    np.testing.assert_array_equal(case.params.flat, before[0])
    np.testing.assert_array_equal(case.x, before[1])
    for name in case.targets:
        np.testing.assert_array_equal(case.targets[name], before[2][name])


def test_gramian_of_a_network_without_trunk_is_zero(route: ModuleType) -> None:
    net = pe.Network(3, [], {"a": pe.Head([pe.Dense(2)], "mse"), "b": pe.Head([pe.Dense(1)], "mae")})
    np.testing.assert_array_equal(route.gradients(*problem(net).arguments).gramian, np.zeros((2, 2)))


@pytest.mark.parametrize("name", EXTREMES)
def test_forward_of_both_routes_agrees(name: str) -> None:
    case = EXTREMES[name]()
    bounds = gradient_bounds(*case.arguments).outputs
    exact = pe.oracle.forward(case.net, case.params, case.x)
    for head, output in pe.reference.forward(case.net, case.params, case.x).items():
        assert output.shape == (case.x.shape[0], case.net.heads[head].layers[-1].n_out)
        assert (np.abs(output - exact[head]) <= bounds[head]).all()


def test_overflow_shows_in_the_result_without_a_warning() -> None:
    case = problem(pe.Network(1, [], {"only": pe.Head([pe.Dense(1)], "mse")}))
    case.params.flat[:] = 1e200
    assert not np.isfinite(pe.reference.gradients(*case.arguments).total_loss)
