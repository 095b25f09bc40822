from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Vector: TypeAlias = npt.NDArray[np.float64]

def step(
    name: Literal["adam", "rmsprop", "sgd"], given: list[Vector], found: list[Vector], *options: float
) -> None: ...
