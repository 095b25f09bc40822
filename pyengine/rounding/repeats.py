"""What a handful of repeated measurements say about a mean, when their variance is known from themselves alone."""

from __future__ import annotations

import math


def student_limit(alpha: float, freedom: int) -> float:
    """The limit of |t| that Student's t with ``freedom`` degrees exceeds with a chance of at most ``alpha``.

    The density is C·(1 + x²/ν)^(-(ν+1)/2), which is below C·(x²/ν)^(-(ν+1)/2); the integral of that from t on, twice,
    is α at t = (2·C·ν^((ν-1)/2)/α)^(1/ν). So the limit is an upper bound of the quantile, and close to it for small α.

    >>> round(student_limit(1e-9, 6), 1)
    63.8
    """
    half = (freedom + 1.0) / 2.0
    log_c = math.lgamma(half) - math.lgamma(freedom / 2.0) - 0.5 * math.log(math.pi * freedom)
    log_t = (math.log(2.0) + log_c + (freedom - 1.0) / 2.0 * math.log(freedom) - math.log(alpha)) / freedom
    return math.exp(log_t)
