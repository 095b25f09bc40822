"""What ``pe.watch`` sees of Keras' training, run once a backend by ``test_keras_watch.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras_cases import BACKEND, batch, two_heads
from keras_script import Claims
from refusals import refused

import pyengine as pe

claim = Claims()
LOSSES = {"digit": keras.losses.CategoricalCrossentropy(), "ink": keras.losses.MeanSquaredError()}


def rows(targets: dict[str, Any]) -> list[Any]:
    return [np.eye(5, dtype="f4")[targets["digit"]], targets["ink"]]


def loop(model: Any, optimizer: Any, weights: dict[str, float], compiled: bool = True) -> Callable[[Any, Any], None]:
    """A step written by hand, as each backend's users do: a tape, a pure function, backward()."""

    def total(outputs: Any, y: Any) -> Any:
        return sum(weights[n] * loss(y[i], outputs[i]) for i, (n, loss) in enumerate(LOSSES.items()))

    if BACKEND == "tensorflow":
        import tensorflow as tf

        def taped(x: Any, *y: Any) -> None:
            with tf.GradientTape() as tape:
                value = total(model(x, training=True), y)
            found = tape.gradient(value, model.trainable_variables)
            optimizer.apply_gradients(zip(found, model.trainable_variables, strict=True))

        run = tf.function(taped) if compiled else taped
        return lambda x, y: run(x, *y)
    if BACKEND == "jax":
        import jax

        optimizer.build(model.trainable_variables)

        def pure(state: Any, x: Any, y: Any) -> Any:
            values, others, slots = state
            found = jax.grad(lambda w: total(model.stateless_call(w, others, x, training=True)[0], y))(values)
            values, slots = optimizer.stateless_apply(slots, found, values)
            return values, others, slots

        run = jax.jit(pure) if compiled else pure

        def functional(x: Any, y: Any) -> None:
            held = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
            after = run(tuple([v.value for v in part] for part in held), x, y)
            if compiled:  # else the loop keeps its state to itself
                for part, values in zip(held, after, strict=True):
                    for variable, value in zip(part, values, strict=True):
                        variable.assign(value)

        return functional
    import torch

    def backward(x: Any, y: Any) -> None:
        model.zero_grad()
        total(model(torch.as_tensor(x), training=True), y).backward()
        with torch.no_grad():
            optimizer.apply([v.value.grad for v in model.trainable_variables], model.trainable_variables)

    return backward


def expect(report: pe.Verification, *names: str) -> None:
    assert report.verdict == ("INCONSISTENT" if names else "CONSISTENT"), report
    assert [d.name for d in report.diagnoses][: len(names)] == list(names), report


@claim
def compiled_training_is_seen_and_left_as_it_was() -> None:
    x, targets = batch()
    weights = []
    for watched in (False, True):
        model = two_heads()
        model.train_on_batch(x, rows(targets))
        function = model.train_function
        if watched:
            with pe.watch(model) as seen:
                model.train_on_batch(x, rows(targets))
                assert not model.run_eagerly
            expect(seen.report(x, targets))
            assert seen.report(x, targets).update.applied.own
            assert (seen.steps[0].steps, len(seen.steps)) == (1, 1)
        else:
            model.train_on_batch(x, rows(targets))
        assert model.train_function is function
        assert not {"apply", "train_step", "make_train_function"} & {*vars(model), *vars(model.optimizer)}
        weights.append([w.tobytes() for w in model.get_weights()])
    assert weights[0] == weights[1]


@claim
def optimizers_are_replayed_in_their_second_step_and_a_wrong_step_is_caught() -> None:
    x, targets = batch()
    kinds = keras.optimizers
    for optimizer in (
        kinds.SGD(0.1, momentum=0.9, loss_scale_factor=1024.0),
        kinds.AdamW(weight_decay=0.01, global_clipnorm=0.1),
        kinds.Nadam(),
    ):
        model = two_heads()
        model.compile(optimizer, ["categorical_crossentropy", "mse"], loss_weights=[1.0, 0.5], run_eagerly=True)
        with pe.watch(model) as seen:
            for _ in range(2):
                model.train_on_batch(x, rows(targets))
        report = seen.report(x, targets, step=1)
        expect(report)
        assert report.update.applied.own
        own = optimizer.apply

        def farther(grads: Any, variables: Any = None, own: Any = own, model: Any = model) -> Any:
            held = model.trainable_variables
            before = [keras.ops.convert_to_numpy(v) for v in held]
            done = own(grads, variables)
            for old, v in zip(before, held, strict=True):
                v.assign(v + 0.01 * (v - old))
            return done

        if BACKEND != "jax":  # whose variables may not be written beside the optimizer
            vars(optimizer)["apply"] = farther
            with pe.watch(model) as seen:
                model.train_on_batch(x, rows(targets))
            assert vars(optimizer)["apply"] is farther
            assert "wrong step" in {d.name for d in seen.report(x, targets).diagnoses}, optimizer.get_config()


