"""JAX models that the engine does not know: losses and gradients by one vjp, and the same function in float64.

One forward pass serves all gradients. A pure function draws nothing at random that its arguments do not fix, and a
module is put together anew for every call, so all calls see the same dropout masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import listing, sentence
from ..observation import Gradient, Observation, Twin
from ..rounding.formats import FORMATS
from .from_jax import load, pure
from .jax_losses import called
from .narrow_inside import require_wide_jaxpr

TOTAL = "the total"


def observe(
    model: Any,
    x: Any,
    targets: Mapping[str, Any],
    losses: Mapping[str, Any],
    loss_weights: Mapping[str, float],
    refusal: str,
) -> Observation:
    """Record the losses of one batch, and how to get their gradients. See :func:`pyengine.verify`."""
    jax = load()
    given = pure(model)
    flat, tree = jax.tree_util.tree_flatten_with_path(given.params)
    leaves = [jax.numpy.asarray(leaf) for _, leaf in flat]
    real = {i: jax.tree_util.keystr(path) for i, (path, _) in enumerate(flat) if _is_real(jax, leaves[i])}
    own = {name: leaves[i] for i, name in real.items()}
    weights = {name: float(loss_weights.get(name, 1.0)) for name in losses}
    functions = {name: called(jax, loss) for name, loss in losses.items()}

    def values(parameters: Mapping[str, Any], rows: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
        placed = [parameters[real[i]] if i in real else leaf for i, leaf in enumerate(leaves)]
        outputs = _by_name(given.apply(jax.tree_util.tree_unflatten(tree, placed), rows), list(losses))
        found = {name: functions[name](outputs[name], wanted[name]) for name in losses}
        return {**found, TOTAL: sum(weights[name] * value for name, value in found.items())}

    rows = jax.tree_util.tree_map(jax.numpy.asarray, x)
    wanted = {name: jax.numpy.asarray(targets[name]) for name in losses}
    seen, pullback = jax.vjp(lambda parameters: values(parameters, rows, wanted), own)
    for name, value in seen.items():
        if value.shape != ():
            raise ValueError(
                sentence(f"losses[{name!r}]", got=f"returns shape {value.shape}", expected="one number",
                         remedy="Take the mean or the sum.")
            )  # fmt: skip

    def gradient(name: str, factor: float) -> Gradient:
        start = {n: jax.numpy.full_like(value, factor if n == name else 0.0) for n, value in seen.items()}
        (found,) = pullback(start)
        return {n: _numpy(jax, array) for n, array in found.items()}

    dtypes = {str(array.dtype) for array in [*own.values(), *seen.values()]}
    missing, twin = {}, None
    try:
        twin = _twin(jax, values, own, rows, targets, list(losses))
    except Exception as error:  # whatever a function does that does not bear float64
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        missing["differences"] = f"the model does not run in float64: {said}"
    first = np.shape(next(iter(wanted.values())))
    return Observation(
        framework=given.framework,
        refusal=refusal,
        batch=int(first[0]) if first else 1,
        dtype=max(dtypes & set(FORMATS), key=lambda name: FORMATS[name].u),
        weights=weights,
        losses={name: float(seen[name]) for name in losses},
        total=float(seen[TOTAL]),
        shapes={name: tuple(array.shape) for name, array in own.items()},
        per_loss=gradient,
        summed=lambda factor: gradient(TOTAL, factor),
        twin=twin,
        missing=missing,
        versions=given.versions,
    )


def _twin(
    jax: Any, values: Any, own: Mapping[str, Any], rows: Any, targets: Mapping[str, Any], names: list[str]
) -> Twin:
    def wide(array: Any) -> Any:
        plain = np.asarray(array)
        return plain.astype(np.float64) if plain.dtype.kind in "fV" else plain

    parameters = {name: wide(array) for name, array in own.items()}
    wide_rows = jax.tree_util.tree_map(wide, rows)
    wide_targets = {name: wide(targets[name]) for name in names}

    def placed(given: Mapping[str, Any]) -> Any:
        there = {name: jax.numpy.asarray(array) for name, array in given.items()}
        inputs = jax.tree_util.tree_map(jax.numpy.asarray, wide_rows)
        return there, inputs, {name: jax.numpy.asarray(array) for name, array in wide_targets.items()}

    compiled = jax.jit(values)

    def evaluate(given: Mapping[str, Any]) -> dict[str, float]:
        with _float64(jax):
            found = compiled(*placed(given))
            return {name: float(found[name]) for name in names}

    with _float64(jax):
        there, inputs, wanted = placed(parameters)
        require_wide_jaxpr(jax, lambda given: values(given, inputs, wanted), there)
        seen, pullback = jax.vjp(lambda given: values(given, inputs, wanted), there)
        gradients: dict[str, Gradient] = {}
        for name in names:
            (found,) = pullback({n: jax.numpy.full_like(v, 1.0 if n == name else 0.0) for n, v in seen.items()})
            gradients[name] = {n: np.asarray(array) for n, array in found.items()}
    return Twin(parameters, evaluate, gradients)


def _float64(jax: Any) -> Any:
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # where JAX up to 0.7 has it

    return enable_x64()


def _by_name(given: Any, names: list[str]) -> Mapping[str, Any]:
    if isinstance(given, Mapping):
        missing = [name for name in names if name not in given]
        if missing:
            raise ValueError(
                sentence("losses", got=f"names {listing(missing)}", expected=f"outputs among {listing(given)}",
                         remedy="Name the losses as the model's outputs.")
            )  # fmt: skip
        return given
    outputs = list(given) if isinstance(given, (tuple, list)) else [given]
    if len(outputs) != len(names):
        raise ValueError(
            sentence("losses", got=f"has {len(names)} entries", expected=f"one per output, {len(outputs)}",
                     remedy="Give them in the order of the outputs.")
        )  # fmt: skip
    return dict(zip(names, outputs, strict=True))


def _is_real(jax: Any, leaf: Any) -> bool:
    return bool(jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating))


def _numpy(jax: Any, array: Any) -> Any:
    # NumPy's arithmetic does not know bfloat16; every number of it is a float32.
    return np.asarray(array.astype(jax.numpy.float32) if str(array.dtype) == "bfloat16" else array)
