"""JAX: record every step of an optax optimizer, from inside the user's own compiled step too.

The user steps with ``seen.optimizer``, an ``optax.GradientTransformation`` whose ``update`` does what the original
does and hands gradient, state, parameters and updates to the recorder: at once where they are arrays, else by an
ordered ``jax.debug.callback`` of the program that is being traced. What was traced stays; afterwards nobody listens.

A functional step adds the updates to the parameters behind the recorder's back. The parameters after a step are
therefore those that the next step begins with, or that ``report(after=...)`` is given, or else what the updates lead
to.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import listing, sentence
from ..observation import Observation
from ..parameters import Array
from ..watching import Arrays, Event, Twin
from .computation import Computation, require_no_weights
from .from_jax import JaxModel, is_module, load, pure
from .jax_losses import engine_target
from .jax_observed import observe
from .jax_reading import read


@dataclass(frozen=True, eq=False)
class Call:
    """One ``update``: its arguments and its result, as pytrees of NumPy arrays."""

    optimizer: int
    gradients: Any
    state: Any
    params: Any
    extra: Any
    updates: Any


class Recorder:
    """``optimizers`` are optax transformations; ``wrapped`` are those to step with."""

    framework = "JAX"
    plus = 0.0

    def __init__(
        self, model: Any, losses: Mapping[str, Any], loss_weights: Mapping[str, float], optimizers: Sequence[Any]
    ) -> None:
        self.jax, self.model, self.losses, self.loss_weights = load(), model, losses, loss_weights
        self.optimizers = list(optimizers)
        self.wrapped = tuple(self._wrap(i, one) for i, one in enumerate(self.optimizers))
        self.calls: list[Call] = []
        self.after: Any = None
        self._open = False
        self._events: list[Event] = []
        self._replays = [self.jax.jit(_replay(one)) for one in self.optimizers]
        self._first = self._named(pure(model).params)

    @property
    def events(self) -> list[Event]:
        self.finish()
        if len(self._events) != len(self.calls):
            self._events = self._chained()
        if self.after is None or not self._events:
            return self._events
        return [*self._events[:-1], replace(self._events[-1], after=self._events[-1].after | self._named(self.after))]

    @property
    def notes(self) -> tuple[str, ...]:
        if self.after is not None or is_module(self.model):
            return ()
        unseen = "The parameters after the last step were not seen: its updates are taken to have been added."
        return (f"{unseen} Pass report(..., after=params) to have that checked too.",)

    def read(self, x: Any, targets: Mapping[str, Any], sample_weight: Any = None) -> tuple[Twin, Computation]:
        """The engine's twin of the model, and the batch as the engine takes it; refuses what :func:`verify` does."""
        require_no_weights(sample_weight)
        jax, given = self.jax, pure(self.model)
        flat, tree = jax.tree_util.tree_flatten_with_path(given.params)
        leaves = [jax.numpy.asarray(leaf) for _, leaf in flat]
        paths = [jax.tree_util.keystr(path) for path, _ in flat]

        def apply(own: list[Any], rows: Any) -> Any:
            return given.apply(jax.tree_util.tree_unflatten(tree, own), rows)

        found = read(jax, apply, leaves, paths, x, targets, self.losses, self.loss_weights)
        entry = next(iter(found.layers.values())).entry
        shaped = np.asarray(found.program.run([*leaves, found.x], {}, {entry})[1][entry])
        network = found.network
        native = {name: paths[found.parameter(name)[0]] for name in network.layout.names}
        done = Computation(
            framework=given.framework,
            network=network,
            params=network.parameters(
                {name: found.canonical(name, leaves[found.parameter(name)[0]]) for name in network.layout.names}
            ),
            x=shaped,
            targets={
                name: engine_target(head.loss, found.targets[name], found.rows[name].layer.n_out, shaped.dtype)
                for name, head in network.heads.items()
            },
            per_loss={},
            summed={},
            losses={},
            native=native,
            versions=given.versions,
        )
        transposed = frozenset(name for name in network.layout.names if found.parameter(name)[1])
        return Twin(network, native, transposed), done

    def observe(self, at: Arrays, x: Any, targets: Any, sample_weight: Any, refusal: str) -> Observation:
        """The model at other parameters, by JAX alone."""
        require_no_weights(sample_weight)
        given = pure(self.model)
        model = JaxModel(given.apply, self.placed(given.params, at))
        return observe(model, x, targets, self.losses, self.loss_weights, refusal)

    def start(self) -> None:
        self._first = self._named(pure(self.model).params)
        self._open = True

    def stop(self) -> None:
        self.finish()
        self._open = False

    def finish(self) -> None:
        """Wait for the compiled steps that are still running."""
        self.jax.effects_barrier()

    def end_with(self, after: Any) -> None:
        """Hear what became of the parameters after the last step."""
        self.after = after

    def values(self) -> Arrays:
        """The parameters of a module now; those of a function are nowhere to be looked up."""
        return self._named(pure(self.model).params) if _mutable(self.model) else {}

    def trainable(self) -> frozenset[str]:
        return frozenset(self._first)

    def buffers(self) -> Arrays:
        """JAX keeps no gradients between steps."""
        return {}

    def _wrap(self, index: int, optimizer: Any) -> Any:
        import optax

        own = optax.with_extra_args_support(optimizer)

        def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> Any:
            updates, after = own.update(gradients, state, params, **extra)
            if self._open:
                self._hear(index, gradients, state, params, extra, updates)
            return updates, after

        return optax.GradientTransformationExtraArgs(own.init, update)

    def _hear(self, index: int, *parts: Any) -> None:
        jax = self.jax
        leaves, tree = jax.tree_util.tree_flatten(parts)

        def keep(*arrays: Any) -> None:
            if self._open:
                self.calls.append(Call(index, *jax.tree_util.tree_unflatten(tree, [np.array(a) for a in arrays])))

        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            jax.debug.callback(keep, *leaves, ordered=True)
        else:
            keep(*leaves)

    def _names(self, given: Any) -> list[str]:
        """The name of every leaf, as the model's own pytree writes its paths; any part of that pytree will do."""
        jax, flatten = self.jax, self.jax.tree_util.tree_flatten_with_path
        own = {_tokens(jax, path): jax.tree_util.keystr(path) for path, _ in flatten(pure(self.model).params)[0]}
        found, strange = [], []
        for path, _ in flatten(given)[0]:
            tokens = _tokens(jax, path)
            matches = [name for whole, name in own.items() if whole[len(whole) - len(tokens) :] == tokens]
            found += matches
            if len(matches) != 1:
                strange.append(jax.tree_util.keystr(path))
        if strange:
            raise ValueError(
                sentence("optimizer", got=f"was given the paths {listing(strange[:3])}",
                         expected=f"paths of the model, {listing(list(own.values())[:3])}",
                         remedy="Give it gradients in the model's own pytree.")
            )  # fmt: skip
        return found

    def _named(self, given: Any) -> Arrays:
        """Real leaves by name."""
        leaves = map(np.asarray, self.jax.tree_util.tree_leaves(given))
        named = zip(self._names(given), leaves, strict=True)
        return {name: leaf for name, leaf in named if leaf.dtype.kind in "fV"}

    def _chained(self) -> list[Event]:
        """The events; each begins where it says, or where the one before led."""
        here, found = dict(self._first), []
        for call in self.calls:
            params = here if call.params is None else here | self._named(call.params)
            updates = self._named(call.updates)
            after = params | {name: (params[name] + u).astype(params[name].dtype) for name, u in updates.items()}
            found.append(self._event(call, params, after))
            here = after
        for i, event in enumerate(found[:-1]):
            found[i] = replace(event, after=found[i + 1].before)
        if found and _mutable(self.model) and not self._open:
            found[-1] = replace(found[-1], after=found[-1].after | self.values())
        return found

    def _event(self, call: Call, before: Arrays, after: Arrays) -> Event:
        gradient = self._named(call.gradients)
        return Event(
            optimizer=call.optimizer,
            name="optax",
            before=before,
            after=after,
            gradient=gradient,
            held=frozenset(gradient),
            own=lambda: Own(self, call, before),
        )

    def placed(self, like: Any, arrays: Mapping[str, Array]) -> Any:
        """A pytree like the given one, with these arrays in it."""
        jax = self.jax
        flat, tree = jax.tree_util.tree_flatten(like)
        placed = [arrays.get(name, leaf) for name, leaf in zip(self._names(like), flat, strict=True)]
        return jax.tree_util.tree_unflatten(tree, placed)


