"""Keras: a model as the engine sees it, with a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..engine import Network
from ..parameters import Array, Parameters
from ..rounding.storage import NARROW
from .keras_graph import Graph, Place
from .keras_losses import Term


@dataclass(frozen=True, eq=False)
class Subject:
    """A Keras model as the engine sees it, and a batch as Keras is given it.

    ``places`` maps canonical layer names to the model's layers, ``variables`` canonical parameter names to its
    variables. ``x`` is what the model takes.
    """

    model: Any
    graph: Graph
    terms: dict[str, Term]
    network: Network
    places: dict[str, Place]
    variables: dict[str, Any]
    x: Array
    params: Parameters
    compute_dtype: str = "float32"

    @property
    def narrow(self) -> bool:
        return self.compute_dtype in NARROW

    @property
    def native(self) -> dict[str, str]:
        return {name: str(variable.path) for name, variable in self.variables.items()}

    @property
    def dtype(self) -> str:
        return str(self.params.dtype)

    @property
    def trunk(self) -> dict[str, Place]:
        return {name: place for name, place in self.places.items() if name.startswith("trunk.")}

    @property
    def heads(self) -> dict[str, dict[str, Place]]:
        return {
            head: {layer.name: self.places[layer.name] for layer in layers}
            for head, layers in self.network.head_layers.items()
        }

    @property
    def logits(self) -> set[str]:
        """The last layers whose softmax or sigmoid belongs to the loss."""
        last = {head: layers[-1].name for head, layers in self.network.head_layers.items()}
        return {
            name
            for head, name in last.items()
            if self.places[name].softmax or self.places[name].dense.activation != self.terms[head].last.activation
        }
