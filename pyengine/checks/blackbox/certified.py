"""The gradient program on a framework's own numbers: each was certified, so they stand for the exact ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...parameters import Array, Parameters, wide_of
from ...reference import activation_and_derivative
from .curvature import second_derivative
from .program import Backward, Program, Visit

if TYPE_CHECKING:
    from ...batch import Batch
    from ...engine import Network
    from ...spec import Layer
    from ..staged.gaps import Filled
    from ..staged.witnesses import Witnesses

F64 = npt.NDArray[np.float64]


class CertifiedProgram(Program):
    """A :class:`Program` that computes no product: what lies between the layers, and the gradients, are witnesses.

    ``filled`` are those of the forward pass, ``witnesses`` those of every loss's backward pass; ``per_loss`` maps
    losses to their gradients. The gradient of one loss has that loss's parameters alone.
    """

    def __init__(
        self, net: Network, params: Parameters, batch: Batch, witnesses: Witnesses, filled: Filled,
        per_loss: Mapping[str, Mapping[str, Array]],
    ) -> None:  # fmt: skip
        self.witnesses, self.filled, self.per_loss = witnesses, filled, per_loss
        super().__init__(net, params, batch)

    def _forward(self, layers: Sequence[Layer], h: F64) -> list[Visit]:
        visits = []
        for layer in layers:
            name = layer.name
            w, b = self.params[f"{name}.weight"], self.params.get(f"{name}.bias")
            z = self.filled.z[name].astype(np.float64)
            _, slope = activation_and_derivative(layer.activation, z)
            value = self.filled.h[name].astype(np.float64)
            visits.append(Visit(layer, w, b, h, z, value, slope, second_derivative(layer.activation, z)))
            h = value
        return visits

    def _alone(self, name: str) -> Backward:
        if name not in self._kept:
            one, layout, given = self.witnesses.per_loss[name], self.net.loss_layouts[name], self.per_loss[name]
            back = Backward({name: 1.0}, lambda: wide_of(layout, given))
            for visit in (*self.trunk, *self.heads[name]):
                dh, dz = self.filled.dh(one, visit.layer), self.filled.dz(one, visit.layer)
                assert dh is not None
                assert dz is not None
                back.gh[visit.layer.name], back.gz[visit.layer.name] = dh.astype(np.float64), dz.astype(np.float64)
            self._kept[name] = back
        return self._kept[name]
