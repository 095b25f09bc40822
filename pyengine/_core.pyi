# The compiled kernel. Callers validate; the kernel trusts its arguments up to memory safety.

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .parameters import Parameters

# (n_in, n_out, activation, slope, bias)
LayerTuple: TypeAlias = tuple[int, int, str, float, bool]
# (layers, loss, reduction, label_smoothing, delta, weight)
HeadTuple: TypeAlias = tuple[Sequence[LayerTuple], str, str, float, float, float]

class Network:
    def __init__(self, n_in: int, trunk: Sequence[LayerTuple], heads: Sequence[HeadTuple]) -> None: ...
    def forward(self, params: npt.NDArray[Any], x: npt.NDArray[Any], outputs: Sequence[npt.NDArray[Any]]) -> None: ...
    def gradients(
        self,
        params: npt.NDArray[Any],
        x: npt.NDArray[Any],
        targets: Sequence[npt.NDArray[Any]],
        weights: Sequence[npt.NDArray[np.float64] | None],
        divisors: Sequence[float],
        per_loss: Sequence[npt.NDArray[Any]] | None,
        summed: npt.NDArray[Any] | None,
        losses: npt.NDArray[np.float64],
        gramian: npt.NDArray[np.float64] | None,
    ) -> None: ...
    def gramian(
        self,
        params: npt.NDArray[Any],
        x: npt.NDArray[Any],
        targets: Sequence[npt.NDArray[Any]],
        weights: Sequence[npt.NDArray[np.float64] | None],
        divisors: Sequence[float],
        out: npt.NDArray[np.float64],
    ) -> None: ...

# A result's arrays, bound to the network that made them: the short way to the kernel. `run` fills them and returns the
# total loss if every argument is exactly what the kernel takes; else it returns None, nothing having been touched.
class Direct:
    def __init__(
        self,
        network: Network,
        dtype: np.dtype[Any],
        per_loss: Sequence[Parameters],
        summed: Parameters | None,
        gramian: npt.NDArray[np.float64] | None,
        losses: dict[str, float],
    ) -> None: ...
    def run(
        self, network: Network, per_loss: bool, summed: bool, params: object, x: object, targets: object
    ) -> float | None: ...

def set_num_threads(n: int) -> None: ...
def num_threads() -> int: ...
def set_isa(name: str) -> None: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def erfc(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]: ...
def build_info() -> dict[str, str | bool]: ...
