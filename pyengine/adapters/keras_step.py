"""Keras: let a model take one training step, see what its optimizer was given, and put everything back.

The model's own ``train_step`` runs once, whoever wrote it, so that every call of ``optimizer.apply`` can be listened
to. Keras' own is a program with what the optimizer is given among its results, where the backend compiles
(:mod:`pyengine.adapters.keras_kept`); a user's runs eagerly, for it may read anything. Afterwards variables, the
optimizer's state, metrics and compiled functions are as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import spare
from ..arrays import put
from ..optimizers import Rule, State
from ..parameters import Array, Parameters, empty
from ..witnesses import Added, Clip, Log, Step
from .computation import Computation
from .keras_backend import array_of, load, require_undistributed, snapshot, view_of
from .keras_clipped import clipped_outputs
from .keras_few import FewOwn, Places, takes_each_alone
from .keras_kept import program
from .keras_model import compute as gradients_of
from .keras_model import keras_targets, read_parameters, subject_of
from .keras_rule import innermost, rule_of
from .keras_stepping import stepping
from .keras_subject import Subject

Vector = npt.NDArray[np.float64]
Given = dict[str, Any]
"""What ``optimizer.apply`` was given, by the canonical names of its variables; None for a variable without."""
Hear = Callable[[Given | None], None]
"""Takes it, or None where it could not be seen."""


def compute(model: Any, x: Any, targets: Any, sample_weight: Any = None) -> Computation:
    """Gradients, witnesses and a step of a compiled model. See :func:`pyengine.verify`."""
    require_undistributed(model)
    subject = subject_of(model, x, targets, sample_weight)
    done, extra = gradients_of(subject)
    stepping = None if model.optimizer is None else lambda: observe(subject, done, extra)
    return replace(done, step=stepping, notes=(*done.notes, *clipped_outputs(subject, done)))


def observe(subject: Subject, done: Computation, extra: Mapping[str, tuple[float, dict[str, Array]]]) -> Step:
    """One step of the model on the subject's batch. ``extra`` are the terms that are no losses of outputs."""
    keras, model = load(), subject.model
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    layout = subject.network.layout
    added = {name: Added(value, _joined(layout, found), "Keras") for name, (value, found) in extra.items()}
    total = sum((one.gradient.flat for one in added.values()), np.zeros(layout.size))
    inner = innermost(optimizer)
    factor = float(inner.loss_scale_factor or 1.0)
    applied: list[Parameters] = []
    hidden: list[bool] = []

    jax = keras.backend.backend() == "jax"

    def hear(given: Given | None) -> None:
        if given is None or (jax and any(map(_traced, given.values()))):
            hidden.append(True)
            return
        found = _joined(layout, {n: _turned(n, view_of(keras, g)) for n, g in given.items() if g is not None})
        if factor != 1.0:
            found.flat[...] /= factor
        if optimizer is inner or np.isfinite(found.flat).all():
            applied.append(found)  # loss scaling skips what is not finite

    custom = type(model).train_step is not _own_train_step(model)
    whole = keras.backend.backend() != "torch" and not custom and not model.run_eagerly
    listening = (_as_a_whole if whole else _eagerly)(keras, subject, inner, hear)
    with restored(keras, model) as before, listening:
        model.reset_metrics()
        weights = {name: term.sample_weight for name, term in subject.terms.items()}
        given = (
            keras.tree.map_structure(weights.get, subject.graph.structure)
            if any(w is not None for w in weights.values())
            else None
        )
        logs = model.train_on_batch(subject.x, keras_targets(subject), sample_weight=given, return_dict=True)
        after = read_parameters(keras, subject.network, subject.variables)
    rule, state, clip = _rule(keras, subject, inner, before)
    if added and clip is not None:
        rule = None  # the regularizer's gradient is clipped with the losses'; Keras' own optimizer knows how
    notes = []
    if hidden:
        notes.append(
            "The gradient could not be seen: JAX traces the optimizer's call. The weights are judged without it."
        )
    elif len(applied) != 1:
        notes.append(f"train_step called the optimizer {len(applied)} times; its first gradient is decomposed.")
    first = applied[0].flat if applied else np.zeros(layout.size)
    if applied and added:
        first = first - total

    known: list[Places] = []  # all hypotheses are asked for the same elements

    def few(some: npt.NDArray[np.intp]) -> FewOwn:
        if not known or known[0].some is not some:
            known[:] = [Places(layout, some)]
        other = total if total.any() else None
        return FewOwn(keras, inner, subject.variables, before, known[0], other, factor, subject.dtype)

    return Step(
        framework="Keras",
        call="its own train_step" if custom else "train_step",
        network=subject.network,
        x=done.x,
        targets=done.targets,
        before=subject.params,
        after=after,
        gradient=Parameters(layout, first),
        gradient_source=f"what optimizer.apply was given by train_step{'' if whole else ', run eagerly'}",
        # The tape adds the terms up: a rounding for each.
        gradient_roundings=len(added),
        optimizer=rule,
        native=subject.native,
        objective={name: term.name for name, term in subject.terms.items()},
        log=_log(subject, logs, done.losses),
        versions=done.versions,
        notes=tuple(notes),
        observed=len(applied) == 1 and not hidden,
        state=state,
        own=lambda: _Own(keras, subject, inner, before, total, factor),
        own_at=few if rule is not None and takes_each_alone(keras, inner) else None,
        own_name=type(inner).__name__,
        clip=clip,
        added=added,
    )


