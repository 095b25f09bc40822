"""The two forms in which Huber's derivative is computed, each within its own bound, and no wider than it needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pyengine as pe
from pyengine.rounding import exact, precision
from pyengine.rounding.losses import Rows, samples

DELTA = 0.75


def clipped(r: Any) -> Any:
    """PyTorch's backward, and autodiff of Keras' loss."""
    return np.clip(r, np.float32(-DELTA), np.float32(DELTA))


def split(r: Any, fused: bool) -> Any:
    """Autodiff of ½q² + δ(|r| - q), q = min(|r|, δ), times a factor: as written, or the sum as one fused operation."""
    factor, delta = np.float32(1.1), np.float32(DELTA)
    q = np.minimum(np.abs(r), delta)
    of_size = factor * delta
    of_q = np.where(np.abs(r) <= delta, factor * q - of_size, np.float32(0))
    first = np.float64(factor) * np.float64(delta) if fused else of_size.astype(np.float64)
    total = (first + of_q.astype(np.float64)).astype(np.float32)
    return np.sign(r) * np.where(np.abs(r) <= delta, total.astype(np.float64), np.float64(of_size)) / np.float64(factor)


def largest_share(form: Any, computed: Any, z: Any, y: Any) -> float:
    loss = pe.Huber(delta=DELTA, form=form)
    rows = Rows(y.astype(np.float64), np.zeros(y.shape))
    found = samples(loss, exact(z, 1.0), rows, np.dtype(np.float32), "any", precision("float32"))
    off = np.abs(computed.astype(np.float64) - found.d)
    # A product with the factor is granted elsewhere: one rounding.
    return float((off / (found.d_bound + np.abs(found.d) * 2.0**-24)).max())


@pytest.fixture
def residuals() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((4096, 4)).astype(np.float32)
    y = (z + rng.uniform(-2.0, 2.0, z.shape) * 2.0 ** rng.integers(-20, 1, z.shape)).astype(np.float32)
    return z, y, z - y


def test_the_clipped_form_holds_every_bound(residuals: Any) -> None:
    z, y, r = residuals
    assert largest_share("clipped", clipped(r), z, y) <= 1.0
    assert largest_share("any", clipped(r), z, y) <= 1.0


@pytest.mark.parametrize("fused", [False, True])
def test_the_split_form_holds_its_bound_and_needs_it(residuals: Any, fused: bool) -> None:
    z, y, r = residuals
    assert 0.2 < largest_share("split", split(r, fused), z, y) <= 1.0
    assert largest_share("any", split(r, fused), z, y) <= 1.0
    assert largest_share("clipped", split(r, fused), z, y) > 1.0


def test_a_small_residual_that_is_off_is_seen_only_where_the_form_is_known(residuals: Any) -> None:
    z, y, r = residuals
    wrong = clipped(r) * np.float32(1 + 2.0**-20)
    assert largest_share("clipped", wrong, z, y) > 1.0


def test_an_unknown_form_fails() -> None:
    with pytest.raises(ValueError, match="`form` is 'smooth'"):
        pe.Huber(form="smooth")  # type: ignore[arg-type]
