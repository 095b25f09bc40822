"""1,797 handwritten digits, packaged: real data for the demo, small enough to travel with the code.

Source: *Optical Recognition of Handwritten Digits*, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998,
doi:10.24432/C50P49, CC BY 4.0; see ``data/README.md``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt

SIDE = 8
LEVELS = 16
SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


@dataclass(frozen=True, eq=False)
class Digits:
    """The data set in the form that a network takes.

    ``x`` is (1797, 64) float32 in [0, 1], the grey level divided by 16; ``digit`` is (1797,) int64, 0 to 9; ``ink`` is
    (1797, 2) float32, the centre of mass of the ink as (right, down) of the image's centre, in pixel widths, so within
    ±3.5.
    """

    x: npt.NDArray[np.float32]
    digit: npt.NDArray[np.int64]
    ink: npt.NDArray[np.float32]


def load() -> Digits:
    """Read the packaged data and check its SHA-256; raises ``ValueError`` if it is not what was packaged.

    >>> digits = load()
    >>> digits.x.shape, digits.digit.shape, digits.ink.shape
    ((1797, 64), (1797,), (1797, 2))
    """
    with (
        (resources.files(__package__) / "data" / "digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        images, labels = stored["images"], stored["labels"]
    found = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"The packaged digits have SHA-256 {found}; expected {SHA256}. "
            "The installation is damaged: install pyengine-grad again."
        )
    return Digits(
        x=images.astype(np.float32) / np.float32(LEVELS),
        digit=labels.astype(np.int64),
        ink=centre_of_mass(images).astype(np.float32),
    )


def centre_of_mass(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The ink's centre of mass for images (n, 64): (n, 2), as (right, down) of the image's centre in pixel widths.

    >>> corner = np.zeros((1, 64), np.uint8)
    >>> corner[0, 7] = 16
    >>> centre_of_mass(corner)
    array([[ 3.5, -3.5]])
    """
    ink = images.reshape(-1, SIDE, SIDE).astype(np.float64)
    place = np.arange(SIDE) - (SIDE - 1) / 2.0
    mass = ink.sum(axis=(1, 2))
    centre = np.stack([ink.sum(axis=1) @ place, ink.sum(axis=2) @ place], axis=1) / mass[:, None]
    return np.asarray(centre, dtype=np.float64)