class _Own:
    """The model's own optimizer as a stepper: it steps from where the training step began, and all is put back."""

    def __init__(
        self, keras: Any, subject: Subject, optimizer: Any, before: Mapping[int, Any], added: Vector, factor: float
    ) -> None:
        self.keras, self.subject = keras, subject
        trained = list(subject.model.trainable_variables)
        names = {id(variable): name for name, variable in subject.variables.items()}
        self.names = [names[id(v)] for v in trained if id(v) in names]
        self.places = {names[id(v)]: i for i, v in enumerate(trained) if id(v) in names}
        self.run = stepping(keras, optimizer, trained, [subject.variables[name] for name in self.names])
        self.here: Sequence[Any] = [before[id(one)] for one in (*trained, *optimizer.variables)]
        self.added, self.factor = added if added.any() else None, factor

    def step(self, gradient: Vector) -> Array:
        """Take one step with a flat gradient in canonical order; all parameters after it, flat."""
        layout, dtype = self.subject.network.layout, np.dtype(self.subject.dtype)
        total = Parameters(layout, gradient if self.added is None else gradient + self.added)
        given = [_turned(name, total[name]) for name in self.names]
        given = [self._scaled(one, dtype) for one in given]
        self.here = self.run(self.here, given)
        after = empty(layout, dtype)
        for name, place in self.places.items():
            put(after[name], _turned(name, view_of(self.keras, self.here[place])))
        return after.flat

    def _scaled(self, gradient: Vector, dtype: np.dtype[Any]) -> Array:
        """As the optimizer takes it: in its own order, times the loss scale, rounded once."""
        found = spare.empty(gradient.shape, dtype)
        put(found, gradient if self.factor == 1.0 else gradient * self.factor)
        return found


def _turned(name: str, array: Array) -> Array:
    """Between the engine's weights, (n_out, n_in), and Keras' kernels."""
    return array.T if name.endswith(".weight") else array


@contextmanager
def restored(keras: Any, model: Any) -> Iterator[dict[int, Any]]:
    """Put every variable of the model, its metrics and its optimizer back afterwards; yields their values by id, as
    tensors of the backend."""
    held = {id(v): v for v in (*model.variables, *model.metrics_variables, *model.optimizer.variables)}
    values = {key: snapshot(keras, variable) for key, variable in held.items()}
    backend = keras.backend.backend()
    torch = backend == "torch"
    gradients = [(v.value, v.value.grad) for v in model.trainable_variables] if torch else []
    try:
        yield values
    finally:
        for key, variable in held.items():
            if backend == "tensorflow":  # without Keras' checks of what was its own, and without reading it once more
                variable.value.assign(values[key], read_value=False)
            else:
                variable.assign(values[key])
        for metric in model.metrics:
            for variable in metric.variables:
                if id(variable) not in held:
                    variable.assign(np.zeros(tuple(variable.shape), str(variable.dtype)))
        for parameter, gradient in gradients:
            parameter.grad = gradient


@contextmanager
def _eagerly(_: Any, subject: Subject, optimizer: Any, hear: Hear) -> Iterator[None]:
    model = subject.model
    eager, function = model.run_eagerly, model.train_function
    model.run_eagerly, model.train_function = True, None
    try:
        with _heard(subject, optimizer, hear):
            yield
    finally:
        model.run_eagerly = eager
        model.train_function = function


@contextmanager
def _as_a_whole(keras: Any, subject: Subject, optimizer: Any, hear: Hear) -> Iterator[None]:
    model, jax = subject.model, keras.backend.backend() == "jax"
    # On JAX loss scaling calls the inner optimizer under a condition, which is traced once more.
    outside = jax and model.optimizer is not optimizer
    function, run = model.train_function, program(keras, subject, "step", jit_compile=not jax and model.jit_compile)

    def step(*arguments: Any) -> Any:
        heard: list[Given | None] = []

        def keep(given: Given | None) -> None:
            heard.append(given if not jax or _among(given, arguments) else None)

        with _heard_outside(keras, subject, keep) if outside else _heard(subject, optimizer, keep):
            return model.train_step(*arguments), heard

    def train(*given: Any) -> Any:
        *state, batches = given
        done, heard = run(step, *state, next(batches))
        for one in heard:
            hear(one)
        return done

    model.train_function = train
    try:
        yield
    finally:
        model.train_function = function


