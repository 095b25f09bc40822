"""Witnesses of losses that were multiplied by a power of two before they went back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from refusals import refused
from test_narrow import NET, kept_as, problem, rounded

import pyengine as pe
from pyengine.checks.staged.recording import recorded

SCALE = 2.0**10
ENDS = {layers[-1].name for layers in NET.head_layers.values()}


@pytest.fixture(scope="module")
def scaled() -> tuple[Any, ...]:
    """Parameters, x, targets and the witnesses of a computation in float16 that scales its losses."""
    params, x, targets = problem("float16")

    def tamper(place: Any, value: Any, _: Any) -> Any:
        return rounded(value * SCALE if place.part == "dh" and place.key in ENDS else value, "float16")

    return params, x, targets, kept_as(recorded(NET, params, x, targets, tamper=tamper), np.float16)


@pytest.mark.parametrize(("said", "verdict"), [(SCALE, "CERTIFIED"), (1.0, "REFUTED"), (2.0 * SCALE, "REFUTED")])
def test_the_scale_of_the_losses_has_to_be_the_one_that_is_said(
    scaled: tuple[Any, ...], said: float, verdict: str
) -> None:
    report = pe.verify_witnesses(NET, *scaled, loss_scale=said)
    assert report.verdict == verdict, report
    assert report.first_failure is None or report.first_failure.kind == "loss"


@pytest.mark.parametrize("scale", [0.0, 3.0, -2.0, np.inf, np.nan])
def test_a_scale_that_would_round_the_losses_fails(scaled: tuple[Any, ...], scale: float) -> None:
    refused(
        lambda: pe.verify_witnesses(NET, *scaled, loss_scale=scale), ValueError, "loss_scale", f"is {scale!r}",
        "a power of two",
    )  # fmt: skip
