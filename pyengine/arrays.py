"""Taking arrays from anywhere: NumPy arrays as they are, other libraries' CPU arrays through DLPack, without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import sentence


def as_numpy(argument: str, given: object) -> npt.NDArray[Any]:
    """View ``given`` as a NumPy array: no copy for NumPy and DLPack arrays, a new array for nested lists of numbers.

    Raises ``TypeError`` for what is no array of numbers, among it arrays that live on another device or that
    require a gradient, and masked arrays, whose masks would be lost.
    """
    if isinstance(given, np.ndarray):
        # The exact type is asked first, for np.ma is imported when it is first named.
        if type(given) is not np.ndarray and isinstance(given, np.ma.MaskedArray):
            raise TypeError(
                sentence(
                    argument,
                    got="is a masked array",
                    expected="an array without a mask",
                    remedy="Remove the masked samples, or give them a sample weight of 0.",
                )
            )
        return given
    try:
        if hasattr(given, "__dlpack__"):
            return np.from_dlpack(given)
        array = np.asarray(given)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise TypeError(
            sentence(
                argument,
                got=f"cannot be viewed as a NumPy array ({reason})",
                expected="an array on the CPU",
                remedy="Detach it and move it to the CPU first.",
            )
        ) from error
    if array.dtype == object:
        raise TypeError(
            sentence(
                argument,
                got=f"is of type {type(given).__name__}",
                expected="an array of numbers",
                remedy="Pass a NumPy array, or an array of a library that speaks DLPack.",
            )
        )
    return array
