"""JAX: everything under one ``jit``; the trunk's pullback once per loss."""

from __future__ import annotations

from typing import Any

from ..contestant import Answer, Contestant, per_loss_answer, summed_answer
from ..sizes import WEIGHT_B, Numbers, Size

TITLE = "JAX"
PACKAGES = ("jax",)
INSTALL = "pip install jax"
TASKS = ("per-loss", "summed")
PARTS = ("trunk", "heads.a", "heads.b")


def environment(threads: int) -> dict[str, str]:
    """XLA sizes its pools by NPROC; one thread also needs Eigen's pool off."""
    own = {"NPROC": str(threads), "OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}
    return own | ({"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"} if threads == 1 else {})


def setup(size: Size, numbers: Numbers, task: str, _threads: int) -> Contestant:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", numbers.x.dtype == "float64")

    def mlp(layers: Any, h: Any) -> Any:
        for i in range(0, len(layers) - 2, 2):
            h = jax.nn.relu(h @ layers[i].T + layers[i + 1])
        return h @ layers[-2].T + layers[-1]

    def features(trunk: Any, x: Any) -> Any:
        return jax.nn.relu(mlp(trunk, x))

    def loss_a(head: Any, h: Any, classes: Any) -> Any:
        logits = jax.nn.log_softmax(mlp(head, h))
        return -jnp.mean(jnp.take_along_axis(logits, classes[:, None], axis=1))

    def loss_b(head: Any, h: Any, values: Any) -> Any:
        return jnp.mean((mlp(head, h) - values) ** 2)

    def per_loss(trunk: Any, a: Any, b: Any, x: Any, classes: Any, values: Any) -> Any:
        h, pullback = jax.vjp(lambda trunk: features(trunk, x), trunk)
        head_a, h_a = jax.grad(loss_a, argnums=(0, 1))(a, h, classes)
        head_b, h_b = jax.grad(loss_b, argnums=(0, 1))(b, h, values)
        (trunk_a,), (trunk_b,) = pullback(h_a), pullback(h_b)
        total = [g_a + WEIGHT_B * g_b for g_a, g_b in zip(trunk_a, trunk_b, strict=True)]
        return trunk_a, trunk_b, head_a, head_b, total, [WEIGHT_B * g for g in head_b]

    def total(trunk: Any, a: Any, b: Any, x: Any, classes: Any, values: Any) -> Any:
        h = features(trunk, x)
        return loss_a(a, h, classes) + WEIGHT_B * loss_b(b, h, values)

    function = jax.jit(per_loss if task == "per-loss" else jax.grad(total, argnums=(0, 1, 2)))
    classes = numbers.classes.astype("int32")
    arguments = jax.device_put((*(numbers.part(size, part) for part in PARTS), numbers.x, classes, numbers.values))

    def arrays(result: Any) -> Any:
        return jax.device_get(result)

    def name_per_loss(result: Any) -> Answer:
        trunk_a, trunk_b, head_a, head_b, summed, summed_b = arrays(result)
        parts = {"trunk": summed, "heads.a": head_a, "heads.b": summed_b}
        return per_loss_answer(size, {"a": trunk_a, "b": trunk_b}, {"a": head_a, "b": head_b}, parts)

    def name_summed(result: Any) -> Answer:
        return summed_answer(size, dict(zip(PARTS, arrays(result), strict=True)))

    return Contestant(
        lambda: jax.block_until_ready(function(*arguments)),
        name_per_loss if task == "per-loss" else name_summed,
        {"jax": jax.__version__},
    )
