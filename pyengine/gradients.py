"""The result of a gradient computation: losses, per-loss gradients, the summed gradient, and the trunk's Gramian."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import NotComputed
from .parameters import Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._core import Direct


class Gradients:
    """What ``gradients(...)`` returns, whichever route computed it.

    ``losses`` maps each head to its unweighted loss; ``total_loss`` is Σ weight·loss.
    """

    __slots__ = ("_direct", "_gramian", "_per_loss", "_summed", "losses", "total_loss")

    def __init__(
        self,
        losses: dict[str, float],
        total_loss: float,
        per_loss: dict[str, Parameters] | None,
        summed: Parameters | None,
        gramian: npt.NDArray[np.float64] | None,
        direct: Direct | None = None,
    ) -> None:
        self.losses = losses
        self.total_loss = total_loss
        self._per_loss = per_loss
        self._summed = summed
        self._gramian = gramian
        self._direct = direct

    @property
    def per_loss(self) -> Mapping[str, Parameters]:
        """Per head, the gradient of its unweighted loss with respect to the trunk and to that head."""
        if self._per_loss is None:
            raise NotComputed("`per_loss` was not computed; ask for it with gradients(..., per_loss=True).")
        return self._per_loss

    @property
    def summed(self) -> Parameters:
        """The gradient of Σ weight·loss with respect to every parameter."""
        if self._summed is None:
            raise NotComputed("`summed` was not computed; ask for it with gradients(..., summed=True).")
        return self._summed

    @property
    def gramian(self) -> npt.NDArray[np.float64]:
        """(K, K): inner products of the per-loss gradients over the trunk, in the order of the heads.

        Zeros without trunk layers.
        """
        if self._gramian is None:
            raise NotComputed(
                "`gramian` needs the per-loss gradients; ask for them with gradients(..., per_loss=True)."
            )
        return self._gramian

    @property
    def cosine(self) -> npt.NDArray[np.float64]:
        """(K, K): the Gramian scaled to a unit diagonal.

        NaN in the row and column of a loss without gradient in the trunk.
        """
        norms = np.sqrt(np.diagonal(self.gramian))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.gramian / norms[:, None] / norms[None, :])

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the short way to the kernel, which is bound to the memory of this very result.
        return (Gradients, (self.losses, self.total_loss, self._per_loss, self._summed, self._gramian))

    def __repr__(self) -> str:
        terms = ", ".join(f"{name}={value:.6g}" for name, value in self.losses.items())
        return f"Gradients(total_loss={self.total_loss:.6g}, {terms})"
