"""Taking arrays from anywhere: NumPy arrays as they are, other libraries' CPU arrays through DLPack, without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import sentence


def as_wide(argument: str, given: object) -> tuple[npt.NDArray[Any], str]:
    """As :func:`as_numpy`, with the name of the dtype; bfloat16 and float16 become float32, which holds them all.

    Raises ``TypeError`` as :func:`as_numpy` does.
    """
    name = str(getattr(given, "dtype", "")).removeprefix("torch.")
    if name == "bfloat16" and not isinstance(given, np.ndarray):
        # NumPy and DLPack lack bfloat16; PyTorch widens it itself, JAX hands it to NumPy as ml_dtypes has it.
        given = given.float() if hasattr(given, "float") else np.asarray(given)
    array = as_numpy(argument, given)
    name = name or array.dtype.name
    return (array.astype(np.float32), name) if array.dtype.name in {"bfloat16", "float16"} else (array, name)


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


STRIP = 16
"""Numbers of a row that are written together: a cache line of float32."""


def put(target: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
    """``target[...] = values``, of one shape; a matrix that lies column by column is turned a few columns at a time,
    which takes a quarter of the time: a whole row of the target is farther apart in ``values`` than caches reach."""
    if values.ndim != 2 or not values.flags.f_contiguous or values.shape[1] <= STRIP:
        target[...] = values
        return
    for start in range(0, values.shape[1], STRIP):
        target[:, start : start + STRIP] = values[:, start : start + STRIP]