@claim
def loops_by_hand_are_judged_compiled_and_not() -> None:
    x, targets = batch()
    for compiled, weights, name in (
        (True, {"digit": 1.0, "ink": 0.5}, ()),
        (True, {"digit": 0.5, "ink": 1.0}, ("weights exchanged",)),
        (False, {"digit": 1.0, "ink": 0.5}, ()),
    ):
        model, optimizer = two_heads(), keras.optimizers.Adam(1e-2)
        step = loop(model, optimizer, weights, compiled)
        with pe.watch(model, LOSSES, optimizer, {"ink": 0.5}) as seen:
            step(x, rows(targets))
        expect(seen.report(x, targets), *name)


@claim
def the_third_of_several_steps_is_judged_and_all_together_are_too_many() -> None:
    x, targets = batch()
    model = two_heads()
    y = rows(targets)
    with pe.watch(model) as seen:
        model.fit(np.tile(x, (3, 1)), [np.tile(a, (3, 1)) for a in y], batch_size=len(x), shuffle=False, verbose=0)
    assert len(seen.steps) == 3
    expect(seen.report(x, targets, step=2))
    expect(seen.report(x, targets), "stepped twice")


@claim
def loss_scaling_is_seen_through() -> None:
    x, targets = batch()
    model = two_heads()
    model.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), ["categorical_crossentropy", "mse"], [1.0, 0.5]
    )
    with pe.watch(model) as seen:
        model.train_on_batch(x, rows(targets))
    expect(seen.report(x, targets))


@claim
def a_convolution_with_batch_norm_and_a_regularizer_is_judged_by_keras_alone() -> None:
    keras.utils.set_random_seed(0)
    layers, (x, targets) = keras.layers, batch()
    pixels = keras.Input((12,))
    h = layers.Conv1D(4, 3, kernel_regularizer="l2", name="conv")(layers.Reshape((12, 1))(pixels))
    h = layers.Flatten()(layers.ReLU()(layers.BatchNormalization(name="norm")(h)))
    model = keras.Model(pixels, [layers.Dense(5, "softmax", name="digit")(h), layers.Dense(2, name="ink")(h)])
    model.compile("adam", loss=["categorical_crossentropy", "mse"], loss_weights=[1.0, 0.5])
    with pe.watch(model) as seen:
        model.train_on_batch(x, rows(targets))
    given = dict(zip(("digit", "ink"), rows(targets), strict=True))
    report = seen.report(x, given)
    expect(report)
    assert (report.combination.verdict, report.update.verdict) == ("summed", "summed"), report
    assert report.reach["regularizers"]["trunk.conv/kernel"] == "reached", report.reach


@claim
def what_cannot_be_watched_fails() -> None:
    model = two_heads()
    refused(lambda: pe.watch(model, loss_weights={"ink": 2.0}), ValueError, "loss_weights", "without losses")
    refused(lambda: pe.watch(model, optimizer="adam"), TypeError, "optimizer", "is str")
    refused(lambda: pe.watch(model, {"nose": "mse"}), ValueError, "losses", "nose")
    x, targets = batch()
    with pe.watch(model) as seen:
        model(x)
    refused(lambda: seen.report(x, targets), ValueError, "optimizer", "took no step")
    if BACKEND == "tensorflow":
        step = loop(model, model.optimizer, {"digit": 1.0, "ink": 0.5})
        with pe.watch(model, LOSSES) as seen:
            for _ in range(5):
                step(x, rows(targets))
        refused(lambda: seen.report(x, targets), ValueError, "optimizer", "5 steps in compiled calls")


if __name__ == "__main__":
    claim.run()
