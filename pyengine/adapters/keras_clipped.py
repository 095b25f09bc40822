"""Keras: outputs that learn nothing, because their probability was clipped on the way to a cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..losses import ClippedBinaryCrossEntropy, ClippedCrossEntropy
from ..parameters import Array
from ..rounding.activations import sigmoid
from .computation import Computation
from .keras_subject import Subject

F64 = npt.NDArray[np.float64]


def clipped_outputs(subject: Subject, done: Computation) -> Iterator[str]:
    """A sentence for every loss that gives a confidently wrong output exactly zero gradient."""
    assert done.witnesses is not None
    for name, term in subject.terms.items():
        if not isinstance(term.loss, ClippedCrossEntropy | ClippedBinaryCrossEntropy):
            continue
        last = subject.network.head_layers[name][-1].name
        z = np.asarray(done.witnesses.z[last], np.float64)
        silent = np.asarray(done.witnesses.per_loss[name].dz[last]) == 0.0
        if isinstance(term.loss, ClippedCrossEntropy):
            true, silent = _of_the_class(z, term.target), silent.all(axis=1, keepdims=True)
            each, meant, layer = "samples", "class", "softmax"
        else:
            true, each, meant, layer = _of_the_side(z, term.target), "outputs", "target", "sigmoid"
        low = term.loss.clip_bounds(np.dtype(subject.dtype))[0]
        lost = np.argwhere(silent & (true < low))
        if len(lost):
            first = tuple(lost[0])
            yield (
                f"{len(lost)} of {true.size} {each} have a probability under {low:.0e} for their {meant} in {name!r} "
                f"(first: sample {first[0]}, {true[first]:.1e}) and get exactly zero gradient from it: Keras clips "
                f"probabilities on this backend. Use from_logits=True on a layer without {layer}."
            )


def _of_the_class(z: F64, target: Array) -> F64:
    """The largest probability among the classes that have a target, (batch, 1), by softmax of z (batch, n_out)."""
    shifted = np.exp(z - z.max(axis=1, keepdims=True))
    p = shifted / shifted.sum(axis=1, keepdims=True)
    rows = target if target.ndim == 2 and target.shape[1] > 1 else np.eye(z.shape[1])[target.ravel()]
    return np.asarray((p * (rows > 0)).max(axis=1, keepdims=True))


def _of_the_side(z: F64, target: Array) -> F64:
    """The probability of the end of [0, 1] that the target is nearer to, (batch, n_out), by sigmoid of z."""
    y = np.asarray(target, np.float64).reshape(z.shape)
    return sigmoid(np.where(2.0 * y > 1.0, z, -z))
