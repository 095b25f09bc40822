"""The sweep of the rounding model's constants: its committed figures, and that it sees a function that is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from constants import command
from constants.functions import ELEMENTARY, SHAPED, evaluation
from constants.limits import limit
from constants.measure import BINADES, CORE, Standard, Worst, chunks


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


def test_the_logarithm_of_a_flushed_negative_number_may_be_minus_infinity_and_of_another_may_not() -> None:
    for z, holds in ((-1e-40, True), (-1.0, False)):
        worst = (Worst(), Worst())
        standard = Standard.of("log", np.array([z], np.float32))
        standard.judge("jax", np.array([-np.inf], np.float32), None, worst)
        assert (worst[0].share <= 1.0) is holds


@pytest.mark.parametrize("name", [*ELEMENTARY, *SHAPED])
def test_where_a_function_is_a_line_the_short_look_never_finds_less_than_the_long_one(name: str) -> None:
    rng = np.random.default_rng(len(name))
    evaluate = evaluation("torch", name)
    assert evaluate is not None
    taken = 0
    for sign, exponent in [b for b in BINADES if b[1] not in CORE][::37]:
        line, z = limit(name, sign, exponent), next(iter(chunks(sign, exponent)))
        z = rng.choice(z, 64)
        value, slope = evaluate(z)
        shares = None if line is None else line.on(z).shares("torch", value, slope)
        if shares is None:
            continue
        taken += 1
        worst = (Worst(), Worst())
        Standard.of(name, z).judge("torch", value, slope, worst)
        assert worst[0].share <= shares[0]
        assert worst[1].share <= shares[1]
    assert taken or name == "log"


def test_the_short_look_does_not_pass_what_is_wrong() -> None:
    line, z = limit("tanh", 0, 100), np.full(4, 2.0**-27, np.float32)
    assert line is not None
    look = line.on(z)
    assert look.shares("torch", z, np.ones_like(z)) is not None
    assert look.shares("torch", z * np.float32(1 + 2e-6), np.ones_like(z)) is None
    assert look.shares("torch", z, np.full_like(z, np.nan)) is None
    assert look.shares("torch", np.where(np.arange(4) == 2, np.nan, z).astype(np.float32), np.ones_like(z)) is None
    assert look.shares("torch", z, np.ones_like(z)) is not None


def test_figures_add_up_and_a_binade_counts_once() -> None:
    record = {"framework": "torch", "version": "1", "function": "exp", "sign": 0, "exponent": 5, "date": "2026-11-24"}
    first = command.counted([{**record, "value": [0.5, 1.0], "slope": None}])
    again = {**record, "value": [0.9, 1.0], "slope": None}
    both = command.counted([again, {**again, "exponent": 6}], first)["exp"]["torch"]
    assert command.binades(both) == 2
    assert command.covered({"exp": {"torch": both}}) == {("torch", "exp", 0, 5), ("torch", "exp", 0, 6)}
    with pytest.raises(ValueError, match="torch 2"):
        command.counted([{**again, "version": "2", "exponent": 7}], first)
