"""Assertions for people who write kernels: one call, and the tolerance follows from the operation.

Every array may have any memory layout and come from any library on the CPU that NumPy can read. What is compared with
what, and why the bound holds: docs/testing.md, docs/tolerances.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import oracle, reference
from .activations import Activation
from .activations import activation as resolve_activation
from .arrays import as_numpy
from .errors import GradientMismatch, sentence
from .expectations import ACTIVATION, SUM, Arithmetic, Expected, demand, product_hints
from .gradients import Gradients
from .rounding import activation_bound, behaviour, gradient_bounds, precision, slope_bound, sum_bound
from .rounding.formats import FORMATS, Format, format_of
from .verify_arrays import verify_gradients

if TYPE_CHECKING:
    from .engine import Network

F64 = npt.NDArray[np.float64]


def assert_matmul(
    actual: Any, a: Any, b: Any, bias: Any = None, *, tf32: bool = False, flush_to_zero: bool = False
) -> None:
    """Assert that ``actual`` (m, n) is A·B (+ bias) as a correct kernel computes it: a (m, k), b (k, n), bias (n,).

    The operands have one dtype: float64, or float32, bfloat16, float16 with sums in float32. ``actual`` has that
    dtype, or a wider one, or float16 or bfloat16 as the narrow result of float32 operands. ``tf32`` allows float32
    operands to be read as TF32; ``flush_to_zero`` allows subnormal numbers to vanish.

    Raises :class:`GradientMismatch` with the worst entry, ``ValueError`` for shapes and empty results, ``TypeError``
    for dtypes. Source: Higham 2002, section 3.1; Jeannerod & Rump 2013.

    >>> import numpy as np
    >>> a, b = np.eye(2, dtype="float32"), np.array([[1, 2], [3, 4]], dtype="float32")
    >>> assert_matmul(a @ b, a, b)
    >>> assert_matmul(np.array([[1, 2], [3, 4.5]], dtype="float32"), a, b)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pyengine.errors.GradientMismatch: actual[1, 1] is 4.5, expected 4.0: off by 0.5, ...
    """
    left, right = _read("a", a), _read("b", b)
    if left[0].ndim != 2 or right[0].ndim != 2 or left[0].shape[1] != right[0].shape[0]:
        raise ValueError(
            sentence("b", got=f"has shape {right[0].shape}", expected=f"(k, n) for `a` of {left[0].shape}",
                     remedy="Transpose one of them?")
        )  # fmt: skip
    operands = [("a", left), ("b", right)]
    added = None if bias is None else _vector("bias", bias, right[0].shape[1], operands)
    found, kind = _result("actual", actual, (left[0].shape[0], right[0].shape[1]))
    arithmetic = _arithmetic(operands, kind, tf32=tf32, flush_to_zero=flush_to_zero)
    expected = arithmetic.product(left[0], right[0], added)
    demand("actual", found, expected, product_hints(left[0], right[0], added))


def assert_dense_forward(
    actual: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    activation: str | Activation = "linear",
    *,
    tf32: bool = False,
    flush_to_zero: bool = False,
) -> None:
    """Assert that ``actual`` (batch, n_out) is f(x·Wᵀ + b): x (batch, n_in), weight (n_out, n_in), bias (n_out,).

    Dtypes, options and errors as in :func:`assert_matmul`; the pre-activation may be stored in the format of the
    result before f is applied.

    >>> import numpy as np
    >>> x, w = np.ones((1, 2), "float32"), np.array([[3, -4]], "float32")
    >>> assert_dense_forward(np.zeros((1, 1), "float32"), x, w, activation="relu")
    """
    f = resolve_activation(activation)
    rows, w = _read("x", x), _read("weight", weight)
    _layer_shapes(rows[0], w[0])
    operands = [("x", rows), ("weight", w)]
    added = None if bias is None else _vector("bias", bias, w[0].shape[0], operands)
    found, kind = _result("actual", actual, (rows[0].shape[0], w[0].shape[0]))
    arithmetic = _arithmetic(operands, kind, tf32=tf32, flush_to_zero=flush_to_zero)
    z = arithmetic.product(rows[0], w[0].T, added)
    hints = product_hints(rows[0], w[0].T, added, f)
    if f.name == "linear":
        demand("actual", found, z, hints)
        return
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        around = behaviour(f, z.high, z.bound)
        evaluation = activation_bound(f, around, np.abs(z.high) + z.bound, arithmetic.p)
        # In float64 the value here is evaluated no better than the one that is judged.
        sides = 2.0 if arithmetic.accumulate == "float64" else 1.0
        bound = around.steepness * (z.bound + np.abs(z.low)) + sides * evaluation
        expected = arithmetic.stored(Expected(around.value, np.zeros_like(bound), bound, f"{f.name}: {ACTIVATION}"))
    demand("actual", found, expected, hints)


def assert_dense_backward(
    actual: Any,
    x: Any,
    weight: Any,
    dh: Any,
    *,
    z: Any = None,
    activation: str | Activation = "linear",
    tf32: bool = False,
    flush_to_zero: bool = False,
) -> None:
    """Assert the gradients of a dense layer h = f(z), z = x·Wᵀ + b, for a given ∂L/∂h.

    ``actual`` maps some of ``"dx"`` (batch, n_in), ``"dw"`` (n_out, n_in), ``"db"`` (n_out,) to what the kernel
    computed; ``dh`` is (batch, n_out), and so is ``z``, which an activation other than linear needs. At z = 0 exactly
    any derivative between the two sides of a kink is allowed. Dtypes, options and errors as in :func:`assert_matmul`.

    >>> import numpy as np
    >>> x, w, dh = np.ones((2, 3), "float32"), np.ones((1, 3), "float32"), np.array([[1], [2]], "float32")
    >>> assert_dense_backward({"dw": dh.T @ x, "db": dh.sum(axis=0), "dx": dh @ w}, x, w, dh)
    """
    f = resolve_activation(activation)
    rows, w, upstream = _read("x", x), _read("weight", weight), _read("dh", dh)
    _layer_shapes(rows[0], w[0])
    _require_shape("dh", upstream[0], (rows[0].shape[0], w[0].shape[0]))
    operands = [("x", rows), ("weight", w), ("dh", upstream)]
    if not isinstance(actual, Mapping) or not actual or not set(actual) <= {"dx", "dw", "db"}:
        got = f"has {', '.join(map(str, actual))}" if isinstance(actual, Mapping) else f"is {type(actual).__name__}"
        raise ValueError(sentence("actual", got=got, expected="some of dx, dw, db", remedy="Pass a dict of these."))
    gz, e_gz = upstream[0], np.zeros_like(upstream[0])
    if f.name != "linear":
        if z is None:
            raise ValueError(
                sentence("z", got="is missing", expected=f"(batch, n_out) for {f.name}", remedy="Pass x·Wᵀ + b.")
            )
        before = _read("z", z)
        _require_shape("z", before[0], upstream[0].shape)
        operands.append(("z", before))
    shapes = {"dx": rows[0].shape, "dw": w[0].shape, "db": (w[0].shape[0],)}
    results = {name: _result(name, value, shapes[name]) for name, value in actual.items()}
    for name, (found, kind) in results.items():
        arithmetic = _arithmetic(operands, kind, tf32=tf32, flush_to_zero=flush_to_zero)
        p = arithmetic.p
        if f.name != "linear":
            around = behaviour(f, before[0], np.zeros_like(before[0]), "any")
            gz = upstream[0] * around.slope
            sides = 2.0 if arithmetic.accumulate == "float64" else 1.0
            e_gz = sides * slope_bound(around, np.abs(before[0]), np.abs(upstream[0]), p)
            e_gz = (
                e_gz
                + np.abs(upstream[0]) * around.jump
                + (arithmetic.out.rounding(np.abs(gz)) if arithmetic.out.u > FORMATS[arithmetic.accumulate].u else 0.0)
            )
        if name == "db":
            total = np.asarray(gz.sum(axis=0))
            sides = 2.0 if arithmetic.accumulate == "float64" else 1.0
            bound = sides * sum_bound(np.abs(gz).sum(axis=0) + e_gz.sum(axis=0), len(gz), p) + e_gz.sum(axis=0)
            expected = arithmetic.stored(Expected(total, np.zeros_like(total), bound, f"{arithmetic.accumulate} {SUM}"))
        else:
            left, right = (gz, w[0]) if name == "dx" else (gz.T, rows[0])
            through = e_gz @ np.abs(w[0]) if name == "dx" else e_gz.T @ np.abs(rows[0])
            exact = arithmetic.product(left, right)
            growth = 1.0 + left.shape[1] * p.u
            expected = Expected(exact.high, exact.low, exact.bound + growth * through, exact.source)
        demand(name, found, expected, {})


def assert_gradients(
    actual: Any,
    net: Network,
    params: Mapping[str, Any],
    x: Any,
    targets: Mapping[str, Any],
    sample_weight: Any = None,
    *,
    flush_to_zero: bool = False,
) -> None:
    """Assert the gradients of a whole network: ``actual`` is a :class:`Gradients`, a mapping with ``"per_loss"`` and/or
    ``"summed"``, or a summed gradient alone (every parameter -> array).

    Judged as :func:`pyengine.verify_gradients` does; where that cannot tell, the rigorous bounds of
    :func:`pyengine.rounding.gradient_bounds` decide. Raises :class:`GradientMismatch`, and ``ValueError`` and
    ``TypeError`` for what :func:`pyengine.verify_gradients` refuses.
    """
    given = _gradients(actual)
    report = verify_gradients(net, params, x, targets, sample_weight, flush_to_zero=flush_to_zero, **given)
    if report.verdict == "CONSISTENT":
        return
    if report.verdict == "INCONCLUSIVE":
        bounds = gradient_bounds(
            net, params, x, targets, sample_weight, flush_to_zero=flush_to_zero, kinks_at_zero="any"
        )
        route = oracle if net._own(params).dtype == np.float64 else reference
        truth = route.gradients(net, params, x, targets, sample_weight)
        failed = [e for e in bounds.check(_Given(given), truth) if e.name.startswith(("per_loss", "summed"))]
        if not failed:
            return
        raise GradientMismatch(f"{failed[0]} (rigorous bound; docs/tolerances.md, section 5)")
    finding = next(f for f in report.findings if f.verdict == "INCONSISTENT")
    worst = max(finding.tensors, key=lambda t: t.worst_deviation)
    where = ", ".join(map(str, worst.worst_index))
    entry = f"{finding.name}['{worst.name}'][{where}] is {worst.worst_actual!r}, expected {worst.worst_expected!r}"
    far = f"{worst.worst_deviation:.3g} standard deviations of rounding, of which 15 are allowed"
    lines = [report.answer, f"worst entry: {entry}: {far} (docs/tolerances.md, section 7)"]
    if report.combination is not None and report.combination.verdict != "summed":
        lines.append(f"at the shared layers it is {report.combination.verdict}: {report.combination.reason}")
    raise GradientMismatch("\n".join(lines))


class _Given:
    """The gradients as attributes, without those that were not given."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.per_loss, self.summed = given.get("per_loss"), given.get("summed")


