"""Small versions of the self-test's networks, in any dtype: finite differences visit every parameter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import pyengine as pe
from pyengine.selftest.cases import Case

WIDTH, BATCH = 8, 12


def reduced(case: Case, dtype: str) -> Case:
    """The corner of a case: at most 8 inputs, 8 units a hidden layer, 12 samples; the outputs stay."""

    def cut(layers: tuple[pe.Dense, ...], last: bool) -> list[pe.Dense]:
        widths = [min(layer.n_out, WIDTH) for layer in layers]
        if last:
            widths[-1] = layers[-1].n_out
        return [replace(layer, n_out=width) for layer, width in zip(layers, widths, strict=True)]

    heads = {name: pe.Head(cut(head.layers, True), head.loss, head.weight) for name, head in case.net.heads.items()}
    net = pe.Network(min(case.net.n_in, WIDTH), cut(case.net.trunk, False), heads)
    params = {
        name: case.params[name][tuple(slice(n) for n in shape)].astype(dtype)
        for name, shape in net.layout.shapes.items()
    }
    x = np.ascontiguousarray(case.x[:BATCH, : net.n_in]).astype(dtype)
    targets = {name: np.ascontiguousarray(target[:BATCH]) for name, target in case.targets.items()}
    targets = {name: target.astype(dtype) if target.dtype.kind == "f" else target for name, target in targets.items()}
    weights = case.sample_weight
    return Case(
        case.name, net, net.parameters(params), x, targets,
        None if weights is None else {name: np.asarray(w)[:BATCH] for name, w in weights.items()}, case.seed,
    )  # fmt: skip


def at(case: Case, flat: np.ndarray[Any, Any]) -> Case:
    """The case at other parameters."""
    params = case.net.parameters(case.params)
    params.flat[:] = flat
    return replace(case, params=params)
