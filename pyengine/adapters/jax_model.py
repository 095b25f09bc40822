"""JAX: a model's gradients by JAX's own differentiation, with every number between the layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..parameters import Array
from .computation import Computation
from .from_jax import load, pure
from .jax_losses import engine_target
from .jax_reading import read
from .jax_witnesses import Recorded, record


def compute(
    model: Any, x: Any, targets: Mapping[str, Any], losses: Mapping[str, Any], loss_weights: Mapping[str, float]
) -> Computation:
    """Gradients of every loss and of their weighted sum, with witnesses. See :func:`pyengine.verify`."""
    jax = load()
    given = pure(model)
    flat, tree = jax.tree_util.tree_flatten_with_path(given.params)
    paths = [jax.tree_util.keystr(path) for path, _ in flat]
    leaves = [jax.numpy.asarray(leaf) for _, leaf in flat]

    def apply(own: list[Any], rows: Any) -> Any:
        return given.apply(jax.tree_util.tree_unflatten(tree, own), rows)

    found = read(jax, apply, leaves, paths, x, targets, losses, loss_weights)
    seen = record(jax, found)
    network = found.network
    return Computation(
        framework=given.framework,
        network=network,
        params=network.parameters(
            {name: found.canonical(name, found.leaves[found.parameter(name)[0]]) for name in network.layout.names}
        ),
        x=seen.x,
        targets={
            name: engine_target(head.loss, found.targets[name], found.rows[name].layer.n_out, seen.x.dtype)
            for name, head in network.heads.items()
        },
        per_loss={name: dict(one.gradient) for name, one in seen.witnesses.per_loss.items()},
        summed=_gradient(seen),
        losses=seen.losses,
        native={name: found.paths[found.parameter(name)[0]] for name in network.layout.names},
        witnesses=seen.witnesses,
        # XLA lets subnormal numbers vanish on the CPU.
        flush_to_zero=True,
        versions=given.versions,
    )


def _gradient(seen: Recorded) -> dict[str, Array]:
    assert seen.witnesses.summed is not None
    return dict(seen.witnesses.summed.gradient)
