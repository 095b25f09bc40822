"""Witnesses for the staged check, and the networks of its tests."""

from __future__ import annotations

from typing import Any

from problems import Problem

import pyengine as pe


def verdict_of(given: Problem, witnesses: pe.Witnesses, **options: Any) -> pe.StagedReport:
    """The report on witnesses of a problem."""
    net, params, x, targets, sample_weight = given
    return pe.verify_witnesses(net, params, x, targets, witnesses, sample_weight, **options)
