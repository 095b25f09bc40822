"""Losses of JAX models: pyengine's by name, and callables recognised by their values.

A callable ``(outputs, targets)`` is evaluated on probes drawn for it and held against every loss of the engine, within
the rounding bounds of that loss; its options (label smoothing, delta) are among the numbers of its own jaxpr. A loss
that is a plain multiple of a known one, such as half a squared error, is that loss with the factor in its weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..batch import HeadTarget
from ..errors import Unsupported, listing, sentence
from ..losses import (
    LOSSES,
    MAE,
    MSE,
    BinaryCrossEntropy,
    ClippedBinaryCrossEntropy,
    ClippedCrossEntropy,
    Huber,
    Loss,
    Reduction,
    SoftmaxCrossEntropy,
)
from ..parameters import Array
from ..rounding import Precision, accumulated, exact
from ..rounding.losses import samples, scale_error, target_rows
from .jax_elementwise import plain_number
from .jax_kept import Kept, fingerprint
from .jax_program import Program, numbers_in, program_of

PROBED = (1.0, 3.0, 30.0)
"""Standard deviations of the probes' outputs; at the last the clipped cross-entropies clip.

One more goes past the largest number of the loss's jaxpr, which may be the delta of Huber's loss.
"""

LARGEST = 1e4
"""A larger number is no delta: masks are filled with such."""


KEPT: Kept[tuple[Loss, float] | None] = Kept(32)
"""What callables were recognised as, by their programs."""


@dataclass(frozen=True, eq=False)
class Objective:
    """A loss as the user has it, a program from (outputs, targets) to a scalar, and as the engine has it:
    program = factor·loss."""

    program: Program
    loss: Loss
    factor: float = 1.0

    def call(self, outputs: Any, targets: Any) -> Any:
        (value,), _ = self.program.run([outputs, targets], {}, set())
        return value


def objective(jax: Any, name: str, given: Any, output: Any, target: Any, n_out: int, p: Precision) -> Objective:
    """The objective of one output. ``output`` has its shape and dtype; ``target`` is the user's, as JAX holds it.

    Raises ``TypeError`` and ``ValueError`` for what is neither a name, a loss of pyengine nor a callable with the value
    of a known loss.
    """
    if isinstance(given, str) and given in LOSSES:
        given = LOSSES[given]()
    if isinstance(given, Loss):
        return Objective(program_of(jax, jax.make_jaxpr(called(jax, given))(output, target)), given)
    if not callable(given):
        raise TypeError(
            sentence(f"losses[{name!r}]", got=f"is {given!r}", expected=f"a callable (outputs, targets) or one of "
                     f"{listing(LOSSES)}", remedy="optax has losses; so has jax.nn.")
        )  # fmt: skip
    try:
        shape = jax.eval_shape(given, output, target)
    except Exception as error:
        raise ValueError(
            sentence(f"losses[{name!r}]", got=f"cannot be called with outputs {output.shape} and targets "
                     f"{target.shape} ({type(error).__name__}: {str(error).splitlines()[0]})",
                     expected="a callable (outputs, targets)", remedy="Do their shapes fit?")
        ) from error  # fmt: skip
    if getattr(shape, "shape", None) is None or getattr(shape.dtype, "kind", "") != "f":
        raise ValueError(
            sentence(f"losses[{name!r}]", got="returns no real array", expected="a scalar, or one number per sample",
                     remedy="Return the loss alone.")
        )  # fmt: skip

    program = program_of(jax, jax.make_jaxpr(called(jax, given))(output, target))
    own = fingerprint(program)
    key = None if own is None else (own, n_out, p)
    found = KEPT.get(key, lambda: _recognised(jax, program, output, target, n_out, p))
    if found is not None:
        return Objective(program, *found)
    remedy = "Write it as one of these, or pass final gradients to verify_gradients."
    if target.shape == output.shape[:1] and output.shape[1:] == (1,):
        remedy = f"Outputs {output.shape} and targets {target.shape} broadcast to a square; write targets[:, None]."
    own_name = getattr(given, "__name__", type(given).__name__)
    raise Unsupported(
        sentence(
            f"losses[{name!r}]",
            got=f"is {own_name}, whose values are those of none of the engine's losses",
            expected=f"the mean or the sum of {listing(LOSSES)}",
            remedy=remedy,
        )
    )


def called(jax: Any, given: Any) -> Callable[[Any, Any], Any]:
    """``call(outputs, targets)`` -> scalar of a loss by name, by object or by function, recognised or not."""
    if isinstance(given, str):
        given = LOSSES[given]()
    if isinstance(given, Loss):
        own = given
        return lambda z, y: _by_name(jax, own, z, y)

    def call(z: Any, y: Any) -> Any:
        value = given(z, y)
        return value if value.shape == () else jax.numpy.mean(value)

    return call


def engine_target(loss: Loss, target: Array, n_out: int, dtype: Any) -> Array:
    """The target as the engine takes it: classes, or rows (batch, n_out) of the parameters' dtype."""
    array = np.asarray(target)
    if loss.target_kind == "classes" and array.ndim == 1 and array.dtype.kind in "iu":
        return array.astype(np.int64)
    rows = array.astype(dtype)
    return rows.reshape(len(rows), 1) if rows.ndim == 1 and n_out == 1 else rows


