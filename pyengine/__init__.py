"""pyengine: per-loss and summed gradients of shared-trunk networks, and a judge of what frameworks do with them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import oracle, reference, rounding, testing
    from .activations import ELU, GELU, Activation, GELUTanh, LeakyReLU, Linear, ReLU, Sigmoid, SiLU, Softplus, Tanh
    from .adapters.from_jax import JaxModel
    from .checks.staged.witnesses import Backward, Witnesses
    from .engine import Network
    from .errors import GradientMismatch
    from .gradients import Gradients
    from .losses import (
        MAE,
        MSE,
        BinaryCrossEntropy,
        ClippedBinaryCrossEntropy,
        ClippedCrossEntropy,
        Huber,
        Loss,
        SoftmaxCrossEntropy,
    )
    from .optimizers import SGD, Adam, AdamW, RMSprop
    from .parameters import Parameters
    from .runtime import info, set_num_threads
    from .spec import Dense, Head
    from .verification import Verification
    from .verify_arrays import explain_update, verify_gradients
    from .verify_model import verify
    from .verify_staged import StagedReport, verify_witnesses
    from .watch_loop import watch

__version__ = "0.1.0"  # the build reads this line

# Where each public name lives. A name is imported when it is first used: `import pyengine` is then free, and does not
# even import NumPy.
_HOMES = {
    "": ("oracle", "reference", "rounding", "testing"),
    "activations": (
        *("ELU", "GELU", "Activation", "GELUTanh", "LeakyReLU", "Linear", "ReLU", "SiLU", "Sigmoid", "Softplus"),
        "Tanh",
    ),
    "adapters.from_jax": ("JaxModel",),
    "checks.staged.witnesses": ("Backward", "Witnesses"),
    "engine": ("Network",),
    "errors": ("GradientMismatch",),
    "gradients": ("Gradients",),
    "losses": (
        "MAE",
        "MSE",
        "BinaryCrossEntropy",
        "ClippedBinaryCrossEntropy",
        "ClippedCrossEntropy",
        "Huber",
        "Loss",
        "SoftmaxCrossEntropy",
    ),
    "optimizers": ("SGD", "Adam", "AdamW", "RMSprop"),
    "parameters": ("Parameters",),
    "runtime": ("info", "set_num_threads"),
    "spec": ("Dense", "Head"),
    "verify_staged": ("StagedReport", "verify_witnesses"),
    "verification": ("Verification",),
    "verify_arrays": ("explain_update", "verify_gradients"),
    "verify_model": ("verify",),
    "watch_loop": ("watch",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ELU",
    "GELU",
    "MAE",
    "MSE",
    "SGD",
    "Activation",
    "Adam",
    "AdamW",
    "Backward",
    "BinaryCrossEntropy",
    "ClippedBinaryCrossEntropy",
    "ClippedCrossEntropy",
    "Dense",
    "GELUTanh",
    "GradientMismatch",
    "Gradients",
    "Head",
    "Huber",
    "JaxModel",
    "LeakyReLU",
    "Linear",
    "Loss",
    "Network",
    "Parameters",
    "RMSprop",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "SoftmaxCrossEntropy",
    "Softplus",
    "StagedReport",
    "Tanh",
    "Verification",
    "Witnesses",
    "__version__",
    "explain_update",
    "info",
    "oracle",
    "reference",
    "rounding",
    "set_num_threads",
    "testing",
    "verify",
    "verify_gradients",
    "verify_witnesses",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pyengine' has no attribute {name!r}")
    home = _HOME[name]
    value = getattr(import_module(f".{home}", __name__), name) if home else import_module(f".{name}", __name__)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
