"""The loops of the gallery in Keras and TensorFlow, each wrong and right; run once a backend by ``test_gallery.py``."""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from gallery.keras_bugs import BUGS

import pyengine as pe
from pyengine import demo

BACKEND = keras.backend.backend()
WEIGHTS = {"digit": 1.0, "ink": 0.5}
kinds = keras.losses


def losses(**options: Any) -> dict[str, Any]:
    return {
        "digit": kinds.SparseCategoricalCrossentropy(from_logits=True, **options),
        "ink": kinds.MeanSquaredError(**options),
    }


LOSSES = losses()


def two_heads(regularizer: Any = None) -> Any:
    """64 → 12 tanh → 8 tanh → digit: 10 | ink: 2."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((64,))
    h = keras.layers.Dense(12, "tanh", kernel_regularizer=regularizer)(pixels)
    h = keras.layers.Dense(8, "tanh")(h)
    model = keras.Model(pixels, [keras.layers.Dense(10, name="digit")(h), keras.layers.Dense(2, name="ink")(h)])
    model.optimizer = keras.optimizers.Adam(1e-2)
    return model


def batch(seed: int = 0, size: int = 24) -> tuple[Any, dict[str, Any]]:
    x, targets = demo.draw(seed, size)
    return x, {"digit": targets["digit"].astype("int32"), "ink": targets["ink"]}


def compiled(reduced: Mapping[str, Any] = LOSSES, weights: Mapping[str, float] = WEIGHTS) -> Any:
    model = two_heads()
    model.compile(model.optimizer, loss=dict(reduced), loss_weights=dict(weights))
    return model


def train(model: Any, x: Any, targets: Any, weight: Mapping[str, Any] | None = None) -> None:
    model.train_on_batch(x, targets, sample_weight=None if weight is None else list(weight.values()))


def values(model: Any, x: Any, targets: Any) -> tuple[Any, Any]:
    digit, ink = model(x, training=True)
    return LOSSES["digit"](targets["digit"], digit), LOSSES["ink"](targets["ink"], ink)


def taped(model: Any, x: Any, targets: Any, combine: Callable[[Any, Any], Any]) -> list[Any]:
    """The gradients of what ``combine`` makes of both losses, by a tape."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        found = combine(*values(model, x, targets))
    return list(tape.gradient(found, model.trainable_variables))


def weighted(digit: Any, ink: Any) -> Any:
    return digit + 0.5 * ink


def apply(model: Any, gradients: Any) -> None:
    model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


def added(parts: list[Any], factor: float = 1.0) -> list[Any]:
    return [factor * sum(one) for one in zip(*parts, strict=True)]


# Each takes whether it goes wrong, and returns the report.


def weights_after_compile(wrong: bool) -> pe.Verification:
    (x, targets), weights = batch(), dict(WEIGHTS)
    model = two_heads()
    model.compile(model.optimizer, loss=LOSSES, loss_weights=weights)
    train(model, x, targets)
    weights["ink"] = 2.0  # a callback at the end of the epoch
    with pe.watch(model, LOSSES, loss_weights={"digit": 1.0, "ink": 2.0}) as seen:
        if not wrong:
            model.compile(model.optimizer, loss=LOSSES, loss_weights=weights)
        train(model, x, targets)
    return seen.report(x, targets)


def by_tape(step: Callable[[Any, Any, Any], None], **asked: Any) -> pe.Verification:
    model, (x, targets) = two_heads(), batch()
    with pe.watch(model, LOSSES, model.optimizer, WEIGHTS, **asked) as seen:
        step(model, x, targets)
    return seen.report(x, targets)


def list_of_losses(wrong: bool) -> pe.Verification:
    combine = (lambda *both: list(both)) if wrong else weighted
    return by_tape(lambda model, x, targets: apply(model, taped(model, x, targets, combine)))


def through_numpy(wrong: bool) -> pe.Verification:
    def combine(digit: Any, ink: Any) -> Any:
        return digit + 0.5 * (float(ink.numpy()) if wrong else ink)

    def step(model: Any, x: Any, targets: Any) -> None:
        found = taped(model, x, targets, combine)
        model.optimizer.apply_gradients(
            (g, v) for g, v in zip(found, model.trainable_variables, strict=True) if g is not None
        )

    return by_tape(step)


def in_parts(step: Callable[[Any, list[Any]], None], parts: list[Any]) -> pe.Verification:
    model = two_heads()
    with pe.watch(model, LOSSES, model.optimizer, WEIGHTS) as seen:
        step(model, parts)
    return seen.report([x for x, _ in parts], [targets for _, targets in parts])


def last_tape(wrong: bool) -> pe.Verification:
    def step(model: Any, parts: list[Any]) -> None:
        total = 0.0
        gradients = []
        for x, targets in parts:

            def window(digit: Any, ink: Any, total: Any = total) -> Any:
                return (total + weighted(digit, ink)) / len(parts)

            gradients.append(taped(model, x, targets, window))
            total = total + weighted(*values(model, x, targets))
        apply(model, gradients[-1] if wrong else added(gradients))

    return in_parts(step, [batch(seed) for seed in range(3)])