def _recognised(
    jax: Any, program: Program, output: Any, target: Any, n_out: int, p: Precision
) -> tuple[Loss, float] | None:
    dtype = np.dtype(output.dtype)
    numbers = {plain_number(number, dtype) for number in numbers_in(program)}
    rng = np.random.default_rng(0)
    compiled = jax.jit(lambda z, y: program.run([z, y], {}, set())[0][0])
    probes = []
    for scale in (*PROBED, 4.0 * max((v for v in numbers if v < LARGEST), default=1.0)):
        z = (scale * rng.normal(size=output.shape)).astype(dtype)
        y = _targets(rng, target, n_out)
        value = float(compiled(z, jax.numpy.asarray(y, target.dtype)))
        # The logarithm of a softmax is infinite where logits are far apart; elsewhere it is right.
        if np.isfinite(value):
            probes.append((z.reshape(len(z), n_out), y, value))
    for loss, factor in _candidates(numbers, dtype, n_out):
        if len(probes) > 1 and all(_fits(loss, factor, z, y, value, dtype, p) for z, y, value in probes):
            return loss, factor
    return None


def _targets(rng: np.random.Generator, like: Any, n_out: int) -> Array:
    """Classes for classes; else probabilities, which are values too."""
    if np.dtype(like.dtype).kind in "iu" and len(like.shape) == 1 and n_out > 1:
        return np.asarray(rng.integers(0, n_out, like.shape))
    raw = rng.uniform(0.05, 1.0, like.shape)
    if np.dtype(like.dtype).kind in "iub":
        return np.asarray(raw > 0.5, np.int64)
    return np.asarray(raw / raw.sum(axis=-1, keepdims=True) if n_out > 1 else raw, np.dtype(like.dtype))


def _candidates(numbers: set[float], dtype: Any, n_out: int) -> Iterator[tuple[Loss, float]]:
    """Losses with their factors, the plainer first; options are among the numbers of the loss's jaxpr."""
    smoothed = {0.0, *numbers, *(1.0 - v for v in numbers), *(v * n_out for v in numbers)}
    shares = sorted({s for s in (plain_number(v, dtype) for v in smoothed) if 0.0 <= s < 1.0})
    reductions: tuple[Reduction, Reduction] = ("mean", "sum")
    for reduction in reductions:
        if n_out > 1:
            for share in shares:
                yield SoftmaxCrossEntropy(reduction, share), 1.0
                yield ClippedCrossEntropy(reduction, share), 1.0
        # Summed over the features instead of averaged.
        rows = 1.0 if reduction == "sum" else float(n_out)
        plain = (MSE(reduction), MAE(reduction), BinaryCrossEntropy(reduction), ClippedBinaryCrossEntropy(reduction))
        yield from ((loss, factor) for loss in plain for factor in dict.fromkeys((1.0, rows)))
        yield from ((MSE(reduction), factor) for factor in dict.fromkeys((0.5, 0.5 * rows)))
        deltas = sorted(v for v in numbers if 0.0 < v < LARGEST)
        yield from ((Huber(reduction, v), factor) for v in deltas for factor in dict.fromkeys((1.0, rows)))


def _fits(loss: Loss, factor: float, z: Array, y: Array, value: float, dtype: Any, p: Precision) -> bool:
    n_out = z.shape[1]
    target = HeadTarget(engine_target(loss, y, n_out, dtype), None)
    if target.target.ndim == 2 and target.target.shape != z.shape:
        return False
    if target.target.ndim == 1 and loss.target_kind != "classes":
        return False
    rows = target_rows(loss, target, n_out, p)
    one = samples(loss, exact(z, 1.0), rows, dtype, "any", p)
    share = factor * target.coefficients(loss, n_out)[:, None]
    # Each term is rounded with its factor, then the terms are added in any order.
    relative = scale_error(loss, target, 1, p) + accumulated(z.size, p.u)
    bound = float((share * (one.l_bound + relative * (np.abs(one.l) + one.l_bound))).sum())
    return abs(value - float((share * one.l).sum())) <= bound


def _by_name(jax: Any, loss: Loss, z: Any, y: Any) -> Any:
    """A loss of pyengine in JAX."""
    jnp, nn = jax.numpy, jax.nn
    if isinstance(loss, SoftmaxCrossEntropy | ClippedCrossEntropy):
        y = nn.one_hot(y, z.shape[1], dtype=z.dtype) if y.ndim == 1 else y
        y = (1 - loss.label_smoothing) * y + loss.label_smoothing / z.shape[1] if loss.label_smoothing else y
        if isinstance(loss, SoftmaxCrossEntropy):
            log_p = nn.log_softmax(z, axis=1)
        else:
            p = nn.softmax(z, axis=1)
            log_p = jnp.log(jnp.clip(p / p.sum(axis=1, keepdims=True), *loss.clip_bounds(np.dtype(z.dtype))))
        values = -(y * log_p).sum(axis=1)
    elif isinstance(loss, ClippedBinaryCrossEntropy):
        p = jnp.clip(nn.sigmoid(z), *loss.clip_bounds(np.dtype(z.dtype)))
        values = -(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))
    elif isinstance(loss, BinaryCrossEntropy):
        values = -(y * nn.log_sigmoid(z) + (1 - y) * nn.log_sigmoid(-z))
    elif isinstance(loss, MSE):
        values = jnp.square(z - y)
    elif isinstance(loss, MAE):
        values = jnp.abs(z - y)
    else:
        r, delta = z - y, getattr(loss, "delta", 1.0)
        values = jnp.where(jnp.abs(r) <= delta, 0.5 * r * r, delta * (jnp.abs(r) - 0.5 * delta))
    return values.sum() if loss.reduction == "sum" else values.mean()