@contextmanager
def _heard(subject: Subject, optimizer: Any, hear: Hear) -> Iterator[None]:
    own = optimizer.apply
    names = {id(variable): name for name, variable in subject.variables.items()}

    def apply(grads: Any, trainable_variables: Any = None) -> Any:
        variables = optimizer._trainable_variables if trainable_variables is None else list(trainable_variables)
        given = list(grads)
        hear({names[id(v)]: g for v, g in zip(variables, given, strict=True) if id(v) in names})
        return own(given, trainable_variables)

    with _in_place_of(optimizer, apply):
        yield


@contextmanager
def _heard_outside(keras: Any, subject: Subject, hear: Hear) -> Iterator[None]:
    """Hear what a ``LossScaleOptimizer`` is given, divided by its scale as it does itself."""
    optimizer = subject.model.optimizer
    own = optimizer.stateless_apply
    names = {id(variable): name for name, variable in subject.variables.items()}

    def stateless_apply(values: Any, grads: Any, trained: Any) -> Any:
        scale = next(v for one, v in zip(optimizer.variables, values, strict=True) if one is optimizer.dynamic_scale)
        given = {names[id(v)]: g for v, g in zip(optimizer._trainable_variables, grads, strict=True) if id(v) in names}
        hear({name: None if g is None else keras.ops.divide(g, scale) for name, g in given.items()})
        return own(values, grads, trained)

    with _in_place_of(optimizer, stateless_apply):
        yield


@contextmanager
def _in_place_of(optimizer: Any, method: Callable[..., Any]) -> Iterator[None]:
    """The method of the same name is this one; Keras' own way to set attributes would track it."""
    held, name = vars(optimizer), method.__name__
    held[name] = method
    try:
        yield
    finally:
        del held[name]


def _traced(gradient: Any) -> bool:
    import jax

    return isinstance(gradient, jax.core.Tracer)


def _among(given: Given | None, arguments: Any) -> bool:
    """Whether JAX may have the gradients among a program's results: what is traced once more within has no place."""
    import jax

    traces = [one._trace for one in jax.tree.leaves(arguments) if _traced(one)][:1]
    return given is not None and all(not _traced(one) or one._trace in traces for one in given.values())


def _own_train_step(model: Any) -> Any:
    """Keras' own train_step for this kind of model, whatever its class overrides."""
    kinds: Any = type(model).__mro__
    return next(kind.train_step for kind in kinds if kind.__module__.startswith("keras."))


def _joined(layout: Any, arrays: Mapping[str, Array]) -> Parameters:
    found = empty(layout, np.dtype(np.float64))
    found.flat[...] = 0.0
    for name, array in arrays.items():
        put(found[name], array)
    return found


def _rule(
    keras: Any, subject: Subject, optimizer: Any, before: Mapping[int, Any]
) -> tuple[Rule | None, State | None, Clip | None]:
    """The float64 rule where the options are among its own, what it remembered, and the optimizer's clipping."""
    read = rule_of(keras, optimizer, lambda variable: array_of(keras, variable))
    steps = int(view_of(keras, before[id(optimizer.iterations)]))
    if read.rule is None or not steps:
        return read.rule, None, read.clip
    layout, dtype = subject.network.layout, np.dtype(subject.dtype)
    fresh = read.rule.start(np.zeros(layout.size))
    for name, (variables, factor) in read.slots.items():
        slot = empty(layout, dtype if factor == 1.0 else np.dtype(np.float64))
        for parameter, variable in subject.variables.items():
            held = before[id(variables[optimizer._get_variable_index(variable)])]
            put(slot[parameter], _turned(parameter, view_of(keras, held)))
        if factor != 1.0:
            slot.flat[...] *= factor
        fresh.slots[name] = slot.flat
    return read.rule, State(steps, fresh.slots, fresh.slot_errors, fresh.error), read.clip


def _log(subject: Subject, logs: Any, losses: Mapping[str, float]) -> Log | None:
    """What the step reported; ``losses`` are those that Keras computes when asked for them alone."""
    if not isinstance(logs, Mapping) or "loss" not in logs:
        return None
    names = list(subject.terms)
    total = float(logs["loss"])
    if len(names) == 1:
        # Keras reports a single loss as the total alone, with whatever was added to it.
        return Log(total, {names[0]: losses[names[0]]}, roundings=2)
    if any(f"{name}_loss" not in logs for name in names):
        return None
    # A running mean of one batch: one product with the batch size, one division by it.
    return Log(total, {name: float(logs[f"{name}_loss"]) for name in names}, roundings=2)
