"""Correct computations on data that breaks statistics: constant, repeated, tiny, huge, saturated, at the kink."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from problems import Problem, plain
from staged_runs import everyday, jax_witnesses, torch_witnesses, verdict_of

import pyengine as pe
from pyengine.checks.staged.recording import recorded


def zero_init(given: Problem) -> Problem:
    return given._replace(params=given.net.parameters({name: 0 * value for name, value in given.params.items()}))


def constant_batch(given: Problem) -> Problem:
    same = {name: np.repeat(target[:1], len(target), axis=0) for name, target in given.targets.items()}
    return given._replace(x=np.full_like(given.x, 0.3), targets=same)


def repeated_samples(given: Problem) -> Problem:
    some = np.arange(len(given.x)) % 3
    return given._replace(x=given.x[some], targets={name: target[some] for name, target in given.targets.items()})


def repeated_units(given: Problem) -> Problem:
    equal = {
        name: np.repeat(value[:1], len(value), axis=0) if name.startswith("trunk") else value
        for name, value in given.params.items()
    }
    return given._replace(params=given.net.parameters(equal))


def positive(given: Problem) -> Problem:
    params = {name: np.abs(value) for name, value in given.params.items()}
    return given._replace(params=given.net.parameters(params), x=np.abs(given.x))


def rank_one(given: Problem) -> Problem:
    params = {
        name: value if value.ndim == 1 else np.outer(value[:, 0], value[0]) for name, value in given.params.items()
    }
    return given._replace(params=given.net.parameters(params))


def scaled_inputs(given: Problem, factor: float) -> Problem:
    return given._replace(x=given.x * given.x.dtype.type(factor))


def huge_logits(given: Problem) -> Problem:
    grown = {
        name: value * value.dtype.type(1e6) if name.startswith(("heads.a", "heads.digit")) else value
        for name, value in given.params.items()
    }
    return given._replace(params=given.net.parameters(grown))


def trained(given: Problem) -> Problem:
    """Gradient descent until the classes are nearly right, so that gradients cancel."""
    params = given.net.parameters(given.params)
    for _ in range(200):
        gradient = given.net.summed_gradient(params, given.x, given.targets)
        params.flat[:] -= params.dtype.type(0.05) * gradient.flat
    assert np.isfinite(params.flat).all()
    return given._replace(params=params)


CASES: dict[str, Callable[[Problem], Problem]] = {
    "zero init": zero_init,
    "constant batch": constant_batch,
    "repeated samples": repeated_samples,
    "repeated units": repeated_units,
    "positive": positive,
    "rank one": rank_one,
    "inputs of 1e-38": lambda given: scaled_inputs(given, 1e-38),
    "inputs of 1e-20": lambda given: scaled_inputs(given, 1e-20),
    "inputs of 1e6": lambda given: scaled_inputs(given, 1e6),
    "logits of 1e6": huge_logits,
    "trained": trained,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_correct_witnesses_of_difficult_data_are_certified(size: str, case: str, dtype: str) -> None:
    given = CASES[case](everyday(size, dtype))
    for witnesses in (recorded(*given), torch_witnesses(given)):
        report = verdict_of(given, witnesses)
        assert report.verdict == "CERTIFIED", report.answer


@pytest.mark.parametrize("case", CASES)
def test_correct_tanh_witnesses_of_difficult_data_are_certified(case: str) -> None:
    given = CASES[case](everyday("small", activation="tanh"))
    report = verdict_of(given, torch_witnesses(given))
    assert report.verdict == "CERTIFIED", report.answer


@pytest.mark.parametrize("case", CASES)
def test_correct_jax_witnesses_of_difficult_data_are_certified(case: str) -> None:
    given = CASES[case](everyday("tiny"))
    report = verdict_of(given, jax_witnesses(given), flush_to_zero=True)
    assert report.verdict == "CERTIFIED", report.answer


def test_a_large_constant_batch_rounds_coherently_as_replays_show() -> None:
    net = pe.Network(3, [], {"only": pe.Head([pe.Dense(2)], "mse")})
    x, target = np.full((8192, 3), 0.3, np.float32), np.full((8192, 2), 0.7, np.float32)
    given = Problem(net, net.init(1), x, {"only": target})
    report = verdict_of(given, recorded(*given))
    assert report.verdict == "CERTIFIED", report.answer
    assert report.staged.coherent_rounding
    assert "replays" in report.answer
    assert "✓ replayed" in str(report)


def test_the_convention_of_a_relu_at_zero_is_reported() -> None:
    given = zero_init(plain("float32"))
    heads = {f"heads.{name}": 1.0 for name in given.net.heads}
    params = {
        name: value + np.float32(0.5) if name.startswith(tuple(heads)) and name.endswith("weight") else value
        for name, value in given.params.items()
    }
    net = pe.Network(given.net.n_in, [pe.Dense(8, "relu"), pe.Dense(8, "relu")], given.net.heads)
    given = given._replace(net=net, params=net.parameters(params))
    report = verdict_of(given, recorded(*given))
    assert report
    assert any("units at z = 0: f'(0) = 0" in stage.note for stage in report.stages)
