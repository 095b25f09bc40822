"""Correct computations on data that breaks statistics are certified; bench/fuzz has the cases and runs all of them."""

from __future__ import annotations

import numpy as np
import pytest
from fuzz.adversarial import DATA, SHAPES, zero_init
from problems import Problem, plain
from staged_runs import everyday, jax_witnesses, torch_witnesses, verdict_of
from tensorflow_route import tensorflow_witnesses

import pyengine as pe
from pyengine.checks.staged.recording import recorded


@pytest.mark.parametrize("case", DATA)
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_correct_witnesses_of_difficult_data_are_certified(size: str, case: str, dtype: str) -> None:
    given = DATA[case](everyday(size, dtype))
    for witnesses in (recorded(*given), torch_witnesses(given)):
        report = verdict_of(given, witnesses)
        assert report.verdict == "CERTIFIED", report.answer


@pytest.mark.parametrize("case", DATA)
def test_correct_tanh_witnesses_of_difficult_data_are_certified(case: str) -> None:
    given = DATA[case](everyday("small", activation="tanh"))
    report = verdict_of(given, torch_witnesses(given))
    assert report.verdict == "CERTIFIED", report.answer


@pytest.mark.parametrize("case", DATA)
def test_correct_jax_and_tensorflow_witnesses_of_difficult_data_are_certified(case: str) -> None:
    given = DATA[case](everyday("tiny"))
    for witnesses in (jax_witnesses(given), tensorflow_witnesses(given)):
        report = verdict_of(given, witnesses, flush_to_zero=True)
        assert report.verdict == "CERTIFIED", report.answer


@pytest.mark.parametrize("case", SHAPES)
def test_correct_witnesses_of_extreme_shapes_are_certified(case: str) -> None:
    given = SHAPES[case]()
    for witnesses, flush in (
        (recorded(*given), False),
        (torch_witnesses(given), False),
        (tensorflow_witnesses(given), True),
    ):
        report = verdict_of(given, witnesses, flush_to_zero=flush)
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


def smoothed_classes(label_smoothing: float) -> Problem:
    """Nearly the same outputs in every sample; some classes are about as likely as smoothing makes their target."""
    loss = pe.SoftmaxCrossEntropy(label_smoothing=label_smoothing)
    net = pe.Network(4, [pe.Dense(4, "tanh")], {"only": pe.Head([pe.Dense(682)], loss)})
    rng, params = np.random.default_rng(0), net.init(0)
    params["heads.only.0.weight"][...] *= np.float32(0.1)
    params["heads.only.0.bias"][...] = rng.standard_normal(682)
    return Problem(net, params, rng.standard_normal((759, 4), dtype=np.float32), {"only": rng.integers(0, 682, 759)})


def test_the_sum_of_smoothed_targets_rounds_alike_in_every_sample_as_replays_show() -> None:
    given = smoothed_classes(0.1)
    report = verdict_of(given, torch_witnesses(given))
    assert report.verdict == "CERTIFIED", report.answer
    assert report.staged.coherent_rounding


def test_smoothing_that_is_off_by_a_millionth_is_refuted_all_the_same() -> None:
    assert verdict_of(smoothed_classes(0.1), torch_witnesses(smoothed_classes(0.100001))).verdict == "REFUTED"


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
