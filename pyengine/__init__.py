"""pyengine: per-loss and summed gradients of shared-trunk networks, and a judge of what frameworks do with them."""

from __future__ import annotations

from . import oracle, reference, rounding
from .activations import ELU, GELU, Activation, GELUTanh, LeakyReLU, Linear, ReLU, Sigmoid, SiLU, Softplus, Tanh
from .engine import Network
from .errors import GradientMismatch
from .gradients import Gradients
from .losses import MAE, MSE, BinaryCrossEntropy, ClippedCrossEntropy, Huber, Loss, SoftmaxCrossEntropy
from .optimizers import SGD, Adam
from .parameters import Parameters
from .runtime import info, set_num_threads, version
from .spec import Dense, Head

__version__ = version()

__all__ = [
    "ELU",
    "GELU",
    "MAE",
    "MSE",
    "SGD",
    "Activation",
    "Adam",
    "BinaryCrossEntropy",
    "ClippedCrossEntropy",
    "Dense",
    "GELUTanh",
    "GradientMismatch",
    "Gradients",
    "Head",
    "Huber",
    "LeakyReLU",
    "Linear",
    "Loss",
    "Network",
    "Parameters",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "SoftmaxCrossEntropy",
    "Softplus",
    "Tanh",
    "__version__",
    "info",
    "oracle",
    "reference",
    "rounding",
    "set_num_threads",
]