def _gradients(actual: Any) -> dict[str, Any]:
    if isinstance(actual, Gradients):
        parts = {"per_loss": actual._per_loss, "summed": actual._summed}
        return {name: part for name, part in parts.items() if part is not None}
    if isinstance(actual, Mapping) and actual and set(actual) <= {"per_loss", "summed"}:
        return dict(actual)
    if isinstance(actual, Mapping):
        return {"summed": actual}
    raise TypeError(
        sentence("actual", got=f"is {type(actual).__name__}", expected="gradients by name", remedy="Pass a mapping.")
    )


# ------------------------------------------------------------------------------------------------------------ reading


def _read(argument: str, given: Any) -> tuple[F64, str]:
    """The array in float64, which holds every format exactly, and the name of its own dtype."""
    if str(getattr(given, "dtype", "")) == "torch.bfloat16":
        return as_numpy(argument, given.detach().float()).astype(np.float64), "bfloat16"
    if hasattr(given, "detach"):
        given = given.detach()
    # DLPack into NumPy lacks bfloat16; JAX's own conversion has it.
    narrow = not isinstance(given, np.ndarray) and str(getattr(given, "dtype", "")) == "bfloat16"
    array = np.asarray(given) if narrow else as_numpy(argument, given)
    format_of(argument, array.dtype.name)
    wide = array.astype(np.float64)
    return wide, array.dtype.name


