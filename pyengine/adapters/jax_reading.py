"""JAX: read a model and its losses from their jaxprs into the engine's network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine import Network
from ..errors import Unsupported, listing, sentence
from ..parameters import DTYPES, Array
from ..rounding import precision
from ..rounding.storage import NARROW
from ..spec import Dense, Head
from .jax_losses import Objective, objective
from .jax_network import DenseCall, Reader, Rows, by_layer, chain
from .jax_program import Program, program_of


@dataclass(frozen=True, eq=False)
class Read:
    """A model as its program and as the engine's network. ``weights`` are the user's; the network's contain the factor
    of a loss that is a multiple of a known one."""

    program: Program
    network: Network
    layers: dict[str, DenseCall]
    rows: dict[str, Rows]
    places: dict[str, int]
    objectives: dict[str, Objective]
    weights: dict[str, float]
    leaves: list[Any]
    paths: list[str]
    x: Any
    targets: dict[str, Any]

    def parameter(self, name: str) -> tuple[int, bool]:
        """The leaf of a canonical parameter, and whether it lies there transposed."""
        layer, _, kind = name.rpartition(".")
        call = self.layers[layer]
        if kind == "weight":
            return call.kernel, call.by_in
        assert call.bias is not None
        return call.bias, False

    def canonical(self, name: str, array: Any) -> Array:
        """An array of the leaf's shape in the canonical one."""
        own = np.asarray(array)
        return own.T if self.parameter(name)[1] else own


def read(
    jax: Any,
    apply: Any,
    leaves: list[Any],
    paths: list[str],
    x: Any,
    targets: Mapping[str, Any],
    losses: Mapping[str, Any],
    loss_weights: Mapping[str, float],
) -> Read:
    """The network that ``apply(leaves, x)`` is. Raises ``TypeError`` and ``ValueError`` for what the engine lacks."""
    missing = [name for name in losses if name not in targets]
    if missing:
        raise ValueError(
            sentence("targets", got=f"lacks {listing(missing)}", expected=listing(losses), remedy="Add the targets.")
        )
    batch = jax.numpy.asarray(x)
    closed, shapes = jax.make_jaxpr(apply, return_shape=True)(leaves, batch)
    outputs = _outputs(jax, shapes, list(losses))
    program = program_of(jax, closed)
    dtype = _dtype(leaves, paths)
    p = precision(dtype, flush_to_zero=True)
    reader = Reader(program, dtype, p)
    rows = {name: reader.output(name, program.outputs[place]) for name, (place, _) in outputs.items()}
    held = {name: jax.numpy.asarray(targets[name]) for name in losses}
    objectives = {
        name: objective(jax, name, losses[name], outputs[name][1], held[name], one.layer.n_out, p)
        for name, one in rows.items()
    }
    weights = {name: float(loss_weights.get(name, 1.0)) for name in losses}
    network, layers = _network(rows, objectives, weights, paths)
    places = {name: place for name, (place, _) in outputs.items()}
    return Read(program, network, layers, rows, places, objectives, weights, leaves, paths, batch, held)


def _outputs(jax: Any, shapes: Any, names: list[str]) -> dict[str, tuple[int, Any]]:
    """Per loss: the place of its output among the program's, and the output's shape and dtype."""
    numbered = iter(range(len(jax.tree_util.tree_leaves(shapes))))
    tree = jax.tree_util.tree_map(lambda leaf: (next(numbered), leaf), shapes)
    if isinstance(tree, Mapping):
        missing = [name for name in names if name not in tree]
        if missing:
            raise ValueError(
                sentence("losses", got=f"names {listing(missing)}", expected=f"outputs among {listing(tree)}",
                         remedy="Name the losses as the model's outputs.")
            )  # fmt: skip
        found = {name: tree[name] for name in names}
    else:
        several = isinstance(shapes, (tuple, list))
        listed: Sequence[Any] = list(tree) if several else [tree]
        if len(listed) != len(names):
            raise ValueError(
                sentence("losses", got=f"has {len(names)} entries", expected=f"one per output, {len(listed)}",
                         remedy="Give them in the order of the outputs.")
            )  # fmt: skip
        found = dict(zip(names, listed, strict=True))
    for name, each in found.items():
        if not (isinstance(each, tuple) and len(each) == 2 and hasattr(each[1], "dtype")):
            raise ValueError(
                sentence("model", got=f"has an output {name!r} that is no array", expected="one array per loss",
                         remedy="Return a flat tuple or dict of arrays.")
            )  # fmt: skip
    return found


def _dtype(leaves: list[Any], paths: list[str]) -> Any:
    """The one dtype of the real parameters. Raises ``TypeError`` for others than float32 and float64, or for two."""
    found = {str(leaf.dtype): path for leaf, path in zip(leaves, paths, strict=True) if _is_real(leaf)}
    if len(found) == 1 and next(iter(found)) in {str(dtype) for dtype in DTYPES}:
        return np.dtype(next(iter(found)))
    got = listing(f"{path} of dtype {dtype}" for dtype, path in found.items())
    if len(found) == 1 and next(iter(found)) in NARROW:
        raise Unsupported(
            sentence("params", got=f"has {got}", expected="float32, or float64 under jax_enable_x64",
                     remedy="Between the layers JAX's narrow numbers are not judged.")
        )  # fmt: skip
    raise TypeError(
        sentence("params", got=f"has {got}", expected="parameters of float32, or of float64 under jax_enable_x64",
                 remedy="The checks between the layers know these two.")
    )  # fmt: skip


def _is_real(leaf: Any) -> bool:
    # NumPy calls bfloat16 "V", and the dtypes of random keys are not NumPy's at all.
    return getattr(leaf.dtype, "kind", "") in "fV" and hasattr(leaf.dtype, "itemsize")


def _network(
    rows: Mapping[str, Rows], objectives: Mapping[str, Objective], weights: Mapping[str, float], paths: list[str]
) -> tuple[Network, dict[str, DenseCall]]:
    found = {name: chain(one) for name, one in rows.items()}
    first = next(iter(found.values()))
    depth = 0
    while all(len(layers) > depth + 1 and layers[depth] is first[depth] for layers in found.values()):
        depth += 1
    layers = by_layer(found, depth)
    used: dict[int, str] = {}
    for call in layers.values():
        for leaf in (call.kernel, *([] if call.bias is None else [call.bias])):
            if leaf in used:
                raise Unsupported(
                    sentence("model", got=f"uses {paths[leaf]} at two places", expected="each layer at one",
                             remedy="The engine shares layers in the trunk only.")
                )  # fmt: skip
            used[leaf] = paths[leaf]
    entries = {layers[0].entry for layers in found.values()}
    if len(entries) > 1:
        raise Unsupported(
            sentence("model", got="prepares x separately for its outputs", expected="one array that enters all layers",
                     remedy="Prepare x once, before the first layer.")
        )  # fmt: skip

    def dense(call: DenseCall) -> Dense:
        assert call.activation is not None
        return Dense(call.n_out, call.activation, bias=call.bias is not None)

    heads = {
        name: Head([dense(call) for call in layers_[depth:]], objectives[name].loss,
                   weights[name] * objectives[name].factor)
        for name, layers_ in found.items()
    }  # fmt: skip
    return Network(first[0].n_in, [dense(call) for call in first[:depth]], heads), layers
