"""Claims about Keras models that the engine does not know, run once a backend by ``test_keras_observed.py``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras_script import Claims

import pyengine as pe
from pyengine import digits as packaged

claim = Claims()
BACKEND = keras.backend.backend()
BATCH = 24
layers = keras.layers


def digits() -> tuple[Any, dict[str, Any]]:
    data = packaged.load()
    return data.x[:BATCH].reshape(BATCH, 8, 8, 1), {"digit": data.digit[:BATCH], "ink": data.ink[:BATCH, :1]}


def convolutions(kind: Any = keras.Model, before_ink: Callable[[Any], Any] = lambda h: h) -> Any:
    """A convolution, batch norm, dropout that is on, a regularizer, two heads."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((8, 8, 1))
    h = layers.Conv2D(4, 3, strides=2, name="conv")(pixels)
    h = layers.Flatten()(layers.ReLU()(layers.BatchNormalization(name="norm")(h)))
    h = layers.Dropout(0.2)(layers.Dense(8, "tanh", kernel_regularizer="l2", name="dense")(h))
    digit, ink = layers.Dense(10, "softmax", name="digit")(h), layers.Dense(1, name="ink")(before_ink(h))
    model = kind(pixels, [digit, ink])
    model.compile("adam", loss=["categorical_crossentropy", "mse"], loss_weights=[1.0, 0.3])
    return model


def judged(model: Any, *batch: Any) -> pe.Verification:
    before = [w.copy() for w in model.get_weights()]
    report = pe.verify(model, *batch)
    json.loads(report.to_json())
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)), "the model was changed"
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert keras.config.floatx() == "float32"
    return report


@claim
def a_convolutional_network_with_batch_norm_is_judged_by_keras_alone() -> None:
    report = judged(convolutions(), *digits())
    assert report.verdict == "CONSISTENT", report
    assert report.combination.verdict == "summed", report
    assert list(report.combination.alpha) == ["digit", "ink", "regularizers"]
    assert report.ledger.verdict == "balanced"
    assert "of type " in report.not_judged["stages"]
    assert report.reach["digit"]["conv/kernel"] == "reached"
    outcomes = {slope.loss: slope.outcome for slope in report.slopes}
    # Keras takes float64 means in float32 on JAX, and multiplies float64 matrices in float32 on PyTorch.
    expected = "holds" if BACKEND == "tensorflow" else "cannot tell"
    assert outcomes == {"digit": expected, "ink": expected, "regularizers": "holds"}, report
    assert ("differences" in report.not_judged) == (BACKEND != "tensorflow")


@claim
def a_transformer_block_is_judged_by_keras_alone() -> None:
    keras.utils.set_random_seed(0)
    tokens = keras.Input((8,), dtype="int32")
    h = layers.Embedding(17, 8, name="tokens")(tokens)
    h = layers.LayerNormalization()(layers.Add()([h, layers.MultiHeadAttention(2, 4, dropout=0.1)(h, h)]))
    h = layers.GlobalAveragePooling1D()(h)
    model = keras.Model(tokens, {"digit": layers.Dense(10)(h), "ink": layers.Dense(1)(h)})
    loss = {"digit": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "ink": "mse"}
    model.compile("adam", loss=loss, loss_weights={"digit": 1.0, "ink": 0.5})
    x, targets = digits()
    report = judged(model, (16 * x.reshape(BATCH, 64)[:, ::8]).round().astype("int32"), targets)
    assert report.verdict == "CONSISTENT", report
    assert report.combination.verdict == "summed", report


class Narrow(layers.Layer):  # type: ignore[misc]
    """Computes in bfloat16, whatever its policy says."""

    def call(self, x: Any) -> Any:
        return keras.ops.cast(keras.ops.cast(x, "bfloat16") * 2.0, x.dtype)


@claim
def a_bfloat16_inside_makes_plateaus_and_no_false_alarm() -> None:
    keras.utils.set_random_seed(0)
    x, targets = digits()
    pixels = keras.Input((8, 8, 1))
    h = Narrow()(layers.Dense(16, "tanh")(layers.Flatten()(pixels)))
    model = keras.Model(pixels, [layers.Dense(10, "softmax", name="digit")(h), layers.Dense(1, name="ink")(h)])
    model.compile("adam", loss=["sparse_categorical_crossentropy", "mse"])
    report = judged(model, x, targets)
    assert report.verdict == "CONSISTENT", report
    assert "computes in bfloat16" in report.unjudged["differences"]


@claim
def a_total_that_is_the_mean_is_named() -> None:
    class Averaged(keras.Model):  # type: ignore[misc]
        def compute_loss(self, *given: Any, **named: Any) -> Any:
            extra = keras.ops.sum(self.losses[0])
            return (super().compute_loss(*given, **named) - extra) / 2.0 + extra

    report = judged(convolutions(Averaged), *digits())
    assert report.verdict == "INCONSISTENT", report
    assert [round(a.value, 5) for a in report.combination.alpha.values()] == [0.5, 0.15, 1.0], report
    assert report.ledger.verdict == "unexplained rest"


@claim
def a_stopped_gradient_shows_in_reach() -> None:
    report = judged(convolutions(before_ink=keras.ops.stop_gradient), *digits())
    word = report.reach["ink"]["conv/kernel"]
    if BACKEND == "tensorflow":
        assert (report.verdict, word) == ("INCONSISTENT", "detached"), report
    else:
        assert word in ("untouched", "zero"), report
        assert report.combination.verdict == "cannot tell"


def steps_of(how: str) -> pe.Verification:
    """Two honest steps of a convolutional network with batch norm, then one that is watched."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((8, 8, 1))
    h = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, strides=2, name="conv")(pixels))
    h = layers.Flatten()(layers.ReLU()(h))
    model = keras.Model(pixels, {"digit": layers.Dense(10, name="digit")(h), "ink": layers.Dense(1, name="ink")(h)})
    losses = {"digit": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "ink": "mse"}
    optimizer = keras.optimizers.Adam(0.01)
    x, targets = digits()

    def step(digit: float, ink: float) -> None:
        model.compile(optimizer, losses, {"digit": digit, "ink": ink})
        model.train_on_batch(x, targets)

    for _ in range(2):
        step(1.0, 0.3)
    taken = {"summed": [(1.0, 0.3)], "averaged": [(0.5, 0.15)], "missing loss": [(1.0, 0.0)],
             "in turn": [(1.0, 0.0), (0.0, 0.3)]}  # fmt: skip
    with pe.watch(model, losses, optimizer, {"digit": 1.0, "ink": 0.3}) as seen:
        for weights in taken[how]:
            step(*weights)
    return seen.report(x, targets)


@claim
def a_step_of_a_network_with_batch_norm_is_named_by_replaying_it() -> None:
    report = steps_of("summed")
    assert report.verdict == "CONSISTENT", report
    assert report.update.verdict == "summed", report
    for how in ("averaged", "missing loss", "in turn"):
        report = steps_of(how)
        assert report.verdict == "INCONSISTENT", report
        assert report.update.verdict == how, report


if __name__ == "__main__":
    claim.run()
