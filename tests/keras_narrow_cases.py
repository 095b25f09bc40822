"""Claims about Keras models in bfloat16, run once a backend by ``test_keras_narrow.py``."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras_cases import batch, in_bfloat16
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


if __name__ == "__main__":
    claim.run()
