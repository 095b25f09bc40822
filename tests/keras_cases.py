"""What ``pe.verify`` says of Keras models, as claims that hold on every backend.

Keras has one backend a process, so the tests run this file once a backend (``keras_script.py``, ``keras_claims.py``).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras_script import Claims

import pyengine as pe
from pyengine import demo

claim = Claims()
BACKEND = keras.backend.backend()
CLIPS = BACKEND != "tensorflow"


def batch(n_in: int = 12, size: int = 32) -> tuple[Any, dict[str, Any]]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(size, n_in)).astype("f4")
    return x, {"digit": rng.integers(0, 5, size), "ink": rng.normal(size=(size, 2)).astype("f4")}


def two_heads(
    act: Any = "tanh",
    loss: Any = "mse",
    last: Any = None,
    digit: Any = "categorical_crossentropy",
    second: Any = "tanh",
    **options: Any,
) -> Any:
    keras.utils.set_random_seed(0)
    pixels = keras.Input((12,))
    h = keras.layers.Dense(16, act, name="one", **options)(pixels)
    h = keras.layers.Dense(8, second, use_bias=False, name="two")(h)
    heads = [keras.layers.Dense(5, "softmax", name="digit")(h), keras.layers.Dense(2, last, name="ink")(h)]
    model = keras.Model(pixels, heads)
    model.compile("adam", loss=[digit, loss], loss_weights=[1.0, 0.5])
    return model


def certified(model: Any, x: Any, targets: Any, sample_weight: Any = None) -> Any:
    report = pe.verify(model, x, targets, sample_weight=sample_weight)
    assert report.verdict == "CERTIFIED", str(report) + "\n" + str(report.staged)
    assert report.combination is not None
    return report


@claim
def the_question_is_certified() -> None:
    x, targets = demo.draw(0, 64)
    model = demo.keras_model(0)
    before = [w.copy() for w in model.get_weights()]
    report = certified(model, x, targets)
    assert report.combination.verdict == "summed", report
    assert [a.configured for a in report.combination.alpha.values()] == [1.0, 0.5]
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    data = json.loads(report.to_json())
    assert len(data["stages"]) > 30
    assert {p["native"] for p in data["parameters"]} >= {"shared_1/kernel", "ink/bias"}
    assert data["environment"]["backend"].startswith(BACKEND)


@claim
def every_activation_is_certified() -> None:
    given = [
        *("linear", "relu", "leaky_relu", "elu", "tanh", "sigmoid", "softplus", "silu", "gelu"),
        functools.partial(keras.activations.gelu, approximate=True),
        functools.partial(keras.activations.leaky_relu, negative_slope=0.3),
        keras.layers.ReLU(),
        keras.layers.LeakyReLU(0.1),
        keras.layers.ELU(0.5),
    ]
    for act in given:
        certified(two_heads(act), *batch())


@claim
def every_loss_is_certified() -> None:
    x, targets = batch()
    losses = keras.losses
    values = [
        *("mse", "mae", "huber", losses.Huber(0.3), losses.MeanSquaredError(reduction="sum")),
        *(losses.MeanAbsoluteError(reduction="mean_with_sample_weight"), losses.mean_squared_error),
    ]
    for loss in values:
        certified(two_heads(loss=loss), x, targets)
    binary = {**targets, "ink": (targets["ink"] > 0.0).astype("f4")}
    for loss in (losses.BinaryCrossentropy(from_logits=True), losses.BinaryCrossentropy(True, label_smoothing=0.1)):
        certified(two_heads(loss=loss), x, binary)
    for loss in ("binary_crossentropy", losses.BinaryCrossentropy(label_smoothing=0.1, reduction="sum")):
        certified(two_heads(loss=loss, last="sigmoid"), x, binary)
    smoothed = losses.CategoricalCrossentropy(label_smoothing=0.1)
    for digit in (smoothed, losses.CategoricalCrossentropy(reduction="sum"), "sparse_categorical_crossentropy"):
        certified(two_heads(digit=digit), x, targets)
    rows = np.eye(5, dtype="f4")[targets["digit"]]
    certified(two_heads(digit="crossentropy"), x, {**targets, "digit": rows})


@claim
def logits_are_certified() -> None:
    x, targets = batch()
    for loss in (keras.losses.CategoricalCrossentropy(True), keras.losses.SparseCategoricalCrossentropy(True)):
        inner = two_heads()
        inner.get_layer("digit").activation = keras.activations.linear
        model = keras.Model(inner.input, inner(inner.input))
        model.compile("adam", loss=[loss, "mse"])
        # Both outputs bear the name of the inner model, so they are given in order.
        certified(model, x, list(targets.values()))


@claim
def weights_of_samples_are_certified() -> None:
    x, targets = batch()
    weights = np.linspace(0.0, 2.0, 32).astype("f4")
    certified(two_heads(), x, targets, weights)
    certified(two_heads(), x, targets, {"digit": weights})
    mean = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    certified(two_heads(loss=mean), x, targets, {"ink": weights})
    certified(two_heads(loss=keras.losses.MeanSquaredError(reduction="sum")), x, targets, {"ink": weights})


@claim
def a_mask_is_certified() -> None:
    x, targets = batch()
    x[:5] = 0.0
    keras.utils.set_random_seed(0)
    given = keras.Input((12,))
    h = keras.layers.Dense(8, "relu")(keras.layers.Masking()(given))
    model = keras.Model(given, {"digit": keras.layers.Dense(5, "softmax")(h), "ink": keras.layers.Dense(2)(h)})
    model.compile("adam", loss={"digit": "sparse_categorical_crossentropy", "ink": "mse"})
    certified(model, x, targets)


@claim
def layers_that_stand_alone_are_certified() -> None:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    trunk = keras.Sequential(
        [keras.Input((6, 2)), layers.Flatten(), layers.Dense(9), layers.LeakyReLU(), layers.Dropout(0.0)]
    )
    given = keras.Input((6, 2))
    h = trunk(given)
    digit = layers.Softmax(name="digit")(layers.Dense(5)(h))
    ink = layers.Identity(name="ink")(layers.Dense(2)(layers.Activation("gelu")(layers.Dense(4)(h))))
    model = keras.Model(given, [digit, ink])
    model.compile("adam", loss=["categorical_crossentropy", "mae"])
    x, targets = batch()
    certified(model, x.reshape(-1, 6, 2), targets)


@claim
def a_sequential_model_is_certified() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(9, "relu"), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    x, targets = batch()
    certified(model, x, targets["ink"][:, :1])
    certified(model, x, targets["ink"][:, 0])


class Subclassed(keras.Model):  # type: ignore[misc]
    """As people write it: layers in __init__, operations in call."""

    def __init__(self, outputs: str = "tuple", cut: bool = False) -> None:
        super().__init__()
        self.one, self.two = keras.layers.Dense(16), keras.layers.Dense(8, "tanh")
        self.digit, self.ink = keras.layers.Dense(5, "softmax", name="digit"), keras.layers.Dense(2, name="ink")
        self.outputs_as, self.cut = outputs, cut

    def call(self, x: Any) -> Any:
        h = self.two(keras.ops.relu(self.one(x)))
        digit, ink = self.digit(h), self.ink(keras.ops.stop_gradient(h) if self.cut else h)
        return {"digit": digit, "ink": ink} if self.outputs_as == "dict" else (digit, ink)


def subclassed(outputs: str = "tuple", cut: bool = False) -> Any:
    keras.utils.set_random_seed(0)
    model = Subclassed(outputs, cut)
    losses = ["categorical_crossentropy", "mse"]
    names = ("digit", "ink")
    model.compile("adam", loss=dict(zip(names, losses, strict=True)) if outputs == "dict" else losses)
    model(batch()[0])
    return model


@claim
def a_subclassed_model_is_certified_and_left_as_it_was() -> None:
    for outputs in ("tuple", "dict"):
        model = subclassed(outputs)
        nodes = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
        certified(model, *batch())
        assert nodes == [len(layer._inbound_nodes) for layer in model._flatten_layers()]


@claim
def a_detached_head_is_refuted_and_named() -> None:
    report = pe.verify(subclassed(cut=True), *batch())
    assert not report
    assert "detached" in report.reach["ink"].values(), report
    assert "detached" not in report.reach["digit"].values(), report
    assert report.combination.verdict == "missing loss"


@claim
def regularizers_and_added_losses_do_not_disturb_the_stages() -> None:
    reg = keras.regularizers.L2(0.01)
    certified(two_heads(kernel_regularizer=reg, activity_regularizer=keras.regularizers.L1(0.01)), *batch())


@claim
def float64_is_certified_where_keras_computes_in_it() -> None:
    if BACKEND == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        x, targets = batch()
        wide = x.astype("f8"), {"digit": targets["digit"], "ink": targets["ink"].astype("f8")}
        plain, tanh = (pe.verify(two_heads(act, second=act), *wide) for act in ("relu", "tanh"))
        # TensorFlow keeps the slope in float32, also where it computes in float64.
        sloped = pe.verify(two_heads(keras.layers.LeakyReLU(0.2), second="relu"), *wide)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
        if BACKEND == "jax":
            jax.config.update("jax_enable_x64", False)
    # On PyTorch Keras multiplies float64 matrices in float32; on JAX it takes their tanh in float32.
    expected = {
        "tensorflow": ("CERTIFIED", "CERTIFIED"),
        "jax": ("CERTIFIED", "REFUTED"),
        "torch": ("REFUTED", "REFUTED"),
    }
    assert (plain.verdict, tanh.verdict) == expected[BACKEND], f"{plain.staged}\n{tanh.staged}"
    assert sloped.verdict == plain.verdict, sloped.staged
    if BACKEND != "tensorflow":
        first = tanh.staged.first_failure
        assert (first.name, first.kind) == {
            "jax": ("h['trunk.0']", "activation"),
            "torch": ("z['trunk.0']", "product"),
        }[BACKEND]


def refusal(call: Callable[[], Any], *said: str) -> None:
    try:
        call()
    except (ValueError, TypeError) as error:
        message = str(error)
    else:
        raise AssertionError("nothing was refused")
    assert message.startswith("`"), message
    assert "; expected " in message, message
    assert all(part in message for part in said), message


@claim
def a_distributed_model_is_refused_and_on_one_device_it_is_certified() -> None:
    x, targets = batch()
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
            mirrored = two_heads()
        for call in (lambda: pe.verify(mirrored, x, targets), lambda: pe.watch(mirrored)):
            refusal(call, "`model`", "distributed by MirroredStrategy", "outside strategy.scope()")
        alone = two_heads()
        alone.set_weights(mirrored.get_weights())
        certified(alone, x, targets)


@claim
def what_the_engine_does_not_know_is_refused_by_name() -> None:
    x, targets = batch()
    layers = keras.layers

    def check(model: Any, *said: str, x: Any = x, targets: Any = targets) -> None:
        refusal(lambda: pe.verify(model, x, targets, mode="staged"), *said)

    def with_layer(layer: Any) -> Any:
        given = keras.Input((12,))
        h = layer(layers.Dense(8)(given))
        model = keras.Model(given, [layers.Dense(5, "softmax", name="digit")(h), layers.Dense(2, name="ink")(h)])
        model.compile("adam", loss=["categorical_crossentropy", "mse"])
        return model

    check(with_layer(layers.Dropout(0.5, name="drop")), "'drop' of type Dropout with rate 0.5")
    check(with_layer(layers.BatchNormalization(name="norm")), "'norm' of type BatchNormalization")
    check(two_heads("selu"), "'selu' in layer 'one'")
    check(two_heads("softmax"), "a softmax between two Dense layers")
    check(two_heads(loss=lambda a, b: keras.ops.mean(a - b, -1)), "on the output 'ink'", "not known to the engine")
    check(two_heads(loss="poisson"), "'poisson' on the output 'ink'")
    check(two_heads(digit=keras.losses.CategoricalCrossentropy(True)), "takes logits from softmax")
    check(two_heads(loss=keras.losses.MeanSquaredError(reduction=None)), "is not reduced")
    check(two_heads(), "`targets`", "lacks ink", targets={"digit": targets["digit"]})
    check(two_heads(), "`targets`", "has colour", targets={**targets, "colour": x})
    check(two_heads(), "`x`", "(batch, n_in)", x=x[:, 0])
    check(two_heads(loss="binary_crossentropy", last="tanh"), "takes probabilities from tanh", "from_logits")
    frozen = two_heads()
    frozen.get_layer("one").trainable = False
    check(frozen, "not trained", "one/kernel")
    check(two_heads(dtype="mixed_bfloat16"), "bfloat16, float32")
    refusal(
        lambda: pe.verify(in_bfloat16("mixed_bfloat16", "softmax"), *batch(), mode="staged"),
        "probabilities in bfloat16 at digit", "from_logits",
    )  # fmt: skip
    check(two_heads(dtype="mixed_float16"), "float16, float32")
    plain = two_heads()
    check(keras.Model(plain.inputs, plain.outputs), "not compiled")


def in_bfloat16(policy: str, last: Any = None) -> Any:
    keras.utils.set_random_seed(0)
    pixels = keras.Input((12,))
    h = keras.layers.Dense(16, "tanh", dtype=policy)(pixels)
    h = keras.layers.Dense(8, "silu", dtype=policy)(h)
    heads = [
        keras.layers.Dense(5, last, name="digit", dtype=policy)(h),
        keras.layers.Dense(2, name="ink", dtype=policy)(h),
    ]
    model = keras.Model(pixels, heads)
    digit = keras.losses.SparseCategoricalCrossentropy(from_logits=last is None)
    model.compile("adam", loss=[digit, "mse"], loss_weights=[1.0, 0.3])
    return model


if __name__ == "__main__":
    claim.run()
