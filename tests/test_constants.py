"""The sweep of the rounding model's constants: its committed figures, and that it sees a function that is wrong."""

from __future__ import annotations

import json

import numpy as np
from constants import command
from constants.functions import evaluation
from constants.measure import Standard, Worst


def test_the_docs_show_the_committed_sweep_and_no_bound_is_exceeded() -> None:
    result = json.loads(command.RESULT.read_text(encoding="utf-8"))
    text = command.DOCS.read_text(encoding="utf-8")
    assert command.documented(result, text) == text
    for held in result.values():
        for one in held.values():
            assert one["value"][0] <= 1.0
            assert one["slope"] is None or one["slope"][0] <= 1.0


def test_values_within_pass_and_a_wrong_ulp_count_is_seen() -> None:
    z = np.linspace(-3.0, 3.0, 1 << 12, dtype=np.float32)
    standard, evaluate = Standard.of("tanh", z), evaluation("numpy", "tanh")
    assert evaluate is not None
    value, slope = evaluate(z)
    good, bad = (Worst(), Worst()), (Worst(), Worst())
    standard.judge("numpy", value, slope, good)
    standard.judge("numpy", value * np.float32(1 + 2e-6), slope, bad)
    assert 0.0 < good[0].share <= 1.0
    assert bad[0].share > 1.0