def _result(argument: str, given: Any, shape: tuple[int, ...]) -> tuple[F64, Format]:
    found, name = _read(argument, given)
    _require_shape(argument, found, shape)
    if found.size == 0:
        raise ValueError(
            sentence(argument, got=f"has shape {shape}", expected="at least one number", remedy="Skip empty results.")
        )
    return found, format_of(argument, name)


def _vector(argument: str, given: Any, size: int, operands: list[tuple[str, tuple[F64, str]]]) -> F64:
    read = _read(argument, given)
    _require_shape(argument, read[0], (size,))
    operands.append((argument, read))
    return read[0]


def _require_shape(argument: str, array: F64, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        remedy = "Transpose it?" if array.shape == shape[::-1] else "Reshape it?"
        raise ValueError(sentence(argument, got=f"has shape {array.shape}", expected=f"{shape}", remedy=remedy))


def _layer_shapes(x: F64, weight: F64) -> None:
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(
            sentence("weight", got=f"has shape {weight.shape}", expected=f"(n_out, n_in) for `x` of {x.shape}",
                     remedy="Keras stores it transposed.")
        )  # fmt: skip


def _arithmetic(
    operands: list[tuple[str, tuple[F64, str]]], out: Format, *, tf32: bool, flush_to_zero: bool
) -> Arithmetic:
    first, (_, kind) = operands[0]
    for name, (array, other) in operands:
        if other != kind:
            raise TypeError(
                sentence(name, got=f"is {other}", expected=f"{kind}, as `{first}`", remedy="Convert one of them.")
            )
        if not np.isfinite(array).all():
            raise ValueError(
                sentence(name, got="holds NaN or infinity", expected="finite numbers", remedy="Test those elsewhere.")
            )
    if tf32 and kind != "float32":
        raise ValueError(
            sentence("tf32", got=f"is True for {kind}", expected="float32 operands", remedy="Leave it out.")
        )
    accumulate = "float64" if kind == "float64" else "float32"
    return Arithmetic(precision(accumulate, flush_to_zero=flush_to_zero), out, tf32, accumulate)
