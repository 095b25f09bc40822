"""Keras: run the layers of a model on a batch and keep every number between them.

Each layer runs as the model runs it, by its own ``__call__`` with ``training=True``. Only its activation is listened
to, because what lies between a Dense layer's product and its activation has no name in Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .keras_graph import Place

Zeros = Mapping[tuple[str, str], Any]
"""(``"z"`` or ``"h"``, layer) -> zeros to be added there, by which a functional framework can be differentiated."""


@dataclass(eq=False)
class Seen:
    """The tensors of one forward pass; ``shaped`` is the input of the first dense layer, ``masks`` those of outputs."""

    shaped: Any = None
    z: dict[str, Any] = field(default_factory=dict)
    h: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    masks: dict[str, Any] = field(default_factory=dict)

    @property
    def inner(self) -> dict[tuple[str, str], Any]:
        return {**{("z", name): t for name, t in self.z.items()}, **{("h", name): t for name, t in self.h.items()}}


def forward(
    keras: Any, shaping: tuple[Any, ...], trunk: Mapping[str, Place], heads: Mapping[str, Mapping[str, Place]],
    logits: set[str], x: Any, zeros: Zeros | None = None,
) -> Seen:  # fmt: skip
    """One pass; ``logits`` names the layers whose activation belongs to the loss, so that h is z."""
    seen = Seen()
    tap = _Tap(keras, seen, logits, zeros or {})
    h = keras.ops.convert_to_tensor(x)
    for step in shaping:
        h = called(step, h)
    seen.shaped = h
    for name, place in trunk.items():
        h = tap.run(name, place, h)
    for head, places in heads.items():
        own = h
        for name, place in places.items():
            own = tap.run(name, place, own)
        seen.outputs[head] = own
        # Held here, because JAX hands back other arrays than those the layers marked.
        seen.masks[head] = mask_of(own)
    return seen


def called(step: Any, x: Any) -> Any:
    """Call a layer or an operation as a training step does."""
    return step(x, training=True) if getattr(step, "_call_has_training_arg", False) else step(x)


class _Tap:
    def __init__(self, keras: Any, seen: Seen, logits: set[str], zeros: Zeros) -> None:
        self.keras, self.seen, self.logits, self.zeros = keras, seen, logits, zeros

    def run(self, name: str, place: Place, x: Any) -> Any:
        for step in place.before:
            x = called(step, x)
        with listened(place.layer, lambda z: self._keep("z", name, z)):
            h = called(place.layer, x)
        for step in place.after:
            h = called(step, h)
        copies = place.dense.activation.name == "linear" and not place.after
        if name in self.logits or copies:
            return h
        return self._keep("h", name, h)

    def _keep(self, kind: str, name: str, value: Any) -> Any:
        added = self.zeros.get((kind, name))
        if added is not None:
            mask = mask_of(value)
            value = value + added
            if mask is not None:
                masking().set_keras_mask(value, mask)
        (self.seen.z if kind == "z" else self.seen.h)[name] = value
        return value


def mask_of(value: Any) -> Any:
    """The mask that Keras holds for a tensor, or None. On JAX it is not an attribute of the array: arrays take none."""
    return masking().get_keras_mask(value)


def masking() -> Any:
    from keras.src.backend.common import masking as module

    return module


@contextmanager
def listened(layer: Any, hear: Callable[[Any], Any]) -> Iterator[None]:
    """Within, what the layer hands to its activation goes through ``hear``. The layer is left as it was."""
    own, held = layer.activation, vars(layer)
    kept = held.get("activation", held)
    # Straight into the instance's dict: Keras and PyTorch would track the assignment.
    held["activation"] = lambda z: own(hear(z)) if own is not None else hear(z)
    try:
        yield
    finally:
        if kept is held:
            del held["activation"]
        else:
            held["activation"] = kept
