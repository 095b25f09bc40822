"""The balls: they contain what can be computed by hand, are narrow, and refuse what they cannot decide."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import balls
import flint
import numpy as np
import pytest
from flint import arb
from networks import SOME_PAIRS, pair, problem

import pyengine as pe


def single(loss: str, n_out: int, **options: Any) -> pe.Network:
    """One linear layer without a trunk."""
    return pe.Network(2, [], {"only": pe.Head([pe.Dense(n_out)], loss, **options)})


def zeros(net: pe.Network) -> pe.Parameters:
    return net.parameters({name: np.zeros(shape) for name, shape in net.layout.shapes.items()})


def rational(value: Fraction) -> arb:
    with flint.ctx.workprec(2 * balls.PRECISION):
        return arb(flint.fmpq(value.numerator, value.denominator))


def test_mse_of_a_linear_layer_is_exact() -> None:
    # z = 3·2 - 1·0.5 + 0.25 = 5.75, r = z - 5 = 0.75: L = r², dW = 2r·x, db = 2r.
    net = single("mse", 1)
    params = net.parameters({"heads.only.0.weight": np.array([[3.0, -1.0]]), "heads.only.0.bias": np.array([0.25])})
    found = balls.gradients(net, params, np.array([[2.0, 0.5]]), {"only": np.array([[5.0]])})
    expected = [
        (found.losses["only"], Fraction(9, 16)),
        (found.summed["heads.only.0.weight"][0, 0], Fraction(3)),
        (found.summed["heads.only.0.weight"][0, 1], Fraction(3, 4)),
        (found.summed["heads.only.0.bias"][0], Fraction(3, 2)),
    ]
    for ball, value in expected:
        assert ball == rational(value)


def test_softmax_of_zeros_is_uniform() -> None:
    net = single("softmax_cross_entropy", 3, weight=0.5)
    x = np.array([[1.0, 2.0], [4.0, -1.0]])
    found = balls.gradients(net, zeros(net), x, {"only": np.array([0, 2])})
    with flint.ctx.workprec(2 * balls.PRECISION):
        log_3 = arb(3).log()
    assert found.losses["only"].contains(log_3)
    assert found.per_loss["only"]["heads.only.0.bias"][0].contains(rational(Fraction(-1, 6)))
    # ½·½·(x₀·(1/3 - 1) + x₁·1/3)
    assert found.summed["heads.only.0.weight"][0, 0].contains(rational(Fraction(1, 4) * Fraction(2, 3)))


def test_clipping_ends_the_gradient_of_the_improbable_class() -> None:
    net = single("clipped_cross_entropy", 2)
    params = zeros(net)
    params["heads.only.0.bias"][:] = [40.0, 0.0]
    found = balls.gradients(net, params, np.zeros((1, 2)), {"only": np.array([1])})
    with flint.ctx.workprec(2 * balls.PRECISION):
        most = -arb(1e-7).log()
    assert found.losses["only"].contains(most)
    assert all(ball == 0 for ball in found.summed["heads.only.0.bias"])


@pytest.mark.parametrize("unit", [0.0, 2.0**-102])
def test_relu_at_exactly_zero_passes_nothing(unit: float) -> None:
    net = pe.Network(2, [pe.Dense(3, "relu")], {"only": pe.Head([pe.Dense(1)], "mse")})
    found = balls.gradients(net, zeros(net), np.ones((1, 2)), {"only": np.ones((1, 1))}, unit=unit)
    assert all(ball == 0 for ball in found.summed["trunk.0.weight"].ravel())


def test_a_ball_across_a_kink_fails() -> None:
    # 0.1 + 0.2 - 0.3 is not 0 in balls of doubles, but within one unit roundoff of it.
    net = pe.Network(3, [pe.Dense(1, "relu", bias=False)], {"only": pe.Head([pe.Dense(1)], "mse")})
    params = net.init(0, "float64")
    params["trunk.0.weight"][...] = [[1.0, 1.0, -1.0]]
    arguments = (net, params, np.array([[0.1, 0.2, 0.3]]), {"only": np.zeros((1, 1))})
    balls.gradients(*arguments)
    with pytest.raises(balls.KinkInDoubt, match="relu"):
        balls.gradients(*arguments, unit=2.0**-53)


@pytest.mark.parametrize(("activation", "loss", "reduction"), SOME_PAIRS)
def test_exact_balls_are_narrow_and_lie_within_the_widened_ones(activation: str, loss: str, reduction: str) -> None:
    case = pair(activation, loss, reduction)
    narrow = balls.gradients(*case.arguments)
    wide = balls.gradients(*case.arguments, unit=2.0**-102)
    # What a step loses in balls is a unit of 2^-PRECISION; the same steps with a unit of 2^-102 give the wide radius.
    factor = arb(2) ** (102 - balls.PRECISION)
    for name, array in narrow.summed.items():
        for inner, outer in zip(array.ravel(), wide.summed[name].ravel(), strict=True):
            assert outer.contains(inner)
            assert arb(inner.rad()) <= factor * arb(outer.rad())


def planted(case: Any, name: str, relative: float) -> tuple[pe.Gradients, pe.Gradients]:
    """The oracle's result with the largest entry of one array moved by a relative amount."""
    high, low = copy.deepcopy(pe.oracle.gradients_dd(*case.arguments))
    worst = np.unravel_index(np.abs(high.summed[name]).argmax(), high.summed[name].shape)
    low.summed[name][worst] += relative * high.summed[name][worst]
    return high, low


@pytest.mark.parametrize("name", ["trunk.0.weight", "trunk.0.bias", "heads.first.0.weight", "heads.second.0.weight"])
def test_one_entry_off_by_1e_20_lies_outside(name: str) -> None:
    case = pair("tanh", "softmax_cross_entropy", "mean")
    found = balls.gradients(*case.arguments, unit=2.0**-102)
    assert balls.outside(found, *planted(case, name, 0.0)) == []
    (label,) = balls.outside(found, *planted(case, name, 1e-20))
    assert label.startswith(f"summed['{name}']")


def test_nan_lies_outside() -> None:
    case = problem(single("mse", 1))
    high = pe.oracle.gradients(*case.arguments)
    high.summed["heads.only.0.bias"][0] = np.nan
    assert len(balls.outside(balls.gradients(*case.arguments, unit=2.0**-53), high)) == 1
