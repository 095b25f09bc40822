"""Claims about Keras models in bfloat16 and float16, run once a backend by ``test_keras_narrow.py``."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras_cases import batch, in_bfloat16, refusal
from keras_script import Claims

import pyengine as pe
from pyengine.adapters import keras_model

claim = Claims()


@claim
def models_in_bfloat16_are_certified_and_faults_in_them_refuted() -> None:
    x, targets = batch()
    for policy in ("mixed_bfloat16", "bfloat16"):
        report = pe.verify(in_bfloat16(policy), x, targets)
        assert report.verdict == "CERTIFIED", str(report.staged)
        assert "bfloat16" in report.answer
    done, _ = keras_model.compute(keras_model.subject_of(in_bfloat16("mixed_bfloat16"), x, targets))

    def judged() -> Any:
        return pe.verify_witnesses(
            done.network, done.params, done.x, done.targets, done.witnesses, flush_to_zero=done.flush_to_zero,
            loss_dtype="float32", narrow_steps=done.narrow_steps, narrow_sums=done.narrow_sums,
        )  # fmt: skip

    assert judged().verdict == "CERTIFIED"
    for name in ("trunk.0.weight", "trunk.1.weight", "heads.digit.0.weight"):
        gradient = done.witnesses.summed.gradient
        own, gradient[name] = gradient[name], (gradient[name] * 1.02).astype(gradient[name].dtype)
        assert judged().first_failure.name == f"summed.gradient['{name}']"
        gradient[name] = own
    dz = done.witnesses.summed.dz
    dz["trunk.0"] = np.roll(dz["trunk.0"], 1, axis=0)
    assert judged().first_failure.name == "summed.dz['trunk.0']"


def in_float16(initial_scale: float = 2.0**15) -> Any:
    """As ``mixed_float16`` has it: Keras itself puts loss scaling around the optimizer."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = in_bfloat16("mixed_float16")
    finally:
        keras.config.set_dtype_policy(before)
    model.optimizer.initial_scale = initial_scale
    return model


@claim
def models_in_float16_are_certified_at_the_scale_of_their_training() -> None:
    x, targets = batch()
    assert pe.verify(in_bfloat16("float16"), x, targets).verdict == "CERTIFIED"
    model = in_float16()
    report = pe.verify(model, x, targets)
    assert report.verdict == "CERTIFIED", str(report.staged)
    assert "float16" in report.answer
    assert not report.notes
    model.optimizer.build(model.trainable_variables)
    model.optimizer.dynamic_scale.assign(2.0**10)
    done, _ = keras_model.compute(keras_model.subject_of(model, x, targets))
    assert done.loss_scale == 2.0**10

    def judged(scale: float) -> Any:
        return pe.verify_witnesses(
            done.network, done.params, done.x, done.targets, done.witnesses, flush_to_zero=done.flush_to_zero,
            loss_dtype="float32", narrow_steps=done.narrow_steps, narrow_sums=done.narrow_sums, loss_scale=scale,
        )  # fmt: skip

    assert judged(2.0**10).verdict == "CERTIFIED"
    assert judged(2.0**9).first_failure.kind == "loss"
    gradient = done.witnesses.summed.gradient
    gradient["trunk.1.weight"] = (gradient["trunk.1.weight"] * 1.02).astype("float16")
    assert judged(2.0**10).first_failure.name == "summed.gradient['trunk.1.weight']"


@claim
def what_overflows_float16_is_named() -> None:
    x, targets = batch()
    report = pe.verify(in_float16(2.0**24), x, targets)
    assert report.verdict == "CERTIFIED", report
    assert "Keras skips this step" in report.notes[0]
    model = in_float16()
    model.trainable_variables[0].assign(model.trainable_variables[0] * 1e6)
    refusal(lambda: pe.verify(model, x, targets, mode="staged"), "overflows float16 at z of trunk.0")


if __name__ == "__main__":
    claim.run()
