"""Keras: record every optimizer step of somebody's loop, on any backend: ``fit``, ``train_on_batch``, a loop by hand.

The loop runs as it is, compiled or not (:mod:`pyengine.adapters.keras_hearing`). Hypotheses are replayed by the loop's
own optimizer, from the state that it had, and everything is put back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..errors import listing, sentence
from ..observation import Observation
from ..optimizers import Rule
from ..parameters import Array
from ..watching import Arrays, Event, Twin
from ..witnesses import Clip
from .computation import Computation, at_random, refuse_end
from .keras_backend import array_of, load, require_undistributed, versions
from .keras_hearing import Clock, Ear, Heard, TrainFunction
from .keras_model import batch_of, subject_of
from .keras_observed import observe
from .keras_rule import rule_of


class Recorder:
    """``losses`` and ``loss_weights`` are read from a compiled model unless they are given."""

    framework = "Keras"
    plus = 0.0
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        model: Any,
        losses: Mapping[str, Any] | None,
        loss_weights: Mapping[str, float],
        optimizers: Sequence[Any],
    ) -> None:
        require_undistributed(model)
        self.keras, self.model = load(), model
        self.objective = None if losses is None else _objective(model, losses, loss_weights)
        self.optimizers = list(optimizers)
        clock = Clock()
        self._ears = [Ear(self.keras, i, one, clock) for i, one in enumerate(self.optimizers)]
        self._function = TrainFunction(model, self.finish)
        self._start: Arrays = {}
        self._events: dict[int, Event] = {}

    @property
    def events(self) -> list[Event]:
        """In the order of the steps. What an optimizer does not hold is as the steps before left it."""
        self.finish()
        for ear in self._ears:
            ear.require_all()
        heard = sorted((one for ear in self._ears for one in ear.heard), key=lambda one: one.stamp)
        here, found = dict(self._start), []
        for one in heard:
            if id(one) not in self._events:
                self._events[id(one)] = self._event(one, here)
            found.append(self._events[id(one)])
            here = found[-1].after
        return found

    def read(self, x: Any, targets: Any, sample_weight: Any = None) -> tuple[Twin, Computation]:
        """The engine's twin of the model, and the batch as the engine takes it; refuses what :func:`verify` does."""
        subject = subject_of(self.model, x, targets, sample_weight, self.objective)
        shaped, weights = batch_of(subject)
        done = Computation(
            framework="Keras",
            network=subject.network,
            params=subject.params,
            x=shaped,
            targets={name: term.engine_target(subject.dtype) for name, term in subject.terms.items()},
            per_loss={},
            summed={},
            losses={},
            native=subject.native,
            sample_weight=weights,
            versions=versions(self.keras),
        )
        transposed = frozenset(name for name in subject.native if name.endswith(".weight"))
        return Twin(subject.network, subject.native, transposed), done

    def observe(self, at: Arrays, x: Any, targets: Any, sample_weight: Any, refusal: str) -> Observation:
        """The model at other values of its variables, by Keras alone; everything is put back."""
        model = self.model
        if any(getattr(layer, "seed_generator", None) is not None for layer in model._flatten_layers()):
            raise at_random(refusal)
        held = {variable.path: variable for variable in model.trainable_variables}
        kept = {path: array_of(self.keras, variable) for path, variable in held.items()}
        own = getattr(model, "_compile_loss", None), model.compiled
        try:
            for path, variable in held.items():
                variable.assign(at[path])
            if self.objective is not None:
                model._compile_loss, model.compiled = self.objective, True
            return observe(model, x, targets, sample_weight, refusal)
        finally:
            model._compile_loss, model.compiled = own
            for path, variable in held.items():
                variable.assign(kept[path])

    def start(self) -> None:
        self._start = self.values()
        self._function.start()
        for ear in self._ears:
            ear.start()

    def stop(self) -> None:
        for ear in self._ears:
            ear.stop()
        self._function.stop()

    def end_with(self, after: Any) -> None:
        refuse_end(after)

    def finish(self) -> None:
        """Wait until every step has been recorded."""
        for ear in self._ears:
            ear.collect()

    def values(self) -> Arrays:
        """All variables that can be trained, by path.

        A functional loop on JAX keeps their values elsewhere; then they are what the last step returned.
        """
        now = {variable.path: array_of(self.keras, variable) for variable in self.model.trainable_variables}
        if self.keras.backend.backend() == "jax" and self._start:
            still = all(np.array_equal(now[path], self._start[path], equal_nan=True) for path in self._start)
            if still and (events := self.events):
                return events[-1].after
        return now

    def trainable(self) -> frozenset[str]:
        return frozenset(variable.path for variable in self.model.trainable_variables)

    def buffers(self) -> Arrays:
        """What lies in ``.grad`` on PyTorch; the other backends have no such thing."""
        if self.keras.backend.backend() != "torch":
            return {}
        held = {variable.path: variable.value.grad for variable in self.model.trainable_variables}
        return {path: array_of(self.keras, grad) for path, grad in held.items() if grad is not None}

    def _event(self, heard: Heard, here: Arrays) -> Event:
        keras, optimizer = self.keras, self._ears[heard.optimizer].optimizer
        held = [variable.path for variable in optimizer._trainable_variables]
        factor = float(optimizer.loss_scale_factor or 1.0)
        gradient = {
            path: array / np.float32(factor) if factor != 1.0 else array
            for path, array in zip(held, heard.gradients, strict=True)
            if array is not None
        }
        rule, clip, steps, slots = self._rule(optimizer, heard, held)
        return Event(
            optimizer=heard.optimizer,
            name=type(optimizer).__name__,
            before=here | dict(zip(held, heard.before, strict=True)),
            after=here | dict(zip(held, heard.after, strict=True)),
            gradient=gradient,
            held=frozenset(held),
            rule=rule,
            steps=steps,
            slots=slots,
            own=lambda: Own(keras, optimizer, heard, factor),
            clip=clip,
        )

    def _rule(
        self, optimizer: Any, heard: Heard, held: list[str]
    ) -> tuple[Rule | None, Clip | None, int, dict[str, Arrays]]:
        known = {id(v): array for v, array in zip(optimizer.variables, heard.memory, strict=True)}
        read = rule_of(self.keras, optimizer, lambda variable: known[id(variable)])
        steps = int(known[id(optimizer.iterations)])
        slots = {
            name: {path: known[id(variables[i])] * factor for i, path in enumerate(held)}
            for name, (variables, factor) in read.slots.items()
        }
        return read.rule, read.clip, steps, slots


