"""Clipping, as frameworks do it, with what rounding and the uncertainty of the gradient may make of it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..parameters import Layout
from ..witnesses import Clip

Vector = npt.NDArray[np.float64]


def clipped(clip: Clip | None, layout: Layout, gradient: Vector, error: Vector, unit: float) -> tuple[Vector, Vector]:
    """The clipped gradient and its uncertainty, both flat in canonical order; unchanged without ``clip``.

    A norm of n entries is the root of a sum of n squares: in any order of summation its relative error is at most
    (n + 2)·u/2 (Higham 2002, eq. 4.4), and the entries' own uncertainty moves it by at most the norm of that.

    >>> import numpy as np, pyengine as pe
    >>> net = pe.Network(n_in=1, trunk=[], heads={"a": pe.Head([pe.Dense(1)], loss="mse")})
    >>> clipped(Clip("global_norm", 1.0), net.layout, np.array([3.0, 4.0]), np.zeros(2), 0.0)[0].round(12)
    array([0.6, 0.8])
    """
    if clip is None:
        return gradient, error
    if clip.kind == "value":
        return np.clip(gradient, -clip.limit, clip.limit), error
    found, moved = gradient.copy(), error.copy()
    for part in _parts(clip, layout):
        g, e = gradient[part], error[part]
        norm, wobble = float(np.linalg.norm(g)), float(np.linalg.norm(e))
        if norm + wobble + clip.plus <= clip.limit:
            continue
        factor = min(1.0, clip.limit / (norm + clip.plus))
        relative = wobble / max(norm, math.ulp(0.0)) + unit * ((g.size + 2) / 2.0 + 3.0)
        found[part] = factor * g
        # The factor is largest where the norm is smallest.
        most = min(1.0, clip.limit / max(norm - wobble + clip.plus, math.ulp(0.0)))
        moved[part] = most * e + np.abs(found[part]) * relative
    return found, moved


def _parts(clip: Clip, layout: Layout) -> Iterator[slice]:
    if clip.kind == "global_norm":
        yield slice(0, layout.size)
        return
    for name in layout.names:
        start = layout.offsets[name]
        yield slice(start, start + math.prod(layout.shapes[name]))
