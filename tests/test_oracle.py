"""The oracle: its functions and its gradients within derived bounds of ball arithmetic, at extremes too."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import balls
import flint
import numpy as np
import numpy.typing as npt
import pytest
from balls import density, normal, sigmoid
from flint import arb
from networks import EVERY_PAIR, EXTREMES, pair, problem

import pyengine as pe
from pyengine import _oracle
from pyengine.rounding import gradient_bounds

Pairs = npt.NDArray[np.float64]

UNIT = 2.0**-102
"""No double-double operation has a larger relative error: 15u² + 56u³ in a division, u = 2^-53 (see ``_dd.pxd``)."""

U2 = 2.0**-106
SAMPLES = 400


def elementary(name: str) -> Callable[[Pairs], Pairs]:
    return lambda a: _oracle.elementary(name, a)


def value(name: str) -> Callable[[Pairs], Pairs]:
    return lambda a: _oracle.activation(name, 1.0, a)[0]


def slope(name: str) -> Callable[[Pairs], Pairs]:
    return lambda a: _oracle.activation(name, 1.0, a)[1]


# What the formulas in _dd_functions.pxd lose at most, in u² of the result: add 3, add_d 2, mul 7, div 15, div_d 3.
#   e^r - 1, reduced   six doublings of 9 each and a Horner sum of 12                                              66
#   exp                66·|s|/(1 + s) with |s| <= 0.42, and 2                                                      32
#   expm1              at -0.35: 32·e^a/|e^a - 1|, and 2                                                           80
#   log1p              80·|s|/((1 + s)·|log1p|), and the last sum                                                 128
#   log                that of log1p: what is added has the larger size                                           128
#   tanh               80 twice, add_d, div                                                                       192
#   sigmoid            exp, add_d, div                                                                             64
#   its slope          exp, twice add_d, mul, div                                                                  96
#   softplus           exp, log1p, add                                                                            192
#   φ                  exp, 1 + (mul, mul) of something tiny, mul by a rounded constant                            64
#   1 - Φ from 2 on    φ, a continued fraction whose terms lose at most 40 steps of 24, mul, div                  1024
#   1 - Φ below 2      0.48·(φ and a series of 90) over 0.022                                                     4096
# Measured over the ranges below: 2·2^-104 (8u²) at most, but 20·2^-104 for Φ just above -2.
FUNCTIONS: list[tuple[str, Callable[[Pairs], Pairs], Callable[[arb], arb], float, tuple[float, float]]] = [
    ("exp", elementary("exp"), lambda a: a.exp(), 32, (-1.0, 1.0)),
    ("exp", elementary("exp"), lambda a: a.exp(), 32, (-660.0, 709.0)),
    ("expm1", elementary("expm1"), lambda a: a.expm1(), 80, (-1.0, 1.0)),
    ("expm1", elementary("expm1"), lambda a: a.expm1(), 80, (-1e-9, 1e-9)),
    ("expm1", elementary("expm1"), lambda a: a.expm1(), 80, (-100.0, 700.0)),
    ("log1p", elementary("log1p"), lambda a: a.log1p(), 128, (-0.5, 1.0)),
    ("log1p", elementary("log1p"), lambda a: a.log1p(), 128, (-1e-9, 1e-9)),
    ("log", elementary("log"), lambda a: a.log(), 128, (0.5, 2.0)),
    ("log", elementary("log"), lambda a: a.log(), 128, (1e-7, 1e-6)),
    ("log", elementary("log"), lambda a: a.log(), 128, (1e200, 1e300)),
    ("density", elementary("normal_density"), density, 64, (-36.0, 36.0)),
    ("distribution", elementary("normal_distribution"), normal, 4096, (-2.0, 0.0)),
    ("distribution", elementary("normal_distribution"), normal, 1024, (-36.0, -2.0)),
    ("distribution", elementary("normal_distribution"), normal, 1024, (0.0, 40.0)),
    ("tanh", value("tanh"), lambda a: a.tanh(), 192, (-1.0, 1.0)),
    ("tanh", value("tanh"), lambda a: a.tanh(), 192, (-300.0, 300.0)),
    ("tanh'", slope("tanh"), lambda a: 1 / a.cosh() ** 2, 96, (-300.0, 300.0)),
    ("sigmoid", value("sigmoid"), sigmoid, 64, (-600.0, 600.0)),
    ("sigmoid'", slope("sigmoid"), lambda a: sigmoid(a) * sigmoid(-a), 96, (-600.0, 600.0)),
    ("softplus", value("softplus"), lambda a: a.exp().log1p(), 192, (-600.0, 600.0)),
    ("silu", value("silu"), lambda a: a * sigmoid(a), 96, (-600.0, 600.0)),
    ("gelu", value("gelu"), lambda a: a * normal(a), 4200, (-36.0, 36.0)),
    ("elu", value("elu"), lambda a: a.expm1(), 96, (-600.0, 0.0)),
]


def double_doubles(low: float, high: float) -> Pairs:
    """Random double-doubles in an interval; their low parts are full."""
    rng = np.random.default_rng(5)
    a = rng.uniform(low, high, SAMPLES)
    return np.stack([a, a * rng.uniform(-0.5, 0.5, SAMPLES) * 2.0**-53])


def worst_error(given: Pairs, found: Pairs, exact: Callable[[arb], arb]) -> float:
    """The largest relative error, in u²."""
    with flint.ctx.workprec(400):
        errors = []
        for (a, a_low), (f, f_low) in zip(given.T.tolist(), found.T.tolist(), strict=True):
            truth = exact(arb(a) + arb(a_low))
            errors.append(float(abs(arb(f) + arb(f_low) - truth) / abs(truth)) / U2)
        return max(errors)


@pytest.mark.parametrize(("name", "function", "exact", "units", "interval"), FUNCTIONS)
def test_function_is_as_accurate_as_its_formula(
    name: str,
    function: Callable[[Pairs], Pairs],
    exact: Callable[[arb], arb],
    units: float,
    interval: tuple[float, float],
) -> None:
    given = double_doubles(*interval)
    found = function(given)
    assert worst_error(given, found, exact) <= units
    found[1, 7] += 2.0 * units * U2 * found[0, 7]
    assert not worst_error(given, found, exact) <= units


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("exp", [np.inf, 0.0, 1.0]),
        ("expm1", [np.nan, -1.0, 0.0]),  # an overflow may turn into NaN
        ("log", [np.inf, np.nan, -np.inf]),
        ("log1p", [np.inf, np.nan, 0.0]),
        ("normal_density", [0.0, 0.0, 1.0 / np.sqrt(2.0 * np.pi)]),
        ("normal_distribution", [1.0, 0.0, 0.5]),
    ],
)
def test_function_of_infinities_zero_and_nan(name: str, expected: list[float]) -> None:
    special = np.zeros((2, 4))
    special[0] = [np.inf, -np.inf, 0.0, np.nan]
    np.testing.assert_array_equal(_oracle.elementary(name, special)[0], [*expected, np.nan])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("activation", "loss", "reduction"), EVERY_PAIR)
def test_gradients_lie_in_balls_widened_by_double_double_rounding(
    activation: str, loss: str, reduction: str, dtype: str
) -> None:
    case = pair(activation, loss, reduction, dtype)
    found = balls.gradients(*case.arguments, unit=UNIT)
    high, low = pe.oracle.gradients_dd(*case.arguments)
    assert balls.outside(found, high, low) == []
    largest = int(np.abs(high.summed.flat).argmax())
    low.summed.flat[largest] += 1e-20 * high.summed.flat[largest]
    assert len(balls.outside(found, high, low)) == 1


@pytest.mark.parametrize("name", EXTREMES)
def test_gradients_at_extremes_lie_in_balls(name: str) -> None:
    case = EXTREMES[name]()
    found = balls.gradients(*case.arguments, unit=UNIT)
    assert balls.outside(found, *pe.oracle.gradients_dd(*case.arguments)) == []


def radius(array: Any, index: tuple[int, ...]) -> arb:
    return arb(array[index].rad())


def test_summed_gradient_equals_sum_of_per_loss() -> None:
    case = pair("gelu", "softmax_cross_entropy", "mean")
    found = balls.gradients(*case.arguments, unit=UNIT)
    high, low = pe.oracle.gradients_dd(*case.arguments)
    with flint.ctx.workprec(balls.PRECISION):
        for name, ball in found.summed.items():
            for index in np.ndindex(ball.shape):
                total = allowed = arb(0)
                for head, gradient in high.per_loss.items():
                    if name in gradient:
                        weight = arb(case.net.heads[head].weight)
                        total += weight * (arb(gradient[name][index]) + arb(low.per_loss[head][name][index]))
                        allowed += abs(weight) * 2 * radius(found.per_loss[head][name], index)
                difference = abs(total - arb(high.summed[name][index]) - arb(low.summed[name][index]))
                assert difference <= allowed + 2 * radius(ball, index)


def test_high_parts_are_the_results_rounded_to_float64() -> None:
    case = pair("silu", "huber", "weighted_mean")
    high, low = pe.oracle.gradients_dd(*case.arguments)
    rounded = pe.oracle.gradients(*case.arguments)
    np.testing.assert_array_equal(rounded.summed.flat, high.summed.flat)
    np.testing.assert_array_equal(rounded.gramian, high.gramian)
    assert rounded.losses == high.losses
    assert rounded.total_loss == high.total_loss
    assert (np.abs(low.summed.flat) <= np.spacing(np.abs(high.summed.flat)) / 2.0).all()
    assert low.summed.flat.any()


def test_small_integers_are_computed_exactly() -> None:
    # h = relu([1·3 - 1·3, 2·3 + 1·3]) = [0, 9] and z = 5·0 - 1·9 + 1 = -8, so that ∂L/∂z = 2·(-8 - 2) = -20.
    net = pe.Network(2, [pe.Dense(2, "relu", bias=False)], {"only": pe.Head([pe.Dense(1)], "mse")})
    params = net.parameters(
        {
            "trunk.0.weight": np.array([[1.0, -1.0], [2.0, 1.0]]),
            "heads.only.0.weight": np.array([[5.0, -1.0]]),
            "heads.only.0.bias": np.array([1.0]),
        }
    )
    high, low = pe.oracle.gradients_dd(net, params, np.array([[3.0, 3.0]]), {"only": np.array([[2.0]])})
    assert high.losses["only"] == 100.0
    assert high.summed.flat.tolist() == [0.0, 0.0, 60.0, 60.0, 0.0, -180.0, -20.0]
    assert not low.summed.flat.any()


def test_a_sum_that_float64_loses_is_kept() -> None:
    # 1e16 + 1 - 1e16 is 0 or 2 in float64.
    net = pe.Network(3, [], {"only": pe.Head([pe.Dense(1, bias=False)], "mse")})
    params = net.parameters({"heads.only.0.weight": np.array([[1e16, 1.0, -1e16]])})
    g = pe.oracle.gradients(net, params, np.ones((1, 3)), {"only": np.zeros((1, 1))})
    assert g.losses["only"] == 1.0
    assert g.summed.flat.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("activation", "loss", "reduction"), EVERY_PAIR[::7])
def test_what_is_not_finite_spreads_to_the_loss_and_the_gradient(
    activation: str, loss: str, reduction: str, poison: float
) -> None:
    case = pair(activation, loss, reduction)
    case.params["heads.first.0.bias"][:] = poison
    g = pe.oracle.gradients(*case.arguments)
    assert np.isnan(g.losses["first"])
    assert np.isnan(g.total_loss)
    assert np.isnan(g.summed["trunk.0.weight"]).all()
    assert np.isfinite(g.losses["second"])


def test_numbers_near_overflow_are_not_lost_in_the_splitting() -> None:
    # Dekker's splitting by multiplication overflows from 2^996 on; this one rounds bits.
    net = pe.Network(1, [], {"only": pe.Head([pe.Dense(1, bias=False)], "mae")})
    params = net.parameters({"heads.only.0.weight": np.array([[2.0**1020 + 2.0**970]])})
    g = pe.oracle.gradients(net, params, np.array([[2.0**-1020]]), {"only": np.zeros((1, 1))})
    assert g.losses["only"] == 1.0 + 2.0**-50


def test_float32_parameters_are_widened_exactly() -> None:
    case = pair("tanh", "softmax_cross_entropy", "mean", "float32")
    narrow = pe.oracle.gradients(*case.arguments)
    wide = pe.oracle.gradients(
        case.net,
        case.net.parameters({name: array.astype(np.float64) for name, array in case.params.items()}),
        case.x.astype(np.float64),
        {name: array.astype(np.float64) for name, array in case.targets.items()},
    )
    np.testing.assert_array_equal(narrow.summed.flat, wide.summed.flat)


def test_medium_network_agrees_with_the_reference() -> None:
    net = pe.Network(
        n_in=40,
        trunk=[pe.Dense(64, "relu"), pe.Dense(32, "gelu")],
        heads={
            "digit": pe.Head([pe.Dense(10)], "softmax_cross_entropy"),
            "ink": pe.Head([pe.Dense(16, "tanh"), pe.Dense(1)], "mse", weight=0.5),
        },
    )
    case = problem(net, batch=20, classes=True)
    bounds = gradient_bounds(*case.arguments)
    oracle, reference = pe.oracle.gradients(*case.arguments), pe.reference.gradients(*case.arguments)
    assert bounds.check(reference, oracle) == []
    faulty = copy.deepcopy(reference)
    faulty.summed["trunk.1.weight"][...] *= 1.0 + 1e-6
    assert bounds.check(faulty, oracle) != []