def replicas(wrong: bool) -> pe.Verification:
    def step(model: Any, parts: list[Any]) -> None:
        # Each replica's loss is a mean over its own samples; strategy.run adds the gradients up.
        apply(model, added([taped(model, *part, weighted) for part in parts], 1.0 if wrong else 1.0 / len(parts)))

    return in_parts(step, [batch(0), batch(1)])


def clipped_apart(wrong: bool) -> pe.Verification:
    import tensorflow as tf

    def step(model: Any, x: Any, targets: Any) -> None:
        def zeros(gradients: list[Any]) -> list[Any]:
            return [
                tf.zeros_like(v.value) if g is None else g
                for g, v in zip(gradients, model.trainable_variables, strict=True)
            ]

        if wrong:
            each = [zeros(taped(model, x, targets, one)) for one in (lambda d, _: d, lambda _, i: 0.5 * i)]
            apply(model, added([tf.clip_by_global_norm(one, 0.1)[0] for one in each]))
        else:
            apply(model, tf.clip_by_global_norm(taped(model, x, targets, weighted), 0.1)[0])

    return by_tape(step, clip_norm=0.1)


def no_regularizer(wrong: bool) -> pe.Verification:
    model, (x, targets) = two_heads("l2"), batch()

    def combine(digit: Any, ink: Any) -> Any:
        return weighted(digit, ink) + (0.0 if wrong else sum(model.losses))

    with pe.watch(model, LOSSES, model.optimizer, WEIGHTS) as seen:
        apply(model, taped(model, x, targets, combine))
    return seen.report(x, targets)


def in_turn(wrong: bool) -> pe.Verification:
    model, (x, targets) = compiled(), batch()
    on, off = np.ones(len(x), "f4"), np.zeros(len(x), "f4")
    with pe.watch(model) as seen:
        if wrong:
            train(model, x, targets, {"digit": on, "ink": off})
            train(model, x, targets, {"digit": off, "ink": on})
        else:
            train(model, x, targets)
    return seen.report(x, targets)


def not_normalised(wrong: bool) -> pe.Verification:
    x, targets = batch()
    weight = np.linspace(0.5, 1.0, len(x), dtype="f4")
    weights, wanted = {"digit": weight, "ink": weight}, losses(reduction="mean_with_sample_weight")
    model = compiled(LOSSES if wrong else wanted)
    with pe.watch(model, wanted, loss_weights=WEIGHTS) as seen:
        train(model, x, targets, weights)
    return seen.report(x, targets, sample_weight=weights)


def sum_over_batch_size(wrong: bool) -> pe.Verification:
    x, targets = batch()
    model, wanted = compiled(losses(reduction="sum_over_batch_size" if wrong else "sum")), losses(reduction="sum")
    with pe.watch(model, wanted, loss_weights=WEIGHTS) as seen:
        train(model, x, targets)
    return seen.report(x, targets)


def unscaled_alone(wrong: bool) -> pe.Verification:
    import jax

    model, (x, targets) = two_heads(), batch()
    model.optimizer = optimizer = keras.optimizers.LossScaleOptimizer(model.optimizer)
    optimizer.build(model.trainable_variables)

    def total(w: Any, others: Any) -> Any:
        digit, ink = model.stateless_call(w, others, x, training=True)[0]
        loss = weighted(LOSSES["digit"](targets["digit"], digit), LOSSES["ink"](targets["ink"], ink))
        return loss if wrong else optimizer.scale_loss(loss)

    with pe.watch(model, LOSSES, optimizer, WEIGHTS) as seen:
        held = [v.value for v in model.trainable_variables]
        gradients = jax.jit(jax.grad(total))(held, [v.value for v in model.non_trainable_variables])
        optimizer.stateless_apply([v.value for v in optimizer.variables], gradients, held)
    return seen.report(x, targets)


def judged(loop: str, named: str) -> dict[str, str]:
    """``wrong`` and ``right`` -> nothing, or what went otherwise than expected."""
    found = {}
    for wrong in (True, False):
        try:
            report = globals()[loop](wrong)
            names = [d.name for d in report.diagnoses]
            if wrong:
                assert report.verdict == "INCONSISTENT", report
                assert names[0] == named, report
            else:
                assert report.verdict == "CONSISTENT", report
                assert not names, report
            found["wrong" if wrong else "right"] = ""
        except Exception:
            found["wrong" if wrong else "right"] = traceback.format_exc()
    return found


def main(path: Path) -> None:
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    results = {}
    for bug in BUGS:
        if bug.backend == BACKEND:
            results |= {f"{bug.title}: {which}": said for which, said in judged(bug.loop, bug.named).items()}
    path.write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
