"""Keras itself: imported quietly and only when asked, its arrays and versions."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from typing import Any

import numpy as np

from ..parameters import Array

BACKENDS = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}


def load() -> Any:
    """Import Keras quietly, on the backend that the user chose, or on the first that is installed.

    Raises ``ModuleNotFoundError`` without Keras or without any backend.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # start-up messages only; numerics stay as they are
    if (
        "keras" not in sys.modules
        and "KERAS_BACKEND" not in os.environ
        and importlib.util.find_spec("tensorflow") is None
    ):
        for backend in ("jax", "torch"):
            if importlib.util.find_spec(backend) is not None:
                os.environ["KERAS_BACKEND"] = backend
                break
        else:
            raise ModuleNotFoundError("no Keras backend is installed (TensorFlow, JAX or PyTorch)")
    import keras

    return keras


def array_of(keras: Any, tensor: Any) -> Array:
    """A copy of a variable or a tensor."""
    with warnings.catch_warnings():
        # TensorFlow's variables answer NumPy 2 in NumPy 1's way, and NumPy says so.
        warnings.simplefilter("ignore", DeprecationWarning)
        return np.array(keras.ops.convert_to_numpy(tensor))


def versions(keras: Any) -> dict[str, str]:
    """Keras and its backend, with their versions."""
    backend = keras.backend.backend()
    module = sys.modules.get(BACKENDS.get(backend, backend))
    return {"keras": str(keras.__version__), "backend": f"{backend} {getattr(module, '__version__', '')}".strip()}
