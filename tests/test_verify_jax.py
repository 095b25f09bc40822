"""``pe.verify`` on JAX models: pure functions, Flax NNX and Equinox modules, certified or refuted stage by stage."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from refusals import refused

import pyengine as pe
from pyengine.errors import Unsupported

jax = pytest.importorskip("jax")
jnp, nn = jax.numpy, jax.nn

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 12)).astype("float32")
TARGETS = {"digit": RNG.integers(0, 10, 48), "ink": RNG.normal(size=(48, 2)).astype("float32")}
LOSSES = {"digit": "softmax_cross_entropy", "ink": "mse"}


def params(dtype: str = "float32") -> dict[str, Any]:
    rng = np.random.default_rng(1)

    def layer(n_in: int, n_out: int) -> dict[str, Any]:
        return {"kernel": rng.normal(size=(n_in, n_out)).astype(dtype) / np.sqrt(n_in).astype(dtype),
                "bias": rng.normal(size=n_out).astype(dtype)}  # fmt: skip

    return {"one": layer(12, 24), "two": layer(24, 16), "digit": layer(16, 10), "ink": layer(16, 2)}


def dense(own: Any, x: Any) -> Any:
    return x @ own["kernel"] + own["bias"]


def shared(own: Any, x: Any, act: Any = nn.relu, before_ink: Any = lambda h: h) -> Any:
    h = jnp.tanh(dense(own["two"], act(dense(own["one"], x))))
    return {"digit": dense(own["digit"], h), "ink": dense(own["ink"], before_ink(h))}


def verdict(apply: Any, **options: Any) -> pe.Verification:
    return pe.verify(pe.JaxModel(apply, params()), X, TARGETS, losses=LOSSES, loss_weights={"ink": 0.5}, **options)


def test_a_pure_function_is_certified_and_keeps_its_names() -> None:
    report = verdict(jax.jit(shared))
    assert report.verdict == "CERTIFIED", report
    assert report.combination is not None
    assert report.combination.verdict == "summed"
    assert [a.configured for a in report.combination.alpha.values()] == [1.0, 0.5]
    data = json.loads(report.to_json())
    assert len(data["stages"]) > 20
    assert {p["native"] for p in data["parameters"]} >= {"['one']['kernel']", "['ink']['bias']"}
    assert data["environment"]["jax"] == jax.__version__


def test_a_flax_nnx_module_is_certified() -> None:
    nnx = pytest.importorskip("flax.nnx")
    optax = pytest.importorskip("optax")

    class Shared(nnx.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.one, self.two = nnx.Linear(12, 24, rngs=rngs), nnx.Linear(24, 16, use_bias=False, rngs=rngs)
            self.digit, self.ink = nnx.Linear(16, 10, rngs=rngs), nnx.Linear(16, 2, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, deterministic=True)

        def __call__(self, x: Any) -> Any:
            h = self.dropout(nnx.tanh(self.two(nnx.gelu(self.one(x)))))
            return {"digit": self.digit(h), "ink": self.ink(h)}

    losses = {"digit": optax.softmax_cross_entropy_with_integer_labels, "ink": lambda z, y: optax.l2_loss(z, y).mean()}
    report = pe.verify(Shared(), X, TARGETS, losses=losses)
    assert report.verdict == "CERTIFIED", report
    # optax's l2_loss is half a squared error.
    assert [a.configured for a in report.combination.alpha.values()] == [1.0, 0.5]
    assert any("two" in p["native"] for p in report.to_dict()["parameters"])


def test_an_equinox_module_is_certified() -> None:
    eqx = pytest.importorskip("equinox")
    one, two, three = jax.random.split(jax.random.key(0), 3)

    class Shared(eqx.Module):  # type: ignore[misc, name-defined]
        trunk: Any = eqx.nn.MLP(12, 16, 24, 2, activation=nn.silu, final_activation=nn.relu, key=one)
        digit: Any = eqx.nn.Linear(16, 10, key=two)
        ink: Any = eqx.nn.Linear(16, "scalar", key=three)

        def __call__(self, x: Any) -> Any:
            h = self.trunk(x)
            return self.digit(h), self.ink(h)

    report = pe.verify(pe.JaxModel(Shared()), X, {**TARGETS, "ink": TARGETS["ink"][:, 0]}, losses=LOSSES)
    assert report.verdict == "CERTIFIED", report
    assert ".trunk.layers[0].weight" in {p["native"] for p in report.to_dict()["parameters"]}


def test_a_flax_linen_module_is_certified_as_a_function_of_its_variables() -> None:
    linen = pytest.importorskip("flax.linen")
    model = linen.Sequential([linen.Dense(8), linen.softplus, linen.Dense(2)])
    report = pe.verify(
        pe.JaxModel(model.apply, model.init(jax.random.key(0), X)), X, {"ink": TARGETS["ink"]}, losses={"ink": "huber"}
    )
    assert report.verdict == "CERTIFIED", report
    refused(
        lambda: pe.verify(model, X, TARGETS, losses=LOSSES),
        TypeError,
        "model",
        "Linen module",
        "pe.JaxModel(apply, params)",
    )


@pytest.mark.parametrize("bias", [0.0, 40.0, -40.0])
def test_a_clipped_sigmoid_by_hand_is_certified_beyond_its_clip_too(bias: float) -> None:
    def clipped(z: Any, y: Any) -> Any:
        p = jnp.clip(nn.sigmoid(z), 1e-7, 1.0 - 1e-7)
        return -jnp.mean(y * jnp.log(p) + (1.0 - y) * jnp.log(1.0 - p))

    own, binary = params(), {**TARGETS, "ink": (TARGETS["ink"] > 0.0).astype("float32")}
    own["ink"]["bias"] = own["ink"]["bias"] + np.float32(bias)
    for loss in (clipped, "clipped_binary_cross_entropy"):
        report = pe.verify(pe.JaxModel(shared, own), X, binary, losses={**LOSSES, "ink": loss})
        assert report.verdict == "CERTIFIED", report


def test_float64_is_certified() -> None:
    with jax.enable_x64(True):
        wide = {"digit": TARGETS["digit"], "ink": TARGETS["ink"].astype(float)}
        model = pe.JaxModel(shared, params("float64"))
        report = pe.verify(model, X.astype(float), wide, losses=LOSSES)
    assert report.verdict == "CERTIFIED", report
    assert report.staged is not None
    assert report.staged.dtype == "float64"


def test_kernels_of_either_orientation_and_a_prepared_input_are_certified() -> None:
    turned = {**params(), "two": {**params()["two"], "kernel": params()["two"]["kernel"].T.copy()}}

    def apply(own: Any, images: Any) -> Any:
        x = (images / 255.0).reshape(len(images), -1)
        one = dense(own["one"], x)
        h = jnp.where(one > 0, one, 0.2 * one)
        h = jnp.einsum("bi,oi->bo", h, own["two"]["kernel"]) + own["two"]["bias"]
        return dense(own["digit"], h * nn.sigmoid(h)), dense(own["ink"], h * nn.sigmoid(h))

    images = np.random.default_rng(2).integers(0, 256, (48, 3, 4)).astype("uint8")
    report = pe.verify(pe.JaxModel(apply, turned), images, TARGETS, losses=LOSSES)
    # Both heads apply the activation to one z: none of them has the whole ∂L/∂h, so its stages cannot be judged.
    assert report.verdict == "CONSISTENT", report
    assert report.staged is not None
    assert not report.staged.staged.failures
    assert report.staged.staged.unjudged


def test_a_detached_loss_is_refuted_and_named() -> None:
    report = verdict(lambda own, x: shared(own, x, before_ink=jax.lax.stop_gradient))
    assert not report
    assert report.combination is not None
    assert report.combination.verdict == "missing loss"
    assert {how for name, how in report.reach["ink"].items() if name.startswith("trunk.")} == {"detached"}


@pytest.mark.parametrize("error", [0.0, 1e-5])
def test_a_wrong_derivative_rule_is_refuted_where_it_is(error: float) -> None:
    @jax.custom_vjp
    def act(z: Any) -> Any:
        return nn.gelu(z, approximate=False)

    def backward(z: Any, g: Any) -> Any:
        return (jax.vjp(lambda z: nn.gelu(z, approximate=False), z)[1](g)[0] * jnp.float32(1.0 + error),)

    act.defvjp(lambda z: (act(z), z), backward)
    report = verdict(lambda own, x: shared(own, x, act))
    assert (report.verdict == "CERTIFIED") == (error == 0.0), report
    if error:
        assert report.staged is not None
        assert report.staged.first_failure is not None
        assert "trunk.0" in report.staged.first_failure.name


def test_a_wrong_loss_gradient_is_refuted() -> None:
    @jax.custom_jvp
    def wrong(z: Any, y: Any) -> Any:
        return jnp.square(z - y).mean()

    wrong.defjvp(lambda at, d: (wrong(*at), (2 * (at[0] - at[1]) * d[0]).sum() / (at[0].size - 1)))
    report = pe.verify(pe.JaxModel(shared, params()), X, TARGETS, losses={**LOSSES, "ink": wrong})
    assert report.verdict == "REFUTED", report


@pytest.mark.parametrize("error", [0.0, 1e-6])
def test_the_huber_loss_of_optax_is_certified_and_a_constant_in_its_gradient_refuted(error: float) -> None:
    """Its gradient is δ + (|r| - δ), to rounding; a millionth of δ is more than that costs."""
    optax = pytest.importorskip("optax")

    def loss(z: Any, y: Any) -> Any:
        return optax.huber_loss(z, y, delta=1.7).mean()

    planted = jax.custom_vjp(loss)
    back = jax.grad(loss)
    planted.defvjp(
        lambda z, y: (loss(z, y), (z, y)),
        lambda at, g: (g * (back(*at) + jnp.float32(1.7 * error / at[0].size)), jnp.zeros_like(at[1])),
    )
    head = {"ink": params()["ink"]}
    model = pe.JaxModel(lambda own, x: dense(own["ink"], x), head)
    x = np.random.default_rng(3).normal(size=(48, 16)).astype("float32")
    report = pe.verify(model, x, {"ink": TARGETS["ink"]}, losses={"ink": planted})
    assert (report.verdict == "CERTIFIED") == (error == 0.0), report


def test_a_layer_without_bias_may_have_an_activation_of_several_operations() -> None:
    own = {name: {"kernel": layer["kernel"]} for name, layer in params().items()}

    def apply(own: Any, x: Any) -> Any:
        z = x @ own["one"]["kernel"]
        return (z * nn.sigmoid(z)) @ own["two"]["kernel"]

    target = np.random.default_rng(4).normal(size=(48, 16)).astype("float32")
    assert pe.verify(pe.JaxModel(apply, own), X, {"a": target}, losses={"a": "mse"}).verdict == "CERTIFIED"


def model_with(act: Any = nn.relu, **options: Any) -> pe.JaxModel:
    return pe.JaxModel(lambda own, x: shared(own, x, act, **options), params())


def convolved(own: Any, x: Any) -> Any:
    h = jax.lax.conv_general_dilated(x[:, None], own["conv"], (1,), "SAME").mean(2)
    return h @ own["one"]["kernel"][:5]


@pytest.mark.parametrize(
    ("model", "got"),
    [
        (model_with(nn.mish), "none of the engine's (its last operation is mul at"),
        (model_with(nn.softmax), "reduce_max at"),
        (model_with(lambda z: z + nn.relu(z) @ jnp.ones((24, 24))), "dot_general at"),
        (model_with(lambda z: (z - z.mean(0)) / z.std(0)), "reduce_sum at"),
        (model_with(lambda z: z.astype(jnp.bfloat16).astype(jnp.float32)), "from float32 to bfloat16"),
        (model_with(before_ink=lambda h: h + X[:, :1]), "add at"),
        (pe.JaxModel(lambda own, x: nn.relu(x), params()), "no dense layer"),
        (pe.JaxModel(convolved, {**params(), "conv": np.ones((5, 1, 3), "f4")}), f"conv_general_dilated at {__file__}"),
    ],
    ids=["activation", "softmax", "constant kernel", "normalisation", "bfloat16", "array", "nothing", "convolution"],
)  # fmt: skip
def test_what_the_engine_does_not_know_is_refused_by_primitive_and_place(model: Any, got: str) -> None:
    losses = LOSSES if isinstance(jax.eval_shape(model.apply, model.params, X), dict) else {"ink": "mse"}
    refused(lambda: pe.verify(model, X, TARGETS, losses=losses, mode="staged"), Unsupported, "model", got)


def test_other_refusals_name_argument_and_remedy() -> None:
    model = pe.JaxModel(shared, params())
    half = jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params())
    square = {"kernel": np.eye(12, dtype="float32"), "bias": np.zeros(12, "float32")}
    tied = pe.JaxModel(lambda own, x: dense(own, dense(own, x)), square)
    refused(lambda: pe.verify(model, X, TARGETS), ValueError, "losses", "missing", "loss object")
    refused(lambda: pe.verify(model, X, {}, losses=LOSSES), ValueError, "targets", "digit, ink")
    other = {"digit": "softmax_cross_entropy", "colour": "mse"}
    refused(lambda: pe.verify(model, X, TARGETS, losses=other), ValueError, "targets", "colour")
    refused(
        lambda: pe.verify(pe.JaxModel(shared, half), X, TARGETS, losses=LOSSES, mode="staged"),
        Unsupported,
        "params",
        "bfloat16",
        "float32",
    )
    assert pe.verify(pe.JaxModel(shared, half), X.astype(jnp.bfloat16), TARGETS, losses=LOSSES).verdict == "CONSISTENT"
    refused(
        lambda: pe.verify(tied, X, {"a": X}, losses={"a": "mse"}, mode="staged"),
        Unsupported,
        "model",
        "['kernel'] at two places",
    )
    refused(lambda: pe.verify(pe.JaxModel(shared), X, TARGETS, losses=LOSSES), TypeError, "model", "without parameters")
    refused(
        lambda: pe.verify(model, X, TARGETS, losses={**LOSSES, "ink": 3}), TypeError, "losses['ink']", "3", "callable"
    )


ABSENT = """
import sys, pyengine as pe
model = pe.JaxModel(lambda own, x: x, {})
assert "jax" not in sys.modules and "flax" not in sys.modules
sys.modules["jax"] = None
try:
    pe.verify(model, [[1.0]], {"a": [[1.0]]}, losses={"a": "mse"})
except ModuleNotFoundError as error:
    print(error)
"""


def test_without_jax_one_sentence_says_so() -> None:
    done = subprocess.run([sys.executable, "-c", ABSENT], capture_output=True, text=True, check=True, timeout=60)
    assert "needs JAX, which is not installed" in done.stdout
    assert "pyengine-grad[jax]" in done.stdout


def test_a_jax_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "__version__", "0.4.30")
    refused(lambda: verdict(shared), ImportError, "model", "JAX 0.4.30", "jax>=0.5")
