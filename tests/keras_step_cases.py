"""What ``pe.verify`` says of the training steps of Keras models: Keras' own, and ones written to differ.

Run once a backend by ``keras_claims.py``, as ``keras_cases.py`` is.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import keras
import numpy as np
from keras_cases import BACKEND, CLIPS, batch, certified, two_heads
from keras_script import Claims

import pyengine as pe
from pyengine import demo
from pyengine.adapters import keras_kept, keras_model, keras_step, keras_stepping

claim = Claims()


class Custom(keras.Model):  # type: ignore[misc]
    """A model whose train_step descends on ``totals``: functions of the two losses, one optimizer step for each."""

    totals: tuple[Any, ...] = ()
    other: Any = None

    def losses_of(self, data: Any, weights: Any = None) -> tuple[Any, Any]:
        x, y = data[0], data[1]
        if weights is None:
            digit, ink = self(x, training=True)
        else:
            digit, ink = self.stateless_call(weights, [v.value for v in self.non_trainable_variables], x)[0]
        ce = keras.ops.mean(keras.losses.categorical_crossentropy(y[0], digit))
        return ce, keras.ops.mean(keras.losses.mean_squared_error(y[1], ink))

    def train_step(self, *given: Any) -> Any:
        data = given[-1] if self.other is None else self.other
        variables = self.trainable_variables
        if BACKEND == "jax":
            import jax

            values, others, slots, metrics = given[0]
            for total in self.totals:
                gradients = jax.grad(lambda w, total=total: total(*self.losses_of(data, w)))(values)
                values, slots = self.optimizer.stateless_apply(slots, gradients, values)
            return {}, (values, others, slots, metrics)
        for total in self.totals:
            if BACKEND == "tensorflow":
                import tensorflow as tf

                with tf.GradientTape() as tape:
                    loss = total(*self.losses_of(data))
                gradients = tape.gradient(loss, variables)
            else:
                import torch

                self.zero_grad()
                total(*self.losses_of(data)).backward()
                gradients = [v.value.grad for v in variables]
            pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
            if BACKEND == "torch":
                with torch.no_grad():
                    self.optimizer.apply_gradients(pairs)
            else:
                self.optimizer.apply_gradients(pairs)
        return {}


def custom(*totals: Any, other: Any = None) -> Any:
    """Verify the question's model on the digits, with a train_step of one's own."""
    question = demo.keras_model(0)
    model = Custom(question.inputs[0], question.outputs)
    model.compile("adam", loss=["categorical_crossentropy", "mse"], loss_weights=[1.0, 0.5])
    model.totals, model.other = totals, other
    before = [w.copy() for w in model.get_weights()]
    report = pe.verify(model, *demo.draw(0, 64))
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    assert report.staged is not None
    assert report.staged.ok, report.staged
    return report


def named(report: Any, combination: str | None, update: str) -> None:
    assert report.update.verdict == update, report
    assert combination is None or report.combination.verdict == combination, report
    assert report.verdict == "INCONSISTENT", report
    assert "did not apply" in report.answer


@claim
def the_question_is_answered() -> None:
    model = demo.keras_model(0)
    report = pe.verify(model, *demo.draw(0, 64))
    assert report.verdict == "CERTIFIED", report
    assert report.combination.verdict == "summed", report
    assert report.update.verdict == "summed", report
    assert report.update.hypotheses[0].own
    assert report.ledger.verdict == "balanced", report
    assert [t.name for t in report.ledger.terms] == ["digit", "ink"]
    assert not report.notes


@claim
def a_custom_step_that_sums_is_certified() -> None:
    report = custom(lambda digit, ink: digit + 0.5 * ink)
    assert (report.verdict, report.update.verdict) == ("CERTIFIED", "summed"), report


@claim
def one_step_per_loss_in_turn_is_named() -> None:
    named(custom(lambda digit, ink: digit, lambda digit, ink: 0.5 * ink), None, "in turn")


@claim
def the_mean_is_named() -> None:
    named(custom(lambda digit, ink: (digit + 0.5 * ink) / 2), "averaged", "averaged")


@claim
def a_detached_loss_is_named() -> None:
    named(custom(lambda digit, ink: digit + 0.5 * keras.ops.stop_gradient(ink)), "missing loss", "missing loss")


@claim
def exchanged_weights_are_named() -> None:
    named(custom(lambda digit, ink: 0.5 * digit + ink), "weights exchanged", "weights exchanged")


@claim
def the_gradient_of_the_previous_batch_is_named() -> None:
    x, targets = demo.draw(1, 64)
    other = (x, (np.eye(10, dtype="f4")[targets["digit"]], targets["ink"]))
    named(custom(lambda digit, ink: digit + 0.5 * ink, other=other), "not a combination", "another gradient")


@claim
def nothing_is_left_changed() -> None:
    model = two_heads()
    x, targets = batch()
    rows = np.eye(5, dtype="f4")[targets["digit"]]
    model.train_on_batch(x, [rows, targets["ink"]])
    held = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before = [keras.ops.convert_to_numpy(v).copy() for v in held]
    compiled = model.train_function
    report = pe.verify(model, x, targets)
    assert (report.verdict, report.update.verdict) == ("CERTIFIED", "summed"), report
    assert all((a == keras.ops.convert_to_numpy(v)).all() for a, v in zip(before, held, strict=True))
    assert model.train_function is compiled
    assert "apply" not in vars(model.optimizer)
    assert not model.run_eagerly


@claim
def regularizers_and_added_losses_stand_in_combination_and_ledger() -> None:
    options = {"kernel_regularizer": keras.regularizers.L2(0.01), "activity_regularizer": keras.regularizers.L1(0.01)}
    report = pe.verify(two_heads(**options), *batch())
    assert (report.verdict, report.combination.verdict) == ("CERTIFIED", "summed"), report
    assert list(report.combination.alpha) == ["digit", "ink", "regularizers", "add_loss"]
    assert [t.name for t in report.ledger.terms] == ["digit", "ink", "regularizers", "add_loss"]
    assert report.ledger.verdict == "balanced", report


@claim
def a_regularizer_of_a_head_alone_leaves_the_shared_gradient_summed() -> None:
    model = two_heads()
    model.get_layer("ink").kernel_regularizer = keras.regularizers.L2(0.01)
    model.get_layer("ink").kernel.regularizer = keras.regularizers.L2(0.01)
    report = pe.verify(model, *batch())
    assert (report.verdict, report.combination.verdict) == ("CERTIFIED", "summed"), report
    assert list(report.combination.alpha) == ["digit", "ink"], report
    assert [t.name for t in report.ledger.terms] == ["digit", "ink", "regularizers"], report


@claim
def a_regularizer_below_rounding_is_named_and_leaves_the_losses_summed() -> None:
    report = pe.verify(two_heads(kernel_regularizer=keras.regularizers.L2(1e-9)), *batch())
    assert (report.verdict, report.combination.verdict) == ("CERTIFIED", "summed"), report
    assert "regularizers may be in it or not" in report.combination.reason, report


@claim
def a_regularizer_that_a_step_leaves_out_is_named() -> None:
    question = two_heads(kernel_regularizer=keras.regularizers.L2(0.01))
    model = Custom(question.inputs[0], question.outputs)
    model.compile("adam", loss=["categorical_crossentropy", "mse"], loss_weights=[1.0, 0.5])
    model.totals = (lambda digit, ink: digit + 0.5 * ink,)
    x, targets = batch()
    report = pe.verify(model, x, targets)
    assert report.combination.verdict == "missing loss", report
    assert "regularizers" in report.combination.reason, report
    assert report.verdict == "INCONSISTENT", report


@claim
def a_model_of_one_output_has_a_ledger() -> None:
    class Halved(keras.Sequential):  # type: ignore[misc]
        def compute_loss(self, *given: Any, **named: Any) -> Any:
            return super().compute_loss(*given, **named) / 2.0

    x, targets = batch()
    for kind, verdict in ((keras.Sequential, "balanced"), (Halved, "unexplained rest")):
        keras.utils.set_random_seed(0)
        dense = keras.layers.Dense
        model = kind([keras.Input((12,)), dense(9, "relu", kernel_regularizer="l2"), dense(2, name="ink")])
        model.compile("sgd", loss="mse", loss_weights=[0.7])
        report = pe.verify(model, x, targets["ink"])
        assert report.ledger.verdict == verdict, report
        assert [(t.name, t.weight) for t in report.ledger.terms] == [("ink", 0.7), ("regularizers", 1.0)], report
        assert bool(report) == (verdict == "balanced"), report


@claim
def every_option_of_the_optimizer_is_read() -> None:
    kinds = keras.optimizers
    for optimizer in (
        kinds.SGD(0.1),
        kinds.SGD(0.1, momentum=0.9, nesterov=True),
        kinds.RMSprop(),
        kinds.AdamW(weight_decay=0.01),
        kinds.Adam(amsgrad=True),
        kinds.Nadam(),
        kinds.Adam(global_clipnorm=0.1),
        kinds.Adam(clipvalue=0.001),
        kinds.Adam(loss_scale_factor=1024.0),
        kinds.LossScaleOptimizer(kinds.Adam()),
    ):
        model = two_heads()
        model.optimizer = optimizer
        report = pe.verify(model, *batch())
        assert (report.verdict, report.update.verdict) == ("CERTIFIED", "summed"), f"{optimizer.get_config()}\n{report}"
        assert not report.notes, report


@claim
def what_is_compiled_for_an_optimizer_belongs_to_its_options_and_dies_with_it() -> None:
    model = two_heads()
    model.optimizer = keras.optimizers.SGD(0.1)
    x, targets = batch()
    held = [*model.trainable_variables, *model.optimizer.variables]
    # By the framework's own optimizer clipped and unclipped steps are told apart: one of either cannot stand for both.
    for clip in (None, 0.01, None):
        model.optimizer.clipnorm = clip
        report = pe.verify(model, x, targets)
        assert (report.verdict, report.update.verdict) == ("CERTIFIED", "summed"), report
        assert report.update.hypotheses[0].own
        first = keras_stepping._kept.get(model.optimizer)
        pe.verify(model, x, targets)
        assert keras_stepping._kept.get(model.optimizer) is first
        assert (first is None) == (BACKEND == "torch")
    optimizer = weakref.ref(model.optimizer)
    del model, held, first, report
    gc.collect()
    assert optimizer() is None
    assert not len(keras_stepping._kept)


@claim
def what_is_compiled_for_a_model_belongs_to_its_options_and_dies_with_it() -> None:
    x, targets = batch()

    def change(model: Any, number: int) -> float:
        """Something that a program which was compiled before knows nothing of; the weight of the second loss."""
        if number == 1:
            model.get_layer("one").activation = keras.activations.tanh
        elif number == 2:
            model.get_layer("two").kernel.regularizer = keras.regularizers.L2(0.1)
        elif number == 3:
            model.get_layer("two").kernel.regularizer.l2 = 0.2
        elif number == 4:
            model.compile("sgd", loss=["categorical_crossentropy", "mse"], loss_weights=[1.0, 0.25])
        return 0.25 if number == 4 else 0.5

    model = two_heads()
    for number in range(5):
        weight, seen = change(model, number), []
        for _ in range(3):  # on TensorFlow eager, compiled, kept
            report = certified(model, x, targets)
            assert (report.combination.verdict, report.update.verdict) == ("summed", "summed"), report
            assert report.combination.alpha["ink"].configured == weight, report
            assert ("regularizers" in report.combination.alpha) == (number >= 2), report
            seen.append(list(keras_kept._kept[model].held.values()) if model in keras_kept._kept else [])
        assert all(one is other for one, other in zip(seen[1], seen[2], strict=True))
        assert bool(seen[2]) == (BACKEND != "torch")
    dead = weakref.ref(model)
    del model, report
    gc.collect()
    assert dead() is None
    assert not len(keras_kept._kept)


@claim
def nothing_is_kept_of_what_a_user_wrote() -> None:
    x, targets = batch()
    model = two_heads()
    model.compute_loss = lambda *given, **named: keras.Model.compute_loss(model, *given, **named)
    assert pe.verify(model, x, targets).verdict == "CERTIFIED"
    assert model not in keras_kept._kept
    model = two_heads()
    certified(model, x, targets)
    assert (model in keras_kept._kept) == (BACKEND != "torch")


@claim
def an_optimizer_of_ones_own_is_replayed_as_it_is() -> None:
    class Halving(keras.optimizers.SGD):  # type: ignore[misc]
        scale = 0.5

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            super().update_step(gradient * self.scale, variable, learning_rate)

    model = two_heads()
    model.optimizer = Halving(0.1)
    for scale in (0.5, 2.0):
        model.optimizer.scale = scale
        report = pe.verify(model, *batch())
        assert (report.verdict, report.update.verdict) == ("CERTIFIED", "summed"), report


@claim
def a_confidently_wrong_sample_is_shown_where_probabilities_are_clipped() -> None:
    model = two_heads()
    x, targets = batch()
    layer = model.get_layer("digit")
    layer.bias.assign([40.0, 0.0, 0.0, 0.0, 0.0])
    report = pe.verify(model, x, targets)
    assert bool(report.notes) == CLIPS, report
    if CLIPS:
        wrong = int((targets["digit"] != 0).sum())
        assert report.notes[0].startswith(f"{wrong} of 32 samples"), report.notes
        assert report.notes[0] in str(report)


@claim
def confidently_wrong_outputs_are_shown_where_a_sigmoid_is_clipped() -> None:
    model = two_heads(loss="binary_crossentropy", last="sigmoid")
    x, targets = batch()
    binary = {**targets, "ink": (targets["ink"] > 0.0).astype("f4")}
    for bias in ([30.0, 0.0], [-30.0, 0.0], [15.94, -16.12]):  # beyond both ends of the clip, and at both
        model.get_layer("ink").bias.assign(bias)
        report = certified(model, x, binary)
        assert (report.combination.verdict, report.update.verdict) == ("summed", "summed"), report
        assert CLIPS or not report.notes, report
        if CLIPS and abs(bias[0]) == 30.0:
            wrong = int((binary["ink"][:, 0] != (bias[0] > 0.0)).sum())
            assert report.notes[0].startswith(f"{wrong} of 64 outputs"), report.notes
            assert "layer without sigmoid" in report.notes[0]


@claim
def few_numbers_are_stepped_as_among_all() -> None:
    model, (x, targets) = two_heads(), batch()
    optimizers = keras.optimizers
    for optimizer in (
        optimizers.Adam(0.01), optimizers.AdamW(0.01, weight_decay=0.1), optimizers.SGD(0.1, momentum=0.9),
        optimizers.SGD(0.1, clipvalue=0.01), optimizers.RMSprop(0.01),
    ):  # fmt: skip
        model.compile(optimizer, loss=["categorical_crossentropy", "mse"], loss_weights=[1.0, 0.5])
        subject = keras_step.subject_of(model, x, targets)
        model.train_on_batch(subject.x, keras_model.keras_targets(subject))
        subject = keras_step.subject_of(model, x, targets)
        step = keras_step.observe(subject, *keras_step.gradients_of(subject))
        assert step.own is not None
        assert step.own_at is not None
        some = np.arange(0, step.trunk_size, 3)
        whole, few, drawn = step.own(), step.own_at(some), np.random.default_rng(0)
        for _ in range(2):
            gradient = drawn.standard_normal(step.network.layout.size)
            np.testing.assert_array_equal(few.step(gradient[some]), whole.step(gradient)[some])
        assert (few.step(gradient[some]) != step.before.flat[some]).any()


@claim
def what_looks_at_all_numbers_is_not_stepped_at_a_few() -> None:
    model, (x, targets) = two_heads(), batch()
    for options in ({"clipnorm": 1.0}, {"global_clipnorm": 1.0}, {"use_ema": True}):
        model.compile(keras.optimizers.Adam(**options), loss=["categorical_crossentropy", "mse"])
        subject = keras_step.subject_of(model, x, targets)
        assert keras_step.observe(subject, *keras_step.gradients_of(subject)).own_at is None


if __name__ == "__main__":
    claim.run()
