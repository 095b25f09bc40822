"""JAX models that the engine does not know: everything that needs only the framework is judged all the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import pyengine as pe
from pyengine import digits as packaged

jax = pytest.importorskip("jax")
jnp = jax.numpy

BATCH = 24


def digits() -> tuple[Any, dict[str, Any]]:
    data = packaged.load()
    return data.x[:BATCH].reshape(BATCH, 8, 8, 1), {"digit": data.digit[:BATCH], "ink": data.ink[:BATCH, :1]}


def parameters() -> dict[str, Any]:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype("float32")

    return {
        "one": draw(3, 3, 1, 8), "two": draw(3, 3, 8, 16), "scale": np.ones(8, "f4"), "shift": np.zeros(8, "f4"),
        "query": draw(16, 16), "key": draw(16, 16), "value": draw(16, 16), "tokens": draw(17, 16),
        "digit": draw(16, 10), "ink": draw(16, 1),
    }  # fmt: skip


def convolved(own: Any, x: Any, before_ink: Any = lambda h: h) -> Any:
    """Two convolutions, batch norm, dropout that is on, and two heads."""

    def layer(h: Any, kernel: Any) -> Any:
        return jax.lax.conv_general_dilated(h, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    h = layer(x, own["one"])
    h = (h - h.mean((0, 1, 2))) / jnp.sqrt(h.var((0, 1, 2)) + 1e-5) * own["scale"] + own["shift"]
    h = jax.nn.relu(layer(jax.nn.relu(h), own["two"])).mean((1, 2))
    h = jnp.where(jax.random.bernoulli(jax.random.key(0), 0.8, h.shape), h / 0.8, 0.0)
    return {"digit": h @ own["digit"], "ink": before_ink(h) @ own["ink"]}


def attended(own: Any, x: Any) -> Any:
    """Embeddings and one head of attention."""
    h = own["tokens"][x]
    shares = jax.nn.softmax(h @ own["query"] @ jnp.swapaxes(h @ own["key"], 1, 2) / 4.0)
    h = (h + shares @ (h @ own["value"])).mean(1)
    return {"digit": h @ own["digit"], "ink": h @ own["ink"]}


def judged(apply: Any, x: Any, targets: Any) -> pe.Verification:
    losses = {"digit": "softmax_cross_entropy", "ink": "mse"}
    report = pe.verify(pe.JaxModel(apply, parameters()), x, targets, losses=losses, loss_weights={"ink": 0.3})
    json.loads(report.to_json())
    return report


def test_a_convolutional_network_is_judged_by_jax_alone() -> None:
    report = judged(convolved, *digits())
    assert report.verdict == "CONSISTENT", report
    assert report.combination is not None
    assert report.combination.verdict == "summed"
    assert {s.outcome for s in report.slopes} == {"holds"}
    assert report.reach["ink"]["['two']"] == "reached"
    assert report.reach["ink"]["['digit']"] == "zero"
    assert "no loss reaches" in str(report)  # the parameters of the other model
    assert "on the way to 'digit'" in report.not_judged["stages"]


def test_attention_on_embeddings_is_judged_by_jax_alone() -> None:
    x, targets = digits()
    report = judged(attended, (16 * x.reshape(BATCH, 64)[:, ::4]).round().astype(int), targets)
    assert report.verdict == "CONSISTENT", report
    assert report.combination is not None
    assert report.combination.verdict == "summed"


def test_a_gradient_that_jax_is_told_to_stop_is_named() -> None:
    report = judged(lambda own, x: convolved(own, x, jax.lax.stop_gradient), *digits())
    assert report.verdict == "INCONSISTENT", report
    assert report.reach["ink"]["['one']"] == "detached"
    assert report.reach["ink"]["['digit']"] == "zero"


def test_a_wrong_derivative_is_caught_by_finite_differences() -> None:
    wrong = jax.custom_jvp(lambda h: h)
    wrong.defjvp(lambda at, d: (at[0], d[0] * 1.0001))
    report = judged(lambda own, x: convolved(own, x, wrong), *digits())
    assert report.verdict == "INCONSISTENT", report
    assert {s.loss for s in report.slopes if s.outcome == "differs"} == {"ink"}


def test_a_bfloat16_inside_makes_plateaus_and_no_false_alarm() -> None:
    def narrow(own: Any, x: Any) -> Any:
        h = jnp.tanh(x.reshape(len(x), -1)[:, :16].astype(jnp.bfloat16) @ own["query"].astype(jnp.bfloat16))
        return {name: (h @ own[name].astype(jnp.bfloat16)).astype(x.dtype) for name in ("digit", "ink")}

    x, targets = digits()
    for apply in (narrow, jax.jit(narrow)):
        report = judged(apply, x, targets)
        assert report.verdict == "CONSISTENT", report
        assert "computes in bfloat16" in report.unjudged["differences"]
