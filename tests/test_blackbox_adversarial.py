"""Final gradients of difficult data: correct ones are never called wrong, and a gross fault is, copies or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import frameworks
import numpy as np
import pytest
from fuzz.adversarial import DATA, a_constant_batch_of_8192
from problems import Problem
from staged_runs import everyday

import pyengine as pe


def verdict_of(given: Problem, summed: Mapping[str, Any]) -> pe.Verification:
    net, params, x, targets, weights = given
    return pe.verify_gradients(net, params, x, targets, weights, summed=summed)


COPIES = {"constant batch", "repeated samples", "repeated units", "constant weights", "rank one", "zero init"}
"""Where samples or units may be copies, so that an alarm need not tell of a fault."""


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("case", DATA)
def test_correct_gradients_of_difficult_data_raise_no_alarm(case: str, activation: str) -> None:
    given = DATA[case](everyday("small", activation=activation))
    report = verdict_of(given, frameworks.torch_gradients(*given).summed)
    allowed = {"CONSISTENT", "INCONCLUSIVE"} if case in COPIES else {"CONSISTENT"}
    assert report.verdict in allowed, report


@pytest.mark.parametrize("case", DATA)
def test_a_scale_of_one_percent_is_caught_in_difficult_data(case: str) -> None:
    given = DATA[case](everyday("small"))
    summed = {name: np.float32(1.01) * value for name, value in frameworks.torch_gradients(*given).summed.items()}
    assert verdict_of(given, summed).verdict == "INCONSISTENT"


def test_a_long_sum_of_one_number_is_no_fault_and_a_missing_hundredth_of_it_is() -> None:
    given = a_constant_batch_of_8192()
    summed = frameworks.torch_gradients(*given).summed
    assert verdict_of(given, summed).verdict != "INCONSISTENT"
    spoilt = {**summed, "heads.b.1.weight": np.float32(0.99) * summed["heads.b.1.weight"]}
    assert verdict_of(given, spoilt).verdict == "INCONSISTENT"
