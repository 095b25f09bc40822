"""Rows and a vector in parts: what is put together from small factors is what the whole gives at once."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyengine.checks.least_squares import Explained, explained, together
from pyengine.rounding import accumulated, unit_roundoff

SIZES = (1, 7, 400, 2000)
U = unit_roundoff("float64")


def rows_and_vector(k: int, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """k rows of which the last is the first but for ``apart``, and a vector that they do not explain wholly."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((k, sum(SIZES))) * 10.0 ** rng.uniform(-6, 6, (k, 1))
    rows[-1] = rows[0] + apart * np.linalg.norm(rows[0]) / math.sqrt(rows.shape[1]) * rng.standard_normal(rows.shape[1])
    return rows, rng.standard_normal(k) @ rows + rng.standard_normal(rows.shape[1])


def by_parts(rows: np.ndarray, vector: np.ndarray) -> Explained:
    ends = np.cumsum(SIZES)
    cut = [slice(end - size, end) for end, size in zip(ends, SIZES, strict=True)]
    return together(
        [explained([row[here] for row in rows], vector[here], np.empty(rows[:, here].shape)) for here in cut]
    )


@pytest.mark.parametrize("apart", [1.0, 1e-3, 1e-6])
@pytest.mark.parametrize("k", [2, 3, 5])
def test_parts_put_together_give_what_the_whole_gives(k: int, apart: float) -> None:
    rows, vector = rows_and_vector(k, apart)
    norms = np.linalg.norm(rows, axis=1)
    whole = explained(list(rows), vector, np.empty(rows.shape)).coefficients([0.0] * k, [1.0])
    parts = by_parts(rows, vector).coefficients([0.0] * k, [1.0] * len(SIZES))
    # The rows' own roundings move a solution by the condition, and its residual by the condition's square (Higham 2002,
    # theorem 20.1).
    condition = float(np.linalg.cond(rows / norms[:, None]))
    allowed = accumulated(rows.shape[1], U) * condition**2 * float(np.linalg.norm(vector))
    for (one, _), (other, _), norm in zip(whole, parts, norms, strict=True):
        assert abs(one - other) * norm <= allowed


@pytest.mark.parametrize("apart", [1.0, 1e-9, 0.0])
@pytest.mark.parametrize("k", [2, 3, 8])
def test_what_is_left_is_what_no_row_explains(k: int, apart: float) -> None:
    rows, vector = rows_and_vector(k, apart)
    norms, parts = np.linalg.norm(rows, axis=1), by_parts(rows, vector)
    values = np.random.default_rng(1).standard_normal(k) / norms * np.linalg.norm(vector)
    size = float(np.linalg.norm(vector) + np.abs(values) @ norms)
    allowed = accumulated(k * rows.shape[1], U) * size
    exact = float(np.linalg.norm(vector - values @ rows))
    assert abs(parts.left(list(values)) - exact) <= allowed
    # A planted fault, by more than rounding may account for.
    values[0] += 4.0 * allowed / norms[0] * size / exact
    assert not abs(parts.left(list(values)) - exact) <= allowed


def test_the_intervals_are_those_of_the_parts() -> None:
    """What the whole allows a coefficient if only one part is uncertain is less than if all are, and not nothing."""
    rows, vector = rows_and_vector(3, 1.0)
    parts, ends = by_parts(rows, vector), np.cumsum(SIZES)
    inverse = np.linalg.pinv(rows.T)
    for number, (end, size) in enumerate(zip(ends, SIZES, strict=True)):
        uncertain = np.zeros(len(SIZES))
        uncertain[number] = 2.0
        exact = 2.0 * np.linalg.norm(inverse[:, end - size : end], axis=1)
        radii = np.array([radius for _, radius in parts.coefficients([0.0] * 3, list(uncertain))])
        assert (np.abs(radii - exact) <= accumulated(rows.shape[1], U) * np.linalg.cond(rows) * exact).all()


def test_a_row_without_a_direction_of_its_own_has_no_interval() -> None:
    rows, vector = rows_and_vector(3, 0.0)
    radii = [radius for _, radius in by_parts(rows, vector).coefficients([1e-9] * 3, [1.0] * 4)]
    assert radii[0] == radii[2] == math.inf
    assert math.isfinite(radii[1])
    rows[1] = 0.0
    assert by_parts(rows, vector).coefficients([1e-9] * 3, [1.0] * 4)[1][1] == math.inf
