"""Keras in float16: gradients of losses scaled as training scales them, where float16 can hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import Unsupported, sentence
from .keras_backend import array_of
from .keras_differentiation import Differentiated
from .keras_forward import Seen
from .keras_rule import loss_scale
from .keras_subject import Subject


def within_range(
    keras: Any, subject: Subject, total: str, differentiated: Callable[[float | None], Differentiated]
) -> tuple[float, tuple[str, ...], Differentiated]:
    """The loss scale at which all gradients are finite, what to say of it, and what ``differentiated`` finds there.

    Only float16 needs what the optimizer scales losses by: elsewhere a power of two changes no digit, and the losses
    are differentiated as they are. ``total`` names the value whose gradients training takes. Raises ``ValueError`` for
    numbers that float16 cannot hold at any scale.
    """
    if subject.compute_dtype != "float16":
        return 1.0, (), differentiated(None)
    scale = highest = loss_scale(keras, subject.model.optimizer)
    found = differentiated(scale)
    _require_finite(keras, subject.places, found[1])
    skips = not _finite(keras, found[2][total])
    while not _finite(keras, found[2]):
        if scale <= 1.0:
            raise _overflow("in its gradients")
        scale /= 2.0
        found = differentiated(scale)
    note = (
        f"At the loss scale of {highest:g} gradients overflow float16: Keras skips this step and halves the scale. "
        f"They are judged at {scale:g}."
    )
    return scale, (note,) if skips else (), found


def _require_finite(keras: Any, layers: Iterable[str], seen: Seen) -> None:
    for layer in layers:
        for kind, tensors in (("z", seen.z), ("h", seen.h)):
            if layer not in tensors:
                continue
            lost = np.argwhere(~np.isfinite(array_of(keras, tensors[layer])))
            if len(lost):
                raise _overflow(f"at {kind} of {layer} (sample {lost[0][0]}, unit {lost[0][-1]})")


def _overflow(where: str) -> ValueError:
    return Unsupported(
        sentence("model", got=f"overflows float16 {where}", expected="numbers up to 65504",
                 remedy="Scale its input or weights, or give that layer another dtype.")
    )  # fmt: skip


def _finite(keras: Any, given: Any) -> bool:
    if given is None:
        return True
    if isinstance(given, Mapping):
        return all(_finite(keras, one) for one in given.values())
    if isinstance(given, (list, tuple)):
        return all(_finite(keras, one) for one in given)
    return bool(np.isfinite(array_of(keras, given)).all())
