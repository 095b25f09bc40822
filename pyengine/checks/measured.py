"""The evidence for a model that only its framework can compute: the framework's own gradients, their rounding measured.

The gradient of c·loss, divided by c, is the same number for every c, and for a random c in [1, 2) every rounding of the
backward pass falls anew (:mod:`pyengine.checks.routes`). What the forward pass rounds is the same in every repeat, and
another program, such as a compiled step, rounds it anew: where the model runs in float64, the distance to the gradients
there shows it, at each element and on the mean over its tensor. With V the sample variance of the repeats, the variance
u²/3·g² of rounding the result, λ² for flushing, and both squared distances, the gradient that a loop computed may
differ from the mean of the repeats, elementwise, by

    t·√2·√V + u·|g|

where t is Student's limit (docs/tolerances.md, section 10) for all elements of the model together; √2, as the loop's
gradient is a draw like each of the repeats. The gradients are arranged like those of a network: what several losses
reach comes first, as the trunk, then what a single loss reaches, as its head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from ..activations import Linear
from ..engine import Network
from ..observation import Observation
from ..parameters import Layout, Parameters
from ..rounding.formats import FORMATS
from ..rounding.precision import smallest_normal
from ..rounding.repeats import student_limit
from ..spec import Dense, Head, Layer
from .evidence import Evidence
from .routes import REPEATS, touch
from .staged.statistics import ALPHA

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Shapes:
    """What the checks ask of a network, for a model whose layers are not known: names, shapes and weights."""

    layout: Layout
    loss_layouts: dict[str, Layout]
    heads: dict[str, Head]
    trunk_layers: tuple[Layer, ...]


def arranged(seen: Observation, features: Mapping[str, int]) -> tuple[Network, dict[str, str]]:
    """The stand-in for a network, and canonical parameter name -> the framework's own.

    ``features`` are the numbers of outputs by loss, 1 where they are not known.
    """
    reaching = {
        name: [k for k in seen.weights if touch(seen.per_loss(k, 1.0)[name]) == "reached"] for name in seen.shapes
    }
    single = len(seen.weights) == 1
    native, shapes, size = {}, {}, 0
    for name, losses in reaching.items():
        if single or len(losses) != 1:
            native[f"trunk.{name}"], shapes[f"trunk.{name}"] = name, seen.shapes[name]
            size += math.prod(seen.shapes[name])
    trunk, loss_layouts = dict(shapes), {}
    for loss in seen.weights:
        own = {f"heads.{loss}.{n}": n for n, losses in reaching.items() if losses == [loss] and not single}
        native |= own
        shapes |= {name: seen.shapes[n] for name, n in own.items()}
        loss_layouts[loss] = Layout.of(trunk | {name: seen.shapes[n] for name, n in own.items()})
    heads = {k: Head([Dense(features.get(k, 1))], "mse", weight) for k, weight in seen.weights.items()}
    layers = (Layer("trunk", 1, size, Linear(), False),) if size else ()
    return cast(Network, Shapes(Layout.of(shapes), loss_layouts, heads, layers)), native


def measured_evidence(seen: Observation, net: Network, native: Mapping[str, str], seed: int) -> Evidence:
    """Each loss and its gradient, with what rounding may make of them; the mean of ``REPEATS`` backward passes."""
    unit = FORMATS[seen.dtype].u
    least = smallest_normal(seen.dtype if seen.dtype in {"float16", "float64"} else "float32")
    draw = np.random.default_rng(seed)
    factors = (1.0, *map(float, draw.uniform(1.0, 2.0, REPEATS - 1)))
    limit = student_limit(ALPHA / max(net.layout.size, 1), REPEATS - 1) * math.sqrt(2.0)
    gradients: dict[str, Parameters] = {}
    spread: dict[str, Parameters] = {}
    first: dict[str, Parameters] = {}
    for loss, layout in net.loss_layouts.items():
        given = [seen.per_loss(loss, factor) for factor in factors]
        for found in (gradients, spread, first):
            found[loss] = Parameters(layout, np.zeros(layout.size))
        for name in layout.names:
            own, shape = native[name], layout.shapes[name]
            rows = np.stack([_wide(g[own], shape) / c for c, g in zip(factors, given, strict=True)])
            mean = rows.mean(axis=0)
            variance = rows.var(axis=0, ddof=1) + unit**2 / 3.0 * mean**2 + least**2
            exact = None if seen.twin is None else seen.twin.gradients[loss][own]
            if exact is not None and mean.size:
                square = (mean - np.asarray(exact, np.float64)) ** 2
                variance = variance + square + square.mean()
            gradients[loss][name][...] = mean
            spread[loss][name][...] = limit * np.sqrt(variance) + unit * np.abs(mean)
            first[loss][name][...] = rows[0]
    sizes = {loss: abs(value) for loss, value in seen.losses.items()}
    return Evidence(
        losses=dict(seen.losses),
        # A mean over a batch: the theorem of the other evidence, for terms of the loss' own size.
        loss_spread={loss: (seen.batch + 1) * unit * size for loss, size in sizes.items()},
        gradients=gradients,
        spread=spread,
        engine_32=first,
        agreement=0.0,
        truth="engine",
    )


def _wide(given: npt.ArrayLike | None, shape: tuple[int, ...]) -> F64:
    return np.zeros(shape) if given is None else np.asarray(given, np.float64)
