"""The assertions for kernels: correct ones pass in every dtype and layout, planted faults are caught and described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refused
from test_verify_gradients import correct, shared_two

import pyengine as pe
from pyengine.activations import ACTIVATIONS
from pyengine.reference import activation_and_derivative

SHAPES = [(1, 1, 1), (3, 1, 4), (1, 64, 5), (17, 300, 9), (8, 4096, 8), (2, 0, 3)]
RNG = np.random.default_rng(0)


def operands(shape: tuple[int, int, int], dtype: str, kind: str = "normal") -> tuple[Any, Any, Any]:
    m, k, n = shape
    draw = {
        "normal": lambda *s: RNG.normal(size=s),
        "constant": lambda *s: np.full(s, 1.0 / 3.0),
        "tiny": lambda *s: RNG.normal(size=s) * 2.0**-70,
        "wide": lambda *s: RNG.normal(size=s) * 2.0 ** RNG.integers(-20, 20, size=s),
    }[kind]
    return tuple(draw(*s).astype(dtype) for s in ((m, k), (k, n), (n,)))


@pytest.mark.parametrize("kind", ["normal", "constant", "tiny", "wide"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_numpy_products_hold(shape: tuple[int, int, int], dtype: str, kind: str) -> None:
    a, b, bias = operands(shape, dtype, kind)
    pe.testing.assert_matmul(a @ b, a, b)
    pe.testing.assert_matmul(a @ b + bias, a, b, bias)
    sequential = np.zeros((a.shape[0], b.shape[1]), dtype)
    for k in range(a.shape[1]):
        sequential += a[:, k, None] * b[None, k]
    pe.testing.assert_matmul(np.asfortranarray(sequential), a.T.copy().T, b[::-1][::-1])


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", SHAPES[:5])
def test_torch_products_hold(shape: tuple[int, int, int], dtype: str) -> None:
    torch = pytest.importorskip("torch")
    a, b, bias = (torch.tensor(t).to(getattr(torch, dtype)) for t in operands(shape, "float64"))
    pe.testing.assert_matmul(a @ b, a, b)
    pe.testing.assert_dense_forward(torch.nn.functional.linear(a, b.T.contiguous(), bias), a, b.T, bias)
    if dtype in {"bfloat16", "float16"}:
        pe.testing.assert_matmul(a.float() @ b.float(), a, b)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_jax_products_hold(dtype: str) -> None:
    jnp = pytest.importorskip("jax.numpy")
    a, b, _ = (jnp.asarray(t, dtype=dtype) for t in operands((17, 300, 9), "float32"))
    pe.testing.assert_matmul(jnp.matmul(a, b), a, b, flush_to_zero=True)


def test_tf32_passes_only_where_it_is_allowed() -> None:
    a, b, _ = operands((17, 300, 9), "float32")
    read = [(t.view(np.uint32) + np.uint32(0x1000) & np.uint32(0xFFFFE000)).view(np.float32) for t in (a, b)]
    product = read[0] @ read[1]
    pe.testing.assert_matmul(product, a, b, tf32=True)
    with pytest.raises(pe.GradientMismatch):
        pe.testing.assert_matmul(product, a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_faults_in_a_product_are_caught_and_described(dtype: str) -> None:
    a, b, bias = operands((20, 40, 20), dtype)
    right = a @ b + bias
    wrong = right.copy()
    wrong[3, 4] *= 1.01
    cases = {
        r"actual\[3, 4\]": wrong,
        "transposed": right.T,
        "without the bias": a @ b,
        "times 1.001": (right * right.dtype.type(1.001)),
        "400 of 400|of 400 entries": a[:, 1:] @ b[1:] + bias,
    }
    for said, value in cases.items():
        with pytest.raises(pe.GradientMismatch, match=said):
            pe.testing.assert_matmul(value, a, b, bias)
    for bad in (np.nan, np.inf):
        wrong[3, 4] = bad
        with pytest.raises(pe.GradientMismatch, match="3, 4"):
            pe.testing.assert_matmul(wrong, a, b, bias)


def test_lower_precision_inside_is_caught() -> None:
    a, b, _ = operands((20, 40, 20), "float64")
    with pytest.raises(pe.GradientMismatch):
        pe.testing.assert_matmul((a.astype("f4") @ b.astype("f4")).astype("f8"), a, b)
    torch = pytest.importorskip("torch")
    a32, b32 = torch.tensor(a).float(), torch.tensor(b).float()
    with pytest.raises(pe.GradientMismatch):
        pe.testing.assert_matmul((a32.bfloat16() @ b32.bfloat16()).float(), a32, b32)


def test_the_bound_is_sharp_enough_for_one_ulp_of_a_short_product() -> None:
    a, b = np.array([[1.5]], "float32"), np.array([[1.0]], "float32")
    pe.testing.assert_matmul(a, a, b)
    with pytest.raises(pe.GradientMismatch):
        pe.testing.assert_matmul(a * (1 + 2 * np.finfo(np.float32).eps), a, b)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dense_layers_hold_and_faults_do_not(dtype: str, name: str) -> None:
    x, w, b = operands((16, 24, 12), dtype)
    w = w.T
    z = x @ w.T + b
    f = pe.Dense(1, name).activation
    h, slope = activation_and_derivative(f, z.astype("f8"))
    pe.testing.assert_dense_forward(h.astype(dtype), x, w, b, name)
    dh = RNG.normal(size=z.shape).astype(dtype)
    dz = (dh * slope.astype(dtype)).astype(dtype)
    good = {"dx": dz @ w, "dw": dz.T @ x, "db": dz.sum(axis=0)}
    pe.testing.assert_dense_backward(good, x, w, dh, z=z, activation=name)
    if name != "linear":
        with pytest.raises(pe.GradientMismatch):
            pe.testing.assert_dense_forward(z, x, w, b, name)
        with pytest.raises(pe.GradientMismatch):
            pe.testing.assert_dense_backward({"dw": dh.T @ x}, x, w, dh, z=z, activation=name)
    for part, value in good.items():
        bad = value.copy()
        bad[(1,) * bad.ndim] *= bad.dtype.type(1.0 + 2.0**-8)
        with pytest.raises(pe.GradientMismatch, match=part):
            pe.testing.assert_dense_backward({part: bad}, x, w, dh, z=z, activation=name)


def test_any_derivative_is_allowed_at_the_kink_itself() -> None:
    x, w, z = (np.zeros((1, 1), "float32") for _ in range(3))
    dh = np.ones((1, 1), "float32")
    for slope in (0.0, 0.5, 1.0):
        pe.testing.assert_dense_backward({"db": np.full(1, slope, "float32")}, x, w, dh, z=z, activation="relu")
    with pytest.raises(pe.GradientMismatch):
        pe.testing.assert_dense_backward({"db": np.full(1, 1.5, "float32")}, x, w, dh, z=z, activation="relu")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_a_network(dtype: str) -> None:
    given = shared_two(dtype=dtype)
    g = correct(given)
    call = (given.net, given.params, given.x, given.targets)
    pe.testing.assert_gradients(g, *call)
    pe.testing.assert_gradients(dict(g.summed), *call)
    pe.testing.assert_gradients({"per_loss": g.per_loss}, *call)
    bad = {name: value.copy() for name, value in g.summed.items()}
    bad["trunk.0.weight"][3, 4] *= 1.01
    with pytest.raises(pe.GradientMismatch, match="3, 4"):
        pe.testing.assert_gradients(bad, *call)
    with pytest.raises(pe.GradientMismatch, match="scaled"):
        pe.testing.assert_gradients({n: v * v.dtype.type(1.001) for n, v in g.summed.items()}, *call)


def test_overflow_is_not_held_against_a_kernel_but_never_passes_alone() -> None:
    a = np.full((1, 2), 2.0**100, "float32")
    b = np.array([[2.0**100, 1.0], [1.0, 1.0]], "float32")
    with np.errstate(over="ignore"):
        pe.testing.assert_matmul(a @ b, a, b)
        with pytest.raises(pe.GradientMismatch, match="overflow"):
            pe.testing.assert_matmul((a @ b)[:, :1], a, b[:, :1])


def test_wrong_arguments_fail() -> None:
    a, b, bias = operands((3, 4, 5), "float32")
    check = pe.testing.assert_matmul
    refused(lambda: check(a @ b, a, b.T), ValueError, "b", "(5, 4)", "(k, n)")
    refused(lambda: check((a @ b).T, a, b), ValueError, "actual", "(5, 3)", "(3, 5)")
    refused(lambda: check(a @ b, a, b.astype("f8")), TypeError, "b", "float64", "float32")
    refused(lambda: check(a @ b, a.astype(int), b), TypeError, "a", "int64", "bfloat16")
    refused(lambda: check(a @ b, a * np.float32(np.nan), b), ValueError, "a", "NaN", "finite")
    refused(lambda: check(a @ b, a, b, bias[:2]), ValueError, "bias", "(2,)", "(5,)")
    refused(lambda: check(np.zeros((0, 5), "f4"), a[:0], b), ValueError, "actual", "(0, 5)", "at least one")
    backward = pe.testing.assert_dense_backward
    refused(lambda: backward({}, a, b.T, a @ b), ValueError, "actual", "has", "dx, dw, db")
    refused(lambda: backward({"dx": a}, a, b.T, a @ b, activation="relu"), ValueError, "z", "missing", "(batch, n_out)")


def test_the_documented_failure_is_what_is_printed() -> None:
    a, b = np.eye(2, dtype="float32"), np.array([[1, 2], [3, 4]], dtype="float32")
    with pytest.raises(pe.GradientMismatch) as caught:
        pe.testing.assert_matmul(np.array([[1, 2], [3, 4.5]], dtype="float32"), a, b)
    page = Path(__file__).parents[1] / "docs" / "testing.md"
    assert str(caught.value) in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("size", "seen"), [(1e-30, 0.003), (1e-35, 0.02), (1e-36, 0.1), (1e-37, 1.0)])
def test_near_the_smallest_normal_number_flushing_hides_only_what_the_docs_say(size: float, seen: float) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    a, b = ((rng.normal(size=(64, 64)) * scale).astype(ml_dtypes.bfloat16) for scale in (1.0, size))
    z = a.astype(np.float32) @ b.astype(np.float32)
    wrong = (z * np.float32(1.0 + seen)).astype(ml_dtypes.bfloat16)
    pe.testing.assert_matmul(z.astype(ml_dtypes.bfloat16), a, b, flush_to_zero=True)
    with pytest.raises(pe.GradientMismatch):
        pe.testing.assert_matmul(wrong, a, b, flush_to_zero=True)
    with pytest.raises(pe.GradientMismatch):
        pe.testing.assert_matmul((z * np.float32(1.003)).astype(ml_dtypes.bfloat16), a, b)
