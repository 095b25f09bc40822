"""Keras: hear what ``optimizer.apply`` is given and what it makes of it, also where the call is compiled.

The call is heard on the innermost optimizer, so behind loss scaling. How its numbers come out depends on who runs it:

* eagerly, on every backend, they are read at once;
* while TensorFlow traces a graph, writes to variables become part of that graph, and every run of it leaves its numbers
  there; a callback into Python would not run under XLA;
* while JAX traces, an ordered ``jax.debug.callback`` becomes part of the program.

What is traced while listening goes on writing or calling afterwards; nobody reads it then. Keras' own train function is
therefore made anew for the time of listening, and the one from before is put back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import sentence
from ..parameters import Array
from .keras_backend import array_of
from .keras_rule import innermost

KEPT = 4
"""How many steps a compiled call of TensorFlow may take without losing one: so many are kept in its variables."""


@dataclass(frozen=True, eq=False)
class Heard:
    """One call: ``before`` and ``after`` are the values of all variables that the optimizer holds, ``memory`` those of
    its own variables before the call, ``gradients`` what it was given (None: nothing)."""

    optimizer: int
    stamp: int
    gradients: list[Array | None]
    before: list[Array]
    memory: list[Array]
    after: list[Array]


class Ear:
    """Listens to one optimizer between ``start`` and ``stop``; ``heard`` grows with ``collect``."""

    def __init__(self, keras: Any, index: int, optimizer: Any, clock: Clock) -> None:
        self.keras, self.index, self.optimizer, self.clock = keras, index, innermost(optimizer), clock
        self.backend = keras.backend.backend()
        self.heard: list[Heard] = []
        self.open = False
        self._ring: _Ring | None = None
        self._own: Any = None
        self._before: Any = None

    def start(self) -> None:
        self.open = True
        if self.backend == "tensorflow" and self.optimizer.built:
            # A function that was traced before may make no variables when it is traced again.
            self._ring = self._rings()
        # Straight into the instance's dict: Keras and PyTorch would track the assignment.
        held = vars(self.optimizer)
        self._before, self._own = held.get("apply"), self.optimizer.apply
        held["apply"] = self._apply

    def stop(self) -> None:
        restore(self.optimizer, "apply", self._before)
        self.collect()
        self.open = False

    def collect(self) -> None:
        """Wait for what runs, and read what compiled calls have left."""
        if self.backend == "jax":
            import jax

            jax.effects_barrier()
        if self._ring is not None and self.open:
            self.heard += [self._heard(stamp, arrays) for stamp, arrays in self._ring.collect(self.keras)]

    def require_all(self) -> None:
        """Raise ``ValueError`` if a compiled call took more steps than could be kept."""
        if self._ring is not None and self._ring.missed:
            raise ValueError(
                sentence("optimizer", got=f"took {self._ring.missed + KEPT} steps in compiled calls",
                         expected=f"at most {KEPT}", remedy="Watch fewer steps at a time.")
            )  # fmt: skip

    def _apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        optimizer, keras = self.optimizer, self.keras
        given = list(grads)
        variables = None if trainable_variables is None else list(trainable_variables)
        if not given or not self.open:
            return self._own(given, variables)
        if variables is not None and not optimizer.built:
            with keras.name_scope(optimizer.name, caller=optimizer):
                optimizer.build(variables)
        held = list(optimizer._trainable_variables)
        by_id = dict(zip(map(id, held if variables is None else variables), given, strict=True))
        gradients = [by_id.get(id(variable)) for variable in held]
        present = np.array([gradient is not None for gradient in gradients])
        # What is absent has the variable's shape, so that every call has the same shapes.
        filled = [variable if g is None else g for g, variable in zip(gradients, held, strict=True)]
        begin = self._read([*filled, *held, *optimizer.variables])
        done = self._own(given, variables)
        self._keep([present, *begin, *self._read(held)])
        return done

    def _read(self, things: Sequence[Any]) -> list[Any]:
        """The values now: arrays where they are there, else the tensors of the graph that is being traced."""
        raw = [thing.value if isinstance(thing, self.keras.Variable) else thing for thing in things]
        if self._traced(raw):
            return [_dense(one) for one in raw] if self.backend == "tensorflow" else raw
        return [array_of(self.keras, thing) for thing in raw]

    def _traced(self, raw: Sequence[Any]) -> bool:
        if self.backend == "tensorflow":
            import tensorflow as tf

            return bool(tf.inside_function())
        if self.backend == "jax":
            import jax

            return any(isinstance(one, jax.core.Tracer) for one in raw)
        return False

    def _keep(self, everything: list[Any]) -> None:
        def keep(*arrays: Any) -> None:
            if self.open:
                self.heard.append(self._heard(next(self.clock.numbers), arrays))

        if not self._traced(everything):
            keep(*everything)
        elif self.backend == "jax":
            import jax

            jax.debug.callback(keep, *everything, ordered=True)
        else:
            if self._ring is None:
                self._ring = self._rings()
            self._ring.keep(everything)

    def _rings(self) -> _Ring:
        held = [variable.value for variable in self.optimizer._trainable_variables]
        own = [variable.value for variable in self.optimizer.variables]
        return _Ring(self.clock, len(held), [*held, *held, *own, *held])

    def _heard(self, stamp: int, arrays: Sequence[Any]) -> Heard:
        present, *values = (np.array(array) for array in arrays)
        n = len(present)
        gradients = [array if there else None for array, there in zip(values[:n], present, strict=True)]
        return Heard(self.index, stamp, gradients, values[n : 2 * n], values[2 * n : -n], values[-n:])


class Clock:
    """Numbers for the calls of all optimizers, so that they can be put in order; in a variable for TensorFlow."""

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.graph: Any = None


class _Ring:
    """Variables of TensorFlow in which the last ``KEPT`` calls of an optimizer leave their numbers."""

    def __init__(self, clock: Clock, count: int, like: Sequence[Any]) -> None:
        import tensorflow as tf

        self.read = self.missed = 0
        with tf.init_scope():
            if clock.graph is None:
                clock.graph = tf.Variable(np.int64(0), trainable=False)
            self.clock = clock.graph
            self.runs = tf.Variable(np.int64(0), trainable=False)
            self.stamps = tf.Variable(np.zeros(KEPT, np.int64), trainable=False)
            shapes = [((count,), tf.bool), *((one.shape, one.dtype) for one in like)]
            self.rings = [tf.Variable(tf.zeros((KEPT, *shape), dtype), trainable=False) for shape, dtype in shapes]

    def keep(self, tensors: Sequence[Any]) -> None:
        import tensorflow as tf

        at = tf.reshape(self.runs % KEPT, [1])
        for ring, tensor in zip(self.rings, tensors, strict=True):
            ring.scatter_update(tf.IndexedSlices(tf.cast(tensor, ring.dtype)[None], at))
        self.stamps.scatter_update(tf.IndexedSlices(tf.reshape(self.clock, [1]), at))
        self.clock.assign_add(1)
        self.runs.assign_add(1)

    def collect(self, keras: Any) -> Iterator[tuple[int, list[Array]]]:
        runs = int(array_of(keras, self.runs))
        begin, self.read = self.read, runs
        self.missed += max(0, runs - begin - KEPT)
        if runs > begin:
            kept, stamps = [array_of(keras, ring) for ring in self.rings], array_of(keras, self.stamps)
            for run in range(max(begin, runs - KEPT), runs):
                yield int(stamps[run % KEPT]), [array[run % KEPT] for array in kept]


def _dense(one: Any) -> Any:
    import tensorflow as tf

    # A tensor of its own: a variable would be read later, after the step.
    return tf.identity(tf.convert_to_tensor(one))


class TrainFunction:
    """Keras' own compiled step, made anew while somebody listens; ``after`` runs when a call of it is over."""

    def __init__(self, model: Any, after: Callable[[], None]) -> None:
        self.model, self.after = model, after
        self._before: Any = None
        self._step: Any = None
        self._compiled: Any = None

    def start(self) -> None:
        model, make = self.model, type(self.model).make_train_function
        self._before, model.train_function = model.train_function, None
        self._compiled = getattr(model, "_compile_loss", None)

        own_step = model.train_step

        def fresh() -> Any:
            def train_step(*given: Any) -> Any:
                return own_step(*given)

            return train_step

        def made(force: bool = False) -> Any:
            if model.train_function is None or force:
                # JAX would find the same function among what it has traced before, with what was compiled then.
                vars(model)["train_step"] = fresh()
                make(model, force)
                own = model.train_function

                def listened(*given: Any, **named: Any) -> Any:
                    done = own(*given, **named)
                    self.after()
                    return done

                model.train_function = listened
            return model.train_function

        vars(model)["make_train_function"] = made
        self._step = vars(model).get("train_step")
        vars(model)["train_step"] = fresh()

    def stop(self) -> None:
        restore(self.model, "make_train_function", None)
        restore(self.model, "train_step", self._step)
        # Where the model was compiled anew in the meantime, its old step is of no use.
        same = getattr(self.model, "_compile_loss", None) is self._compiled
        self.model.train_function = self._before if same else None


def restore(owner: Any, name: str, before: Any) -> None:
    """Take an attribute out of the instance's dict again, or put the one there that was there before."""
    if before is None:
        vars(owner).pop(name, None)
    else:
        vars(owner)[name] = before
