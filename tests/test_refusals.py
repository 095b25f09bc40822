"""Every kind of wrong input to the engine: the exception, its one sentence, and an `out` that nobody touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from conftest import Case, small_case
from refusals import refused

import pyengine as pe

Wrong = tuple[type[Exception], str, str, str, Callable[[Case], Any]]


def spoiled(array: np.ndarray[Any, Any], index: Any, value: Any) -> np.ndarray[Any, Any]:
    copy = array.copy()
    copy[index] = value
    return copy


def strings(case: Case) -> Any:
    return np.full(case.x.shape, "a")


X: list[Wrong] = [
    (ValueError, "x", "(6, 4)", "(batch, 5)", lambda case: case.x[:, :4]),
    (ValueError, "x", "(5, 6)", "(batch, 5)", lambda case: case.x.T),
    (ValueError, "x", "(5,)", "(batch, 5)", lambda case: case.x[0]),
    (ValueError, "x", "(6, 5, 1)", "(batch, 5)", lambda case: case.x[:, :, None]),
    (ValueError, "x", "()", "(batch, 5)", lambda case: case.x[0, 0, ...]),
    (ValueError, "x", "(0, 5)", "at least 1 sample", lambda case: case.x[:0]),
    (ValueError, "x", "nan at index (2, 3)", "finite", lambda case: spoiled(case.x, (2, 3), np.nan)),
    (ValueError, "x", "inf at index (0, 0)", "finite", lambda case: spoiled(case.x, (0, 0), np.inf)),
    (ValueError, "x", "-inf at index (5, 4)", "finite", lambda case: spoiled(case.x, (5, 4), -np.inf)),
    (TypeError, "x", "int64", "dtype of the parameters", lambda case: case.x.astype("int64")),
    (TypeError, "x", "bool", "dtype of the parameters", lambda case: case.x > 0),
    (TypeError, "x", "float16", "dtype of the parameters", lambda case: case.x.astype("float16")),
    (TypeError, "x", "complex128", "dtype of the parameters", lambda case: case.x.astype("complex128")),
    (TypeError, "x", "dtype >f", "dtype of the parameters", lambda case: case.x.astype(case.x.dtype.newbyteorder(">"))),
    (TypeError, "x", "<U1", "dtype of the parameters", strings),
    (TypeError, "x", "object", "dtype of the parameters", lambda case: case.x.astype(object)),
    (TypeError, "x", "masked array", "without a mask", lambda case: np.ma.masked_greater(case.x, 0)),
    (TypeError, "x", "NoneType", "array of numbers", lambda case: None),
    (TypeError, "x", "generator", "array of numbers", lambda case: (row for row in case.x)),
    (TypeError, "x", "cannot be viewed", "array on the CPU", lambda case: [[1.0], [1.0, 2.0]]),
    (TypeError, "x", "require gradient", "array on the CPU", lambda case: torch.from_numpy(case.x).requires_grad_()),
    (TypeError, "x", "cannot be viewed", "array on the CPU", lambda case: torch.empty((6, 5), device="meta")),
]

DIGIT, INK = "targets['digit']", "targets['ink']"

Change = Callable[[np.ndarray[Any, Any]], Any]


def digit(change: Change) -> Callable[[Case], Any]:
    """The targets with those of the classification head changed."""
    return lambda case: {**case.targets, "digit": change(case.targets["digit"])}


def shares(value: float) -> Callable[[Case], Any]:
    """The targets with a probability of ``value`` for every class."""
    return lambda case: {**case.targets, "digit": np.full((6, 3), value, case.x.dtype)}


def ink(change: Change) -> Callable[[Case], Any]:
    """The targets with those of the regression head changed."""
    return lambda case: {**case.targets, "ink": change(case.targets["ink"])}


TARGETS: list[Wrong] = [
    (ValueError, "targets", "lacks ink", "digit, ink", lambda case: {"digit": case.targets["digit"]}),
    (ValueError, "targets", "lacks digit, ink", "digit, ink", lambda case: {}),
    (ValueError, "targets", "'dgit'", "digit, ink", lambda case: {**case.targets, "dgit": case.targets["digit"]}),
    (TypeError, "targets", "tuple", "digit, ink", lambda case: tuple(case.targets.values())),
    (TypeError, "targets", "NoneType", "digit, ink", lambda case: None),
    (ValueError, DIGIT, "class 3 at index 2", "from 0 to 2", digit(lambda array: spoiled(array, 2, 3))),
    (ValueError, DIGIT, "class -1 at index 5", "from 0 to 2", digit(lambda array: spoiled(array, 5, -1))),
    (ValueError, DIGIT, "(5,)", "(6,)", digit(lambda array: array[:5])),
    (ValueError, DIGIT, "(6, 1)", "(6,)", digit(lambda array: array[:, None])),
    (ValueError, DIGIT, "(6, 3) and dtype int64", "(6,)", digit(lambda array: np.eye(3, dtype="int64")[array])),
    (ValueError, DIGIT, "(6,)", "integer classes", lambda case: {**case.targets, "digit": case.x[:, 0]}),
    (ValueError, DIGIT, "-1", "at least 0", shares(-1.0)),
    (ValueError, DIGIT, "nan", "finite", shares(np.nan)),
    (TypeError, DIGIT, "bool", "dtype of the parameters", digit(lambda array: array > 0)),
    (TypeError, DIGIT, "NoneType", "array of numbers", digit(lambda array: None)),
    (ValueError, INK, "(6, 1)", "(6, 2)", ink(lambda array: array[:, :1])),
    (ValueError, INK, "(2, 6)", "(6, 2)", ink(np.transpose)),
    (ValueError, INK, "(5, 2)", "(6, 2)", ink(lambda array: array[:5])),
    (ValueError, INK, "(6,)", "(6, 2)", ink(lambda array: array[:, 0])),
    (ValueError, INK, "nan at index (1, 1)", "finite", ink(lambda array: spoiled(array, (1, 1), np.nan))),
    (ValueError, INK, "inf at index (0, 1)", "finite", ink(lambda array: spoiled(array, (0, 1), np.inf))),
    (TypeError, INK, "int64", "dtype of the parameters", ink(lambda array: array.astype("int64"))),
    (TypeError, INK, "float16", "dtype of the parameters", ink(lambda array: array.astype("float16"))),
    (TypeError, INK, "object", "dtype of the parameters", ink(lambda array: array.astype(object))),
    (TypeError, INK, "masked array", "without a mask", ink(lambda array: np.ma.masked_greater(array, 0))),
]

WEIGHT, ONES = "sample_weight['digit']", np.ones(6)

WEIGHTS: list[Wrong] = [
    (ValueError, WEIGHT, "(5,)", "(6,)", lambda case: {"digit": ONES[:5]}),
    (ValueError, WEIGHT, "(6, 1)", "(6,)", lambda case: {"digit": ONES[:, None]}),
    (ValueError, WEIGHT, "()", "(6,)", lambda case: {"digit": 2.0}),
    (ValueError, WEIGHT, "(5,)", "(6,)", lambda case: ONES[:5]),
    (ValueError, WEIGHT, "nan at index (3,)", "finite", lambda case: {"digit": spoiled(ONES, 3, np.nan)}),
    (ValueError, WEIGHT, "inf at index (0,)", "finite", lambda case: spoiled(ONES, 0, np.inf)),
    (TypeError, WEIGHT, "bool", "real numbers", lambda case: {"digit": ONES > 0}),
    (TypeError, WEIGHT, "complex128", "real numbers", lambda case: {"digit": ONES.astype("complex128")}),
    (TypeError, WEIGHT, "object", "real numbers", lambda case: {"digit": ONES.astype(object)}),
    (ValueError, "sample_weight", "'dgit'", "digit, ink", lambda case: {"dgit": ONES}),
]


def names(cases: list[Wrong]) -> list[str]:
    return [f"{argument}-{got}" for _, argument, got, _, _ in cases]


def filled(case: Case) -> pe.Gradients:
    """A result to be overwritten, with a recognisable number everywhere."""
    out = case.gradients()
    for part in (*out.per_loss.values(), out.summed):
        part.flat[:] = 17
    out.gramian[:] = 17
    out.losses.update(dict.fromkeys(out.losses, 17.0))
    out.total_loss = 17.0
    return out


def untouched(out: pe.Gradients) -> bool:
    arrays = [*(part.flat for part in out.per_loss.values()), out.summed.flat, out.gramian]
    return all((array == 17).all() for array in arrays) and {*out.losses.values(), out.total_loss} == {17.0}


def every_route(case: Case, **changes: Any) -> list[Callable[[], object]]:
    """The public calls that take a batch; all refuse the same input in the same words."""
    given = {"params": case.params, "x": case.x, "targets": case.targets, **changes}
    routes = (case.net.gradients, case.net.per_loss_gradients, case.net.summed_gradient)
    independent = (pe.reference.gradients, pe.oracle.gradients)
    return [
        *(lambda route=route: route(**given) for route in routes),
        *(lambda route=route: route(case.net, **given) for route in independent),
    ]


@pytest.mark.parametrize(("kind", "argument", "got", "expected", "make"), X, ids=names(X))
def test_wrong_x_fails(
    small: Case, kind: type[Exception], argument: str, got: str, expected: str, make: Callable[[Case], Any]
) -> None:
    out = filled(small)
    refused(lambda: small.gradients(x=make(small), out=out), kind, argument, got, expected)
    assert untouched(out)
    refused(lambda: small.net.forward(small.params, make(small)), kind, argument, got, expected)
    for route in every_route(small, x=make(small)):
        refused(route, kind, argument, got, expected)


def test_x_of_the_other_float_fails(small: Case, dtype: str) -> None:
    other = {"float32": "float64", "float64": "float32"}[dtype]
    refused(
        lambda: small.gradients(x=small.x.astype(other)), TypeError, "x", other, f"{dtype}, the dtype of the parameters"
    )


@pytest.mark.parametrize(("kind", "argument", "got", "expected", "make"), TARGETS, ids=names(TARGETS))
def test_wrong_targets_fail(
    small: Case, kind: type[Exception], argument: str, got: str, expected: str, make: Callable[[Case], Any]
) -> None:
    out = filled(small)
    refused(lambda: small.gradients(targets=make(small), out=out), kind, argument, got, expected)
    assert untouched(out)
    for route in every_route(small, targets=make(small)):
        refused(route, kind, argument, got, expected)


@pytest.mark.parametrize("name", ["digit", "ink"])
def test_targets_of_the_other_float_fail(small: Case, dtype: str, name: str) -> None:
    other = {"float32": "float64", "float64": "float32"}[dtype]
    targets = {**small.targets, name: np.zeros((6, {"digit": 3, "ink": 2}[name]), other)}
    refused(lambda: small.gradients(targets=targets), TypeError, f"targets[{name!r}]", other, f"{dtype}, the dtype")


@pytest.mark.parametrize("value", [-0.25, 1.25])
def test_binary_targets_outside_0_and_1_fail(value: float) -> None:
    net = pe.Network(2, [], {"a": pe.Head([pe.Dense(3)], "binary_cross_entropy")})
    targets = {"a": spoiled(np.full((4, 3), 0.5), (1, 2), value)}
    call = lambda: net.gradients(net.init(dtype="float64"), np.ones((4, 2)), targets)  # noqa: E731
    refused(call, ValueError, "targets['a']", f"{value:g}", "[0, 1]")


@pytest.mark.parametrize(("kind", "argument", "got", "expected", "make"), WEIGHTS, ids=names(WEIGHTS))
def test_wrong_sample_weights_fail(
    small: Case, kind: type[Exception], argument: str, got: str, expected: str, make: Callable[[Case], Any]
) -> None:
    out = filled(small)
    refused(lambda: small.gradients(sample_weight=make(small), out=out), kind, argument, got, expected)
    assert untouched(out)
    for route in every_route(small, sample_weight=make(small)):
        refused(route, kind, argument, got, expected)


@pytest.mark.parametrize(
    "weights", [np.zeros(4), np.array([1.0, -1.0, 0.0, 0.0]), -np.ones(4)], ids=["zeros", "cancelling", "negative"]
)
def test_weighted_mean_of_weights_without_a_positive_sum_fails(weights: np.ndarray[Any, Any]) -> None:
    net = pe.Network(2, [], {"a": pe.Head([pe.Dense(1)], "mse", reduction="weighted_mean")})
    call = lambda: net.gradients(net.init(dtype="float64"), np.ones((4, 2)), {"a": np.ones((4, 1))}, weights)  # noqa: E731
    refused(call, ValueError, "sample_weight['a']", f"sums to {weights.sum():g}", "above 0")


def test_asking_for_nothing_fails(small: Case) -> None:
    refused(lambda: small.gradients(per_loss=False, summed=False), ValueError, "per_loss", "both False", "at least one")


def read_only(case: Case) -> pe.Gradients:
    out = filled(case)
    out.per_loss["ink"].flat.flags.writeable = False
    return out


def strided(case: Case) -> pe.Gradients:
    out = filled(case)
    out.summed.flat = np.full(2 * out.summed.flat.size, 17, case.x.dtype)[::2]
    return out


def sharing(argument: str) -> Callable[[Case], pe.Gradients]:
    def make(case: Case) -> pe.Gradients:
        out = filled(case)
        out.summed.flat = case.params.flat if argument == "parameters" else out.summed.flat
        return out

    return make


def other_dtype(case: Case) -> pe.Gradients:
    return filled(small_case("float64" if case.x.dtype == np.float32 else "float32"))


def other_network(heads: dict[str, pe.Head]) -> Callable[[Case], pe.Gradients]:
    return lambda case: pe.Network(5, [pe.Dense(7)], heads).empty_gradients(case.x.dtype)


OUT: list[Wrong] = [
    (TypeError, "out", "dict", "pyengine.Gradients", lambda case: dict(case.gradients().summed)),
    (TypeError, "out", "Parameters", "pyengine.Gradients", lambda case: case.gradients().summed),
    (ValueError, "out.per_loss['ink']", "read-only", "writeable", read_only),
    (ValueError, "out.summed", "not contiguous", "contiguous", strided),
    (TypeError, "out.per_loss['digit']", "dtype float", "dtype of the parameters", other_dtype),
    (ValueError, "out.summed", "shares memory with the parameters", "own", sharing("parameters")),
    (ValueError, "out", "the heads a", "digit, ink", other_network({"a": pe.Head([pe.Dense(1)], "mse")})),
    (
        ValueError,
        "out.per_loss['digit']",
        "another layout",
        "this network",
        other_network({"digit": pe.Head([pe.Dense(3)], "mse"), "ink": pe.Head([pe.Dense(2)], "mse")}),
    ),
    (ValueError, "out", "lacks the per-loss gradients", "per_loss", lambda case: case.gradients(per_loss=False)),
    (ValueError, "out", "lacks the summed gradient", "summed", lambda case: case.gradients(summed=False)),
]


@pytest.mark.parametrize(("kind", "argument", "got", "expected", "make"), OUT, ids=names(OUT))
def test_wrong_out_fails_and_stays_as_it_was(
    small: Case, kind: type[Exception], argument: str, got: str, expected: str, make: Callable[[Case], Any]
) -> None:
    out, before = make(small), small.params.flat.copy()
    if isinstance(out, pe.Gradients):
        parts = [*(out._per_loss or {}).values(), *([out._summed] if out._summed else [])]
        kept = [part.flat.copy() for part in parts]
    refused(lambda: small.gradients(out=out), kind, argument, got, expected)
    assert np.array_equal(small.params.flat, before)
    if isinstance(out, pe.Gradients):
        assert all(np.array_equal(part.flat, copy, equal_nan=True) for part, copy in zip(parts, kept, strict=True))


def test_read_only_part_of_out_that_is_not_asked_for_stays_as_it_was(small: Case) -> None:
    out = read_only(small)
    refused(lambda: small.gradients(out=out, per_loss=False), ValueError, "out.per_loss['ink']", "read-only")


def test_out_that_shares_memory_with_x_fails(small: Case) -> None:
    out = small.gradients()
    flat = np.zeros(out.summed.flat.size, small.x.dtype)
    out.summed.flat = flat
    x = flat[: small.x.size].reshape(small.x.shape)
    refused(lambda: small.gradients(x=x, out=out), ValueError, "out.summed", "shares memory with x", "own")


VIEWS: dict[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    "strided": lambda array: np.repeat(array, 2, axis=0)[::2],
    "reversed": lambda array: array[::-1].copy()[::-1],
    "transposed": lambda array: array.T.copy().T,
    "offset": lambda array: np.frombuffer(b"\0" + array.tobytes(), array.dtype, offset=1).reshape(array.shape),
    "read-only": lambda array: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape),
}


@pytest.mark.parametrize("name", VIEWS)
def test_any_view_gives_the_bits_of_its_contiguous_copy(small: Case, name: str) -> None:
    view = VIEWS[name]
    x, targets = view(small.x), {head: view(target) for head, target in small.targets.items()}
    flags = x.flags
    assert not (flags.c_contiguous and flags.aligned and flags.writeable), "the view must be unusual"
    weights = np.linspace(0.5, 2.0, 6)
    assert np.array_equal(
        small.gradients(x=x, targets=targets, sample_weight=view(weights)).summed.flat,
        small.gradients(sample_weight=weights).summed.flat,
    )


LIBRARIES: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {"torch": torch.from_numpy, "jax": jnp.asarray}


@pytest.mark.parametrize("library", LIBRARIES)
def test_arrays_of_another_library_give_the_same_bits(library: str) -> None:
    case, convert = small_case("float32"), LIBRARIES[library]
    targets = {name: convert(target) for name, target in case.targets.items()}
    g = case.gradients(x=convert(case.x), targets=targets, sample_weight=convert(np.ones(6, "float32")))
    assert np.array_equal(g.summed.flat, case.gradients().summed.flat)


@pytest.mark.parametrize("library", LIBRARIES)
def test_arrays_of_another_library_are_not_copied(library: str) -> None:
    from pyengine.batch import checked_input

    x = small_case("float32").x
    given = LIBRARIES[library](x)
    address = given.data_ptr() if library == "torch" else given.unsafe_buffer_pointer()
    assert checked_input(given, 5, x.dtype).ctypes.data == address


@pytest.mark.parametrize("kind", ["uint8", "int8", "int32", "uint64"])
def test_classes_of_any_integer_type_give_the_same_bits(small: Case, kind: str) -> None:
    targets = {**small.targets, "digit": small.targets["digit"].astype(kind)}
    assert np.array_equal(small.gradients(targets=targets).summed.flat, small.gradients().summed.flat)


def test_inputs_are_never_modified(small: Case) -> None:
    arrays = [small.params.flat, small.x, *small.targets.values()]
    before = [array.copy() for array in arrays]
    small.net.forward(small.params, small.x)
    small.gradients(sample_weight=ONES)
    assert all(np.array_equal(array, copy) for array, copy in zip(arrays, before, strict=True))


def test_out_is_filled_and_returned(small: Case) -> None:
    out, fresh = filled(small), small.gradients()
    assert small.gradients(out=out) is out
    assert np.array_equal(out.summed.flat, fresh.summed.flat)
    assert np.array_equal(out.gramian, fresh.gramian)
    assert out.losses == fresh.losses
    assert out.total_loss == fresh.total_loss
    for name in fresh.per_loss:
        assert np.array_equal(out.per_loss[name].flat, fresh.per_loss[name].flat)
