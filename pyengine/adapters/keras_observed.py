"""Keras models that the engine does not know: the total as Keras itself forms it, its terms, and all in float64.

Everything runs in a stateless scope: variables take the values they are given, batch statistics and seeds that a
training call would write are dropped, and every call draws the same dropout masks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from ..errors import sentence
from ..observation import Gradient, Observation, Twin
from ..rounding.formats import FORMATS
from .keras_backend import array_of, load, versions
from .keras_losses import by_output, function_name, one_hot, target_array
from .narrow_inside import require_wide_graph, require_wide_jaxpr, watched

TOTAL, REGULARIZERS = "the total", "regularizers"
Pullback = Callable[[str, float], Gradient]


def observe(model: Any, x: Any, targets: Any, sample_weight: Any, refusal: str) -> Observation:
    """Record the losses of one batch, and how to get their gradients. See :func:`pyengine.verify`."""
    keras = load()
    own = getattr(model, "_compile_loss", None)
    if not getattr(model, "compiled", False) or own is None:
        raise ValueError(
            sentence("model", got="is not compiled with a loss", expected="a compiled keras.Model",
                     remedy="Call model.compile(optimizer=..., loss=...) first.")
        )  # fmt: skip
    variables = {str(variable.path): variable for variable in model.trainable_variables}
    subject = _Subject(keras, model, own, variables, x, targets, sample_weight)
    seen, gradient = subject.differentiated(subject.losses, {n: v.value for n, v in variables.items()})
    dtypes = {str(keras.backend.standardize_dtype(v.dtype)) for v in [*variables.values(), *seen.values()]}
    dtypes |= {str(layer.compute_dtype) for layer in model._flatten_layers()}
    missing, twin = {}, None
    try:
        twin = subject.twin(list(seen))
    except Exception as error:  # whatever a layer does that does not bear float64
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        missing["differences"] = f"the model does not run in float64: {said}"
    values = {name: float(array_of(keras, value)) for name, value in seen.items()}
    return Observation(
        framework="Keras",
        refusal=refusal,
        batch=len(next(iter(subject.y.values()))),
        dtype=max(dtypes & set(FORMATS), key=lambda name: FORMATS[name].u),
        weights={name: subject.weights.get(name, 1.0) for name in values if name != TOTAL},
        losses={name: value for name, value in values.items() if name != TOTAL},
        total=values[TOTAL],
        shapes={name: tuple(variable.shape) for name, variable in variables.items()},
        per_loss=gradient,
        summed=lambda factor: gradient(TOTAL, factor),
        twin=twin,
        missing=missing,
        versions=versions(keras),
    )


class _Subject:
    """A compiled model and a batch: losses at given values of the variables."""

    def __init__(
        self, keras: Any, model: Any, own: Any, variables: Mapping[str, Any], x: Any, targets: Any, sample_weight: Any
    ) -> None:
        self.keras, self.model, self.variables, self.x = keras, model, variables, x
        with keras.StatelessScope(state_mapping=[]):
            outputs = model(x, training=True)
        self.structure = keras.tree.map_structure(lambda _: None, outputs)
        self.names = _names(model, outputs)
        self.y = by_output("targets", targets, self.names, required=True)
        self.w = by_output("sample_weight", sample_weight, self.names, required=False)
        floatx = keras.config.floatx()
        self.y = {name: target_array(self.y.get(name), floatx) for name in self.names}
        missing = [name for name, target in self.y.items() if target is None]
        if missing:
            raise ValueError(
                sentence("targets", got=f"lacks {', '.join(missing)}", expected=f"one per output: {self.names}",
                         remedy="Name them as the outputs.")
            )  # fmt: skip
        fresh = type(own)(loss=own._user_loss, loss_weights=own._user_loss_weights, output_names=own.output_names)
        by_name = dict(zip(self.names, keras.tree.flatten(outputs), strict=True))
        symbolic = {n: keras.KerasTensor((None, *o.shape[1:]), name=n) for n, o in by_name.items()}
        wanted = {n: keras.KerasTensor((None, *y.shape[1:]), name=n) for n, y in self.y.items()}
        fresh.build(self.pack(wanted), self.pack(symbolic))
        self.functions: dict[str, Any] = {}
        self.weights: dict[str, float] = {}
        for path, function, weight, _ in fresh._flat_losses:
            name = self._named(path)
            self.functions[name] = function
            self.weights[name] = 1.0 if weight is None else float(np.asarray(weight))
            kind = function_name(function)
            if "categorical_crossentropy" in kind and "sparse" not in kind:
                self.y[name] = one_hot(self.y[name], int(by_name[name].shape[-1]), floatx)

    def pack(self, given: Mapping[str, Any]) -> Any:
        """By output name -> in the structure of the model's outputs."""
        return self.keras.tree.pack_sequence_as(self.structure, [given[name] for name in self.names])

    def _named(self, path: Any) -> str:
        if not path:
            return self.names[0]
        key = path[-1]
        return str(key) if key in self.names else self.names[int(key)]

    def losses(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Every term of the total, and the total, by Keras' own ``compute_loss``."""
        with self._scope(values), self._seeded():
            outputs = self.model(self.x, training=True)
            weights = self.pack({name: self.w.get(name) for name in self.names}) if self.w else None
            total = self.model.compute_loss(
                x=self.x, y=self.pack(self.y), y_pred=outputs, sample_weight=weights, training=True
            )
            found = self._terms(outputs, self.functions)
            extra = [self.keras.ops.sum(term) for term in self.model.losses]
            if extra:
                found[REGULARIZERS] = sum(extra)
        return {**found, TOTAL: total}

    def _scope(self, values: Mapping[str, Any]) -> Any:
        scope = self.keras.StatelessScope(collect_losses=True)
        # Given to the scope as its argument, values would be cast to the dtypes of their variables.
        scope.state_mapping.update({id(self.variables[name]): value for name, value in values.items()})
        return scope

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Without a seed of its own, a layer of the PyTorch backend draws from PyTorch's generator."""
        if self.keras.backend.backend() != "torch":
            yield
            return
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield

    def _terms(self, outputs: Any, functions: Mapping[str, Any]) -> dict[str, Any]:
        by_name = dict(zip(self.names, self.keras.tree.flatten(outputs), strict=True))
        return {name: function(self.y[name], by_name[name], self.w.get(name)) for name, function in functions.items()}

    def twin(self, names: list[str]) -> Twin:
        parameters = {n: array_of(self.keras, v).astype(np.float64) for n, v in self.variables.items()}
        functions = {name: _widened(self.keras, function) for name, function in self.functions.items()}
        x = self.keras.tree.map_structure(_wide, self.x)

        def losses(values: Mapping[str, Any]) -> dict[str, Any]:
            with self._scope(values), self._seeded():
                found = self._terms(self.model(x, training=True), functions)
                if REGULARIZERS in names:
                    found[REGULARIZERS] = sum(self.keras.ops.sum(term) for term in self.model.losses)
            return found

        def placed(values: Mapping[str, Any]) -> dict[str, Any]:
            return {n: self.keras.ops.convert_to_tensor(value, dtype="float64") for n, value in values.items()}

        run = self._compiled(losses)

        def evaluate(values: Mapping[str, Any]) -> dict[str, float]:
            with _float64(self.keras, self.model):
                return {name: float(array_of(self.keras, v)) for name, v in run(placed(values)).items()}

        with _float64(self.keras, self.model):
            self._require_wide(run, losses, placed(parameters))
            seen, gradient = self.differentiated(losses, placed(parameters))
            gradients = {name: gradient(name, 1.0) for name in seen}
        return Twin(parameters, evaluate, gradients)

    def _require_wide(self, run: Any, losses: Any, values: Mapping[str, Any]) -> None:
        """Raise :class:`NarrowInside` for a layer that computes in a 16-bit format whatever its policy says."""
        backend = self.keras.backend.backend()
        if backend == "jax":
            import jax

            require_wide_jaxpr(jax, losses, values)
        elif backend == "tensorflow":
            require_wide_graph(run, values)
        else:
            import torch

            with watched(torch):
                losses(values)

    def _compiled(self, losses: Any) -> Any:
        """For many calls: compiled where that is quicker, with the same draws in every call."""
        backend = self.keras.backend.backend()
        if backend == "jax":
            import jax

            return jax.jit(losses)
        if backend == "tensorflow":
            import tensorflow as tf

            return tf.function(losses)
        return losses

    def differentiated(
        self, losses: Callable[[Mapping[str, Any]], dict[str, Any]], values: Mapping[str, Any]
    ) -> tuple[dict[str, Any], Pullback]:
        """The values by one forward pass, and what differentiates factor·value by the backend's own means."""
        backend = self.keras.backend.backend()
        if backend == "tensorflow":
            return self._by_tensorflow(losses, values)
        return self._by_torch(losses, values) if backend == "torch" else self._by_jax(losses, values)

    def _by_tensorflow(self, losses: Any, values: Mapping[str, Any]) -> tuple[dict[str, Any], Pullback]:
        import tensorflow as tf

        raw = {name: tf.convert_to_tensor(value) for name, value in values.items()}
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(list(raw.values()))
            seen = losses(raw)

        def gradient(name: str, factor: float) -> Gradient:
            start = tf.constant(factor, dtype=seen[name].dtype)
            found = tape.gradient(seen[name], raw, output_gradients=start)
            return {n: None if g is None else tf.convert_to_tensor(g).numpy() for n, g in found.items()}

        return seen, gradient

    def _by_torch(self, losses: Any, values: Mapping[str, Any]) -> tuple[dict[str, Any], Pullback]:
        import torch

        raw = {name: value.detach().clone().requires_grad_(True) for name, value in values.items()}
        with torch.enable_grad():
            seen = losses(raw)

        def gradient(name: str, factor: float) -> Gradient:
            value = seen[name]
            found: Any = [None] * len(raw)
            if value.requires_grad:
                start = torch.full_like(value, factor)
                found = torch.autograd.grad(value, list(raw.values()), start, retain_graph=True, allow_unused=True)
            return {n: None if g is None else array_of(self.keras, g) for n, g in zip(raw, found, strict=True)}

        return seen, gradient

    def _by_jax(self, losses: Any, values: Mapping[str, Any]) -> tuple[dict[str, Any], Pullback]:
        import jax

        seen, pullback = jax.vjp(losses, dict(values))

        def gradient(name: str, factor: float) -> Gradient:
            start = {n: jax.numpy.full_like(v, factor if n == name else 0.0) for n, v in seen.items()}
            (found,) = pullback(start)
            return {n: np.asarray(array) for n, array in found.items()}

        return seen, gradient


@contextmanager
def _float64(keras: Any, model: Any) -> Iterator[None]:
    """Within, the model's layers compute in float64; then they have their own policies again."""
    kept = [(layer, layer.dtype_policy) for layer in model._flatten_layers()]
    floatx = keras.config.floatx()
    scope: Any = nullcontext()
    if keras.backend.backend() == "jax":
        import jax

        scope = jax.enable_x64(True)
    try:
        keras.config.set_floatx("float64")
        for layer, _ in kept:
            layer.dtype_policy = "float64"
        with scope:
            yield
    finally:
        keras.config.set_floatx(floatx)
        for layer, policy in kept:
            layer.dtype_policy = policy


def _widened(keras: Any, function: Any) -> Any:
    own = copy.copy(function)
    own._dtype_policy = keras.dtype_policies.get("float64")
    own._dtype = "float64"
    return own


def _wide(array: Any) -> Any:
    plain = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
    return plain.astype(np.float64) if plain.dtype.kind == "f" else plain


def _names(model: Any, outputs: Any) -> list[str]:
    if isinstance(outputs, Mapping):
        return [str(name) for name in sorted(outputs)]
    given = getattr(model, "output_names", None)
    several = len(outputs) if isinstance(outputs, (list, tuple)) else 1
    names = [str(name) for name in given] if given else [f"output_{i}" for i in range(several)]
    return [f"{name}_{i}" if names.count(name) > 1 else name for i, name in enumerate(names)]
