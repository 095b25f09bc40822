"""How small a fault may be and still be caught: the sizes that the documentation promises, network by network.

The computations are NumPy's, in float32; tests/test_staged_faults.py has faults in PyTorch's.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import pyengine as pe
from pyengine.checks.staged.statistics import PROJECTED
from pyengine.selftest.campaign import FAULTS
from pyengine.selftest.cases import Case, case
from pyengine.selftest.detection import detect, differs
from pyengine.selftest.fault import Evidence, Fault, scaled, tampered

NAMED = {fault.name: fault for fault in FAULTS}
SIZES = ["tiny", "small", "medium"]
PASSES = ["a", "b", "summed"]


@functools.cache
def correct(name: str) -> Case:
    """The case, after it was seen to be certified."""
    held = case(name)
    assert detect(held, Evidence(held.truth), only="staged").verdicts["staged"] == "CERTIFIED"
    return held


def one_pass(witnesses: pe.Witnesses, of: str) -> pe.Backward:
    found = witnesses.summed if of == "summed" else witnesses.per_loss[of]
    assert found is not None
    return found


def with_gradient(witnesses: pe.Witnesses, of: str, changed: dict[str, Any]) -> pe.Witnesses:
    held = one_pass(witnesses, of)
    wrong = replace(held, gradient={**held.gradient, **changed})
    if of == "summed":
        return replace(witnesses, summed=wrong)
    return replace(witnesses, per_loss={**witnesses.per_loss, of: wrong})


def verdict(held: Case, witnesses: pe.Witnesses) -> pe.StagedReport:
    return pe.verify_witnesses(held.net, held.params, held.x, held.targets, witnesses)


def path(of: str) -> str:
    return "summed" if of == "summed" else f"per_loss[{of!r}]"


# ------------------------------------------------------------------------------------------------------------- staged


@pytest.mark.parametrize("of", PASSES)
@pytest.mark.parametrize(("size", "epsilon"), [("tiny", 1e-6), ("small", 3e-7), ("medium", 3e-7)])
def test_a_gradient_scaled_as_a_whole_is_refuted(size: str, epsilon: float, of: str) -> None:
    held = correct(size)
    changed = {n: scaled(v, 1.0 + epsilon) for n, v in one_pass(held.truth, of).gradient.items()}
    report = verdict(held, with_gradient(held.truth, of, changed))
    assert report.verdict in {"REFUTED", "REFUTED_STATISTICAL"}
    failed = {stage.name for stage in report.staged.failures}
    assert {f"{path(of)}.gradient['{n}']" for n in changed if n.startswith("trunk.") and n.endswith("weight")} <= failed
    assert all(name.startswith(f"{path(of)}.gradient") for name in failed)


@pytest.mark.parametrize("of", PASSES)
@pytest.mark.parametrize(("size", "epsilon"), [("tiny", 1e-6), ("small", 3e-7), ("medium", 3e-7)])
def test_the_gradient_of_one_weight_matrix_of_the_trunk_scaled_alone_is_refuted(
    size: str, epsilon: float, of: str
) -> None:
    held = correct(size)
    for layer in held.net.trunk_layers:
        name = f"{layer.name}.weight"
        wrong = {name: scaled(np.asarray(one_pass(held.truth, of).gradient[name]), 1.0 + epsilon)}
        report = verdict(held, with_gradient(held.truth, of, wrong))
        assert [stage.name for stage in report.staged.failures] == [f"{path(of)}.gradient['{name}']"]


@pytest.mark.parametrize("of", PASSES)
@pytest.mark.parametrize("size", ["tiny", "small"])
def test_every_tensor_scaled_by_twice_what_the_report_says_it_can_see_is_refuted(size: str, of: str) -> None:
    """A bias has few entries, so that little averages out; the report says how little, and the check keeps to it."""
    held = correct(size)
    deviations = {s.name: s.scale.deviation for s in verdict(held, held.truth).stages if s.scale is not None}
    for name, value in one_pass(held.truth, of).gradient.items():
        where = f"{path(of)}.gradient['{name}']"
        epsilon = 2.0 * PROJECTED * deviations[where]
        wrong = {name: scaled(np.asarray(value), 1.0 + epsilon)}
        report = verdict(held, with_gradient(held.truth, of, wrong))
        assert [stage.name for stage in report.staged.failures] == [where], epsilon


def stale(size: str) -> Fault:
    """A ReLU's mask of other samples, in the last layer of the trunk."""
    last = correct(size).net.trunk_layers[-1].name
    plant = tampered("dz", last, lambda value, operands, _: operands[0] * np.roll(operands[1], 1, axis=0))
    return replace(NAMED["stale mask"], plant=plant, where=f"per_loss['a'].dz['{last}']")


PROMISED: list[tuple[str, float]] = [
    ("sample missing", 1.0),
    ("divided by batch - 1", 1.0),
    ("loss weight", 1e-3),
    ("bias missing", 1.0),
    ("stale mask", 1.0),
    ("bfloat16 product, weights", 1.0),
    ("TF32 product, weights", 1.0),
    ("label smoothing", 1e-6),
    ("weight decay", 1e-6),
]


@pytest.mark.parametrize(("name", "epsilon"), PROMISED)
@pytest.mark.parametrize("size", SIZES)
def test_a_promised_fault_is_refuted_where_it_was_planted(size: str, name: str, epsilon: float) -> None:
    held = correct(size)
    fault = stale(size) if name == "stale mask" else NAMED[name]
    evidence = fault.plant(held, epsilon)
    assert differs(evidence, Evidence(held.truth))
    found = detect(held, evidence, only="staged")
    assert found.by("staged")
    # In medium the heads have a layer more.
    assert found.first.startswith(fault.where.replace("heads.b.0", f"heads.b.{1 if size == 'medium' else 0}"))


@pytest.mark.parametrize("name", ["gelu by tanh", "gelu's derivative by tanh"])
def test_gelu_by_tanh_is_refuted_at_its_layer(name: str) -> None:
    fault = NAMED[name]
    held = correct(fault.case)
    found = detect(held, fault.plant(held, 1.0), only="staged")
    assert found.by("staged R")
    assert found.first == fault.where


# ---------------------------------------------------------------------------------------------------------- black-box


@pytest.mark.parametrize("of", PASSES)
@pytest.mark.parametrize("size", ["small", "medium"])
def test_a_final_gradient_scaled_by_one_in_a_million_is_inconsistent(size: str, of: str) -> None:
    held = correct(size)
    right = dict(one_pass(held.truth, of).gradient)
    wrong = {name: scaled(np.asarray(value), 1.0 + 1e-6) for name, value in right.items()}
    verdicts = []
    for gradient in (right, wrong):
        given = {"summed": gradient} if of == "summed" else {"per_loss": {of: gradient}}
        verdicts.append(pe.verify_gradients(*held.arguments, **given).verdict)
    assert verdicts == ["CONSISTENT", "INCONSISTENT"]


@pytest.mark.parametrize("size", SIZES)
def test_the_promised_faults_show_in_the_final_gradient(size: str) -> None:
    held = correct(size)
    for name in ("sample missing", "divided by batch - 1", "bias missing", "loss weight", "TF32 product, weights"):
        evidence = NAMED[name].plant(held, 1e-3)
        assert detect(held, evidence, only="black-box").by("black-box"), name
