"""JAX: differentiate each loss and their sum with a zero added at every layer, and keep the numbers on the way.

The gradient with respect to a zero that is added to z is ∂L/∂z, and JAX forms it as it forms every other gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks.staged.witnesses import Backward, Witnesses
from ..parameters import Array
from .jax_kept import Kept, fingerprint
from .jax_program import Value

if TYPE_CHECKING:
    from .jax_reading import Read

KEPT: Kept[Callable[..., Any]] = Kept(8)
"""The compiled functions of the programs verified last."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """The input of the first layers, the losses without weights and factors, and what happened between the layers."""

    x: Array
    losses: dict[str, float]
    witnesses: Witnesses


@dataclass(frozen=True, eq=False)
class Site:
    """A value of a layer, with the axis along which its samples lie."""

    value: Value
    batch_axis: int

    def rows(self, array: Any) -> Array:
        """An array of the value's shape as (batch, n_out)."""
        own = np.asarray(array)
        own = own[:, None] if own.ndim == 1 else own
        return np.ascontiguousarray(own.T) if self.batch_axis == 1 else own


def record(jax: Any, read: Read) -> Recorded:
    """One compiled program with every gradient: nothing is recomputed, nothing converted."""
    z, h = _sites(read)
    order = list(dict.fromkeys(site.value for site in (*z.values(), *h.values()) if site.value.exposed))
    used = sorted({read.parameter(name)[0] for name in read.network.layout.names})
    entry = next(iter(read.layers.values())).entry
    compiled = KEPT.get(_key(read, [*order, entry], used), lambda: jax.jit(_everything(jax, read, order, entry)))
    zeros = [jax.numpy.zeros(value.shape, value.dtype) for value in order]
    trained = {index: read.leaves[index] for index in used}
    found = compiled(trained, zeros, read.leaves, read.x, read.targets)
    gradients, (values, kept, x) = jax.tree_util.tree_map(np.asarray, found)
    content = dict(zip(order, kept, strict=True))

    def backward(place: int, names: Any) -> Backward:
        by_leaf, by_site = gradients[place]
        slopes = dict(zip(order, by_site, strict=True))
        layers = [name for name in read.layers if f"{name}.weight" in names]

        def at(sites: dict[str, Site]) -> dict[str, Array]:
            return {name: sites[name].rows(slopes[sites[name].value]) for name in layers if name in sites
                    and sites[name].value in slopes}  # fmt: skip

        weights = {name: read.canonical(name, by_leaf[read.parameter(name)[0]]) for name in names}
        # Where one z enters two functions of it, none of them has the whole ∂L/∂h.
        single = {name: site for name, site in h.items() if len(read.layers[name].outs) == 1}
        separate = {name: site for name, site in z.items() if site.value is not h[name].value}
        return Backward(at(single), at(separate), weights)

    return Recorded(
        x=np.asarray(x),
        losses={name: float(value) / read.objectives[name].factor for name, value in values.items()},
        witnesses=Witnesses(
            z={n: s.rows(content[s.value]) for n, s in z.items() if s.value is not h[n].value and s.value in content},
            h={n: s.rows(content[s.value]) for n, s in h.items() if s.value in content},
            per_loss={
                name: backward(place, read.network.loss_layouts[name].names) for place, name in enumerate(read.rows)
            },
            summed=backward(len(read.rows), read.network.layout.names),
        ),
    )


def _everything(jax: Any, read: Read, order: list[Value], entry: Value) -> Callable[..., Any]:
    """A function of arrays alone: the gradients of each loss and of the total, the losses, and the values between.

    It is kept for later calls, so it holds programs, and nothing of the model or its batch.
    """
    program, places, weights, objectives = read.program, read.places, read.weights, read.objectives
    names: list[str | None] = [*read.rows, None]

    def value_of(name: str | None, trained: Any, added: Any, leaves: Any, x: Any, targets: Any) -> Any:
        own = [trained.get(index, leaf) for index, leaf in enumerate(leaves)]
        outputs, kept = program.run([*own, x], dict(zip(order, added, strict=True)), {*order, entry})
        values = {key: one.call(outputs[places[key]], targets[key]) for key, one in objectives.items()}
        total = sum(weights[key] * value for key, value in values.items())
        factor = 1.0 if name is None else objectives[name].factor
        chosen = total if name is None else values[name] if factor == 1.0 else values[name] / factor
        return chosen, (values, [kept[value] for value in order], kept[entry])

    def everything(trained: Any, added: Any, leaves: Any, x: Any, targets: Any) -> Any:
        found, seen = [], None
        for name in names:
            differentiate = jax.grad(
                lambda t, a, name=name: value_of(name, t, a, leaves, x, targets), (0, 1), has_aux=True
            )
            gradient, seen = differentiate(trained, added)
            found.append(gradient)
        return found, seen

    return everything


def _key(read: Read, sites: list[Value], used: list[int]) -> Hashable | None:
    """The same key, the same function ``everything``: programs, what is watched, and every number that it holds."""
    whole = fingerprint(read.program)
    losses = [(name, fingerprint(one.program), one.factor) for name, one in read.objectives.items()]
    if whole is None or any(print_ is None for _, print_, _ in losses):
        return None
    made = [value for operation in read.program.operations for value in operation.outs]
    numbers = {value: i for i, value in enumerate([*read.program.inputs, *made])}
    watched = tuple(numbers.get(value) for value in sites)
    if None in watched:
        return None
    return whole, tuple(losses), watched, tuple(used), tuple(read.places.items()), tuple(read.weights.items())


def _sites(read: Read) -> tuple[dict[str, Site], dict[str, Site]]:
    z = {name: Site(call.z, call.z_batch_axis) for name, call in read.layers.items()}
    h = {name: Site(*next(iter(call.outs.items()))) for name, call in read.layers.items()}
    return z, h
