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
    def forward(self, params: npt.NDArray[Any], x: npt.NDArray[Any], outputs: Sequence[npt.NDArray[Any]]) -> bool: ...
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

# One look at a product (m, n) that somebody claims: Z = z·up + bias, r = (claimed·down - Z)·unit,
# v = max(on_q·q + bias_v + [bias](z·up)² + on_z·Z², smallest); `z` and `bias` are float64, the others of the claim's
# dtype. Returns the sums of the rows (9, m): Σrz, ΣZ²v, Σr², ΣZ², Σv, and Σr·sign for the rows of `signs` (4, n); the
# first four of them of the columns (4, n); the largest r²/v up to `limit`; whether one was infinite or NaN; whether a v
# was below `smallest` where r is not 0; whether all beyond the limit are listed: their places in the flat product, and
# their r.
def screen(
    claimed: npt.NDArray[Any],
    z: npt.NDArray[np.float64],
    q: npt.NDArray[Any],
    bias: npt.NDArray[np.float64] | None,
    bias_v: npt.NDArray[Any] | None,
    signs: npt.NDArray[Any],
    up: float,
    down: float,
    unit: float,
    on_q: float,
    on_z: float,
    smallest: float,
    limit: float,
) -> tuple[
    npt.NDArray[np.float64],
    npt.NDArray[np.float64],
    float,
    bool,
    bool,
    bool,
    npt.NDArray[np.int64],
    npt.NDArray[Any],
]: ...

screen_terms: int  # how many numbers of the claim's dtype `screen` adds up before it goes on in float64

# (3, n): Σa, Σ|a| and Σa² over the rows of a = scale·x, x (m, n).
def column_sums(x: npt.NDArray[Any], scale: float) -> npt.NDArray[np.float64]: ...
def set_num_threads(n: int) -> None: ...
def num_threads() -> int: ...
def set_isa(name: str) -> None: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def erfc(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]: ...
def build_info() -> dict[str, str | bool]: ...
