"""TensorFlow: one ``tf.function`` with a persistent tape, asked for each loss in turn."""

from __future__ import annotations

from typing import Any

from ..contestant import Answer, Contestant, per_loss_answer, summed_answer
from ..sizes import WEIGHT_B, Numbers, Size

TITLE = "TensorFlow"
PACKAGES = ("tensorflow",)
INSTALL = "pip install tensorflow-cpu"
TASKS = ("per-loss", "summed")
PARTS = ("trunk", "heads.a", "heads.b")


def environment(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}


def setup(size: Size, numbers: Numbers, task: str, threads: int) -> Contestant:
    import tensorflow as tf

    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    # Kernels of dense layers are (n_in, n_out) in TensorFlow.
    trunk, a, b = ([tf.Variable(array.T) for array in numbers.part(size, part)] for part in PARTS)
    x, classes, values = (tf.constant(array) for array in (numbers.x, numbers.classes, numbers.values))
    n, n_a = len(trunk), len(a)

    def mlp(layers: Any, h: Any) -> Any:
        for i in range(0, len(layers) - 2, 2):
            h = tf.nn.relu(tf.nn.bias_add(tf.matmul(h, layers[i]), layers[i + 1]))
        return tf.nn.bias_add(tf.matmul(h, layers[-2]), layers[-1])

    def losses(x: Any, classes: Any, values: Any) -> tuple[Any, Any]:
        h = tf.nn.relu(mlp(trunk, x))
        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=mlp(a, h))
        return tf.reduce_mean(cross_entropy), tf.reduce_mean(tf.math.squared_difference(mlp(b, h), values))

    @tf.function  # type: ignore[untyped-decorator,unused-ignore]
    def per_loss(x: Any, classes: Any, values: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            loss_a, loss_b = losses(x, classes, values)
        g_a, g_b = tape.gradient(loss_a, trunk + a), tape.gradient(loss_b, trunk + b)
        total = [g + WEIGHT_B * other for g, other in zip(g_a[:n], g_b[:n], strict=True)]
        return g_a, g_b, total, [WEIGHT_B * g for g in g_b[n:]]

    @tf.function  # type: ignore[untyped-decorator,unused-ignore]
    def summed(x: Any, classes: Any, values: Any) -> Any:
        with tf.GradientTape() as tape:
            loss_a, loss_b = losses(x, classes, values)
            total = loss_a + WEIGHT_B * loss_b
        return tape.gradient(total, trunk + a + b)

    def arrays(tensors: Any) -> list[Any]:
        return [tensor.numpy().T for tensor in tensors]

    def name_per_loss(result: Any) -> Answer:
        g_a, g_b, total, total_b = map(arrays, result)
        parts = {"trunk": total, "heads.a": g_a[n:], "heads.b": total_b}
        return per_loss_answer(size, {"a": g_a[:n], "b": g_b[:n]}, {"a": g_a[n:], "b": g_b[n:]}, parts)

    def name_summed(result: Any) -> Answer:
        g = arrays(result)
        return summed_answer(size, {"trunk": g[:n], "heads.a": g[n : n + n_a], "heads.b": g[n + n_a :]})

    function, named = (per_loss, name_per_loss) if task == "per-loss" else (summed, name_summed)
    compiled = function.get_concrete_function(x, classes, values)  # no retracing checks in the loop
    return Contestant(lambda: compiled(x, classes, values), named, {"tensorflow": tf.__version__})
