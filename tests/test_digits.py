"""The packaged digits are the real ones, whole, and in the stated units."""

from __future__ import annotations

import numpy as np
import pytest

from pyengine import digits


def test_shapes_dtypes_and_ranges() -> None:
    data = digits.load()
    assert (data.x.shape, data.x.dtype) == ((1797, 64), np.float32)
    assert (data.digit.shape, data.digit.dtype) == ((1797,), np.int64)
    assert (data.ink.shape, data.ink.dtype) == ((1797, 2), np.float32)
    assert (data.x.min(), data.x.max()) == (0.0, 1.0)
    assert np.bincount(data.digit).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.abs(data.ink).max() < 3.5


def test_digits_equal_those_of_scikit_learn() -> None:
    theirs = pytest.importorskip("sklearn.datasets").load_digits()
    data = digits.load()
    assert np.array_equal(data.x * digits.LEVELS, theirs.data)
    assert np.array_equal(data.digit, theirs.target)


def test_centre_of_mass_points_right_and_down() -> None:
    image = np.zeros((2, 8, 8), np.uint8)
    image[0, 0, 7] = 5
    image[1, 6:8, 3:5] = 16
    assert digits.centre_of_mass(image.reshape(2, 64)).tolist() == [[3.5, -3.5], [0.0, 3.0]]


def test_damaged_data_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match="damaged"):
        digits.load()
