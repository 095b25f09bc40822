"""What every test shares: the installed package, quiet frameworks on few threads, seeded inputs, one small case."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

# Set before any framework is imported; the tests run in parallel processes, so each framework gets few threads.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("MPLBACKEND", "Agg")
# Interpreters that tests start must find the installed package too, and not the source tree they start in.
os.environ["PYTHONSAFEPATH"] = "1"

import hypothesis
import numpy as np
import pytest

import pyengine as pe

hypothesis.settings.register_profile("reproducible", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("reproducible")


@dataclass(frozen=True)
class Case:
    """A network with everything that a gradient needs."""

    net: pe.Network
    params: pe.Parameters
    x: np.ndarray[Any, Any]
    targets: dict[str, np.ndarray[Any, Any]]

    def gradients(self, **changes: Any) -> pe.Gradients:
        """The gradients of this case, with some arguments replaced."""
        return self.net.gradients(**{"params": self.params, "x": self.x, "targets": self.targets, **changes})


def small_case(dtype: str, batch: int = 6) -> Case:
    """Two trunk layers, a classification head and a regression head; n_in is 5."""
    net = pe.Network(
        n_in=5,
        trunk=[pe.Dense(7, "relu"), pe.Dense(4, "tanh")],
        heads={
            "digit": pe.Head([pe.Dense(3)], loss="softmax_cross_entropy"),
            "ink": pe.Head([pe.Dense(6, "relu"), pe.Dense(2)], loss="mse", weight=0.5),
        },
    )
    rng = np.random.default_rng(7)
    targets = {"digit": rng.integers(0, 3, batch), "ink": rng.standard_normal((batch, 2)).astype(dtype)}
    assert np.unique(targets["digit"]).size > 1, "the classes must vary"
    return Case(net, net.init(seed=0, dtype=dtype), rng.standard_normal((batch, 5)).astype(dtype), targets)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    """Both dtypes of the engine."""
    return str(request.param)


@pytest.fixture
def small(dtype: str) -> Case:
    """The small case in both dtypes."""
    return small_case(dtype)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(20261122)
