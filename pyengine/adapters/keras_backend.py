"""Keras itself: imported quietly and only when asked, its arrays and versions."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from typing import Any

import numpy as np

from ..errors import sentence
from ..parameters import Array

OLDEST = 3
BACKENDS = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}


def load() -> Any:
    """Import Keras quietly, on the backend that the user chose, or on the first that is installed.

    Raises ``ModuleNotFoundError`` without Keras or without any backend, ``ImportError`` where it is broken or too old.
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
    try:
        import keras
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            sentence("model", got=f"needs {error.name}, which is not installed", expected="keras>=3 and a backend",
                     remedy="pip install 'pyengine-grad[keras]'."), name=error.name
        ) from error  # fmt: skip
    except Exception as error:
        raise ImportError(
            sentence("model", got=f"needs Keras, whose import fails ({error})", expected="keras>=3 that works",
                     remedy="Does `python -c 'import keras'` work?")
        ) from error  # fmt: skip
    if int(str(keras.__version__).partition(".")[0]) < OLDEST:
        raise ImportError(
            sentence("model", got=f"comes with Keras {keras.__version__}", expected="keras>=3",
                     remedy="pip install --upgrade keras.")
        )  # fmt: skip
    return keras


def require_undistributed(model: Any) -> None:
    """Raise ``ValueError`` for a model whose variables lie on replicas: no single run shows their gradients' sum."""
    strategy = getattr(model, "distribute_strategy", None)
    extended = getattr(strategy, "extended", None)
    # Without a strategy TensorFlow answers with its default, which distributes nothing.
    if extended is None or type(strategy).__name__ == "_DefaultDistributionStrategy":
        return
    raise ValueError(
        sentence("model", got=f"is distributed by {type(strategy).__name__}", expected="a model on one device",
                 remedy="Build it outside strategy.scope(), and give it the weights by set_weights.")
    )  # fmt: skip


def array_of(keras: Any, tensor: Any) -> Array:
    """A copy of a variable or a tensor."""
    with warnings.catch_warnings():
        # TensorFlow's variables answer NumPy 2 in NumPy 1's way, and NumPy says so.
        warnings.simplefilter("ignore", DeprecationWarning)
        return np.array(keras.ops.convert_to_numpy(tensor))


def snapshot(keras: Any, variable: Any) -> Any:
    """The value of a variable now, as the backend has it: what is assigned to the variable later does not change it."""
    value = variable.value
    if keras.backend.backend() == "tensorflow":
        return value.read_value()
    return value.detach().clone() if keras.backend.backend() == "torch" else value


def view_of(keras: Any, tensor: Any) -> Array:
    """A backend's tensor, no variable, as an array to be read: on the CPU its own memory."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return np.asarray(memoryview(tensor)) if str(tensor.dtype.name) != "bfloat16" else array_of(keras, tensor)
    # Keras itself copies what lies in JAX' memory.
    return np.asarray(tensor if backend == "jax" else keras.ops.convert_to_numpy(tensor))


def versions(keras: Any) -> dict[str, str]:
    """Keras and its backend, with their versions."""
    backend = keras.backend.backend()
    module = sys.modules.get(BACKENDS.get(backend, backend))
    return {"keras": str(keras.__version__), "backend": f"{backend} {getattr(module, '__version__', '')}".strip()}
