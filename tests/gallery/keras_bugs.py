"""Bugs that people had in Keras and TensorFlow: what they are. Their loops are in ``keras_gallery_cases.py``, which is
run once a backend, as Keras has one backend a process; this file imports no framework."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """``loop`` names the functions of both loops; ``backend`` is where the bug happened or, for bugs of every backend,
    where it is shown."""

    title: str
    thread: str
    named: str
    loop: str
    backend: str

    @property
    def framework(self) -> str:
        return {"tensorflow": "Keras, TensorFlow", "jax": "Keras on JAX", "torch": "Keras on PyTorch"}[self.backend]


BUGS = [
    Entry("loss_weights are changed after compile()", "https://github.com/keras-team/keras/issues/6446",
          "other weights", "weights_after_compile", "tensorflow"),
    Entry("tape.gradient() of a list of losses adds them without their weights",
          "https://github.com/tensorflow/tensorflow/issues/29064", "other weights", "list_of_losses", "tensorflow"),
    Entry("a loss goes through NumPy on its way to the tape",
          "https://github.com/tensorflow/tensorflow/issues/50111", "missing loss", "through_numpy", "tensorflow"),
    Entry("micro-batches' losses are added up, but each tape knows only its own",
          "https://github.com/tensorflow/tensorflow/issues/55478", "only one micro-batch", "last_tape", "tensorflow"),
    Entry("each replica takes its own mean, and the gradients are added",
          "https://github.com/tensorflow/tensorflow/issues/45923", "accumulation not divided", "replicas",
          "tensorflow"),
    Entry("the losses' gradients of the shared layers are clipped before they are added",
          "https://github.com/dennybritz/reinforcement-learning/issues/54", "clipped before the sum", "clipped_apart",
          "tensorflow"),
    Entry("a tape over the losses forgets the regularizers",
          "https://github.com/hunglc007/tensorflow-yolov4-tflite/issues/369", "missing loss", "no_regularizer",
          "tensorflow"),
    Entry("train_on_batch() for one loss, then for the other",
          "https://github.com/tdeboissiere/DeepLearningImplementations/issues/35", "losses in turn", "in_turn",
          "torch"),
    Entry("weights of samples, and a mean that does not divide by their sum",
          "https://github.com/keras-team/keras/issues/19740", "scaled", "not_normalised", "torch"),
    Entry("sum_over_batch_size is taken for a sum", "https://github.com/keras-team/keras/issues/18818", "scaled",
          "sum_over_batch_size", "jax"),
    Entry("LossScaleOptimizer without scaling the loss", "https://github.com/keras-team/keras/issues/19244",
          "unscaled too often", "unscaled_alone", "jax"),
]  # fmt: skip