class Own:
    """The user's transformation, stepping from the state that it had."""

    def __init__(self, recorder: Recorder, call: Call, before: Arrays) -> None:
        self.recorder, self.call, self.here, self.state = recorder, call, dict(before), call.state

    def step(self, gradients: Mapping[str, Array]) -> Arrays:
        recorder, call = self.recorder, self.call
        given = recorder.placed(call.gradients, gradients)
        params = None if call.params is None else recorder.placed(call.params, self.here)
        updates, self.state = recorder._replays[call.optimizer](given, self.state, params, call.extra)
        for name, update in recorder._named(updates).items():
            self.here[name] = (self.here[name] + update).astype(self.here[name].dtype)
        return {name: self.here[name] for name in recorder._named(call.updates)}


def _replay(optimizer: Any) -> Any:
    import optax

    own = optax.with_extra_args_support(optimizer)
    return lambda gradients, state, params, extra: own.update(gradients, state, params, **extra)


def _tokens(jax: Any, path: Any) -> tuple[str, ...]:
    """A path without what only one of several libraries writes: Flax' variables hold their array in ``value``."""
    found = re.findall(r"\w+", jax.tree_util.keystr(path))
    return tuple(token for token in found if token != "value")


def _mutable(model: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(getattr(model, "apply", model), nnx.Module)