class Own:
    """The loop's own optimizer, stepping from where the recorded step began."""

    def __init__(self, keras: Any, optimizer: Any, heard: Heard, factor: float) -> None:
        self.keras, self.optimizer, self.factor = keras, optimizer, factor
        self.parameters = list(optimizer._trainable_variables)
        self.held = [*self.parameters, *optimizer.variables]
        self.here = [*heard.before, *heard.memory]

    def step(self, gradients: Mapping[str, Array]) -> Arrays:
        keras = self.keras
        kept = [array_of(keras, variable) for variable in self.held]
        pairs = [(gradients[v.path], v) for v in self.parameters if v.path in gradients]
        try:
            for variable, value in zip(self.held, self.here, strict=True):
                variable.assign(value)
            with ungraded(keras):
                scaled = [keras.ops.convert_to_tensor(np.asarray(g * self.factor, dtype=g.dtype)) for g, _ in pairs]
                type(self.optimizer).apply(self.optimizer, scaled, [v for _, v in pairs])
            self.here = [array_of(keras, variable) for variable in self.held]
        finally:
            for variable, value in zip(self.held, kept, strict=True):
                variable.assign(value)
        return dict(zip((v.path for v in self.parameters), self.here, strict=False))


@contextmanager
def ungraded(keras: Any) -> Any:
    """Keras' optimizers write to parameters in place, which PyTorch allows only without gradients."""
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    with torch.no_grad():
        yield


def _objective(model: Any, losses: Mapping[str, Any], loss_weights: Mapping[str, float]) -> Any:
    """What ``compile`` would have made of the losses; the model is not compiled."""
    from keras.src.trainers.compile_utils import CompileLoss

    unknown = [name for name in losses if name not in model.output_names]
    if unknown:
        raise ValueError(
            sentence("losses", got=f"names {listing(unknown)}", expected=f"outputs among {listing(model.output_names)}",
                     remedy="Name the losses as the model's outputs.")
        )  # fmt: skip
    weights = {name: float(loss_weights.get(name, 1.0)) for name in losses}
    return CompileLoss(dict(losses), weights, output_names=model.output_names)
