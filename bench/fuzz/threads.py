"""How many threads the frameworks compute on: said in the environment, before any of them is imported."""

from __future__ import annotations

import os
import sys
from itertools import pairwise

OPTION = "--threads"
VARIABLES = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC"),
)
"""PyTorch and NumPy's BLAS; TensorFlow; XLA, of whose pool JAX takes its threads."""


def limit(arguments: list[str]) -> None:
    """Set every variable to the number that follows ``--threads``; without it to 1."""
    given = dict(pairwise([*arguments, "1"]))
    given |= {name: value for name, _, value in (argument.partition("=") for argument in arguments) if value}
    number = given.get(OPTION, "1")
    os.environ.update(dict.fromkeys(VARIABLES, number))


def running(framework: str) -> int:
    """The number that a framework computes on: PyTorch is asked, of the others the environment is what counts."""
    if framework == "torch" and "torch" in sys.modules:
        return int(sys.modules["torch"].get_num_threads())
    return int(os.environ.get("TF_NUM_INTRAOP_THREADS" if framework == "tensorflow" else "OMP_NUM_THREADS", "0"))
