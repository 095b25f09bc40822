"""How far rounding may carry a correct implementation from the truth: bounds per operation and for whole networks.

``docs/tolerances.md`` derives every formula and tells theorem from measurement.
"""

from .activations import Behaviour, activation_bound, behaviour, slope_bound
from .bounds import GradientBounds, gradient_bounds
from .compare import Excess, exceeds, worst, worst_ratio
from .precision import EVALUATION, Precision, accumulated, precision, smallest_normal, unit_roundoff
from .products import matmul_bound, sum_bound
from .running import Kinks, Running, ambiguous, exact

__all__ = [
    "EVALUATION",
    "Behaviour",
    "Excess",
    "GradientBounds",
    "Kinks",
    "Precision",
    "Running",
    "accumulated",
    "activation_bound",
    "ambiguous",
    "behaviour",
    "exact",
    "exceeds",
    "gradient_bounds",
    "matmul_bound",
    "precision",
    "slope_bound",
    "smallest_normal",
    "sum_bound",
    "unit_roundoff",
    "worst",
    "worst_ratio",
]
