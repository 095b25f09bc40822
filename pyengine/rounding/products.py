"""Bounds of the linear operations: matrix products with a bias, and sums.

The operands may be exact numbers (the staged use) or upper bounds of their magnitudes (the running use): only
magnitudes enter. All arrays are float64. Derivations: docs/tolerances.md, section 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .precision import Precision, accumulated

if TYPE_CHECKING:
    from .running import F64


def matmul_bound(a: F64, b: F64, p: Precision, bias: F64 | None = None) -> F64:
    """Bound on |computed - exact| of A·B (+ bias), elementwise: a (m, k), b (k, n), bias (n,); (m, n) out.

    Holds for every order of summation, with or without fused multiply-add, blocked or not: each product meets at most
    k + [bias] roundings (Higham 2002, §3.1; Jeannerod & Rump 2013 for the constant). It does not hold for Strassen-
    like products.
    """
    size_a, size_b = np.abs(a), np.abs(b)
    k = a.shape[1]
    s = size_a @ size_b
    n = k
    if bias is not None:
        s = s + np.abs(bias)
        n += 1
    bound = accumulated(n, p.u) * s + np.where(_touched(a, b, s), _lost_below(size_a, size_b, n, p), 0.0)
    return np.where(s <= p.largest, bound, np.inf)


def sum_bound(magnitude: F64, n: float, p: Precision) -> F64:
    """Bound on |computed - exact| of a sum of n terms whose magnitudes add up to ``magnitude``.

    Two more roundings than the n - 1 additions are granted: compilers fuse the operation that made the terms into the
    sum. Sums underflow without error (Higham 2002, problem 2.19), unless subnormals are flushed.
    """
    lost = np.where(magnitude > 0.0, 2.0 * n * p.smallest_normal, 0.0) if p.flush_to_zero else 0.0
    bound = accumulated(n + 1, p.u) * magnitude + lost
    return np.where(magnitude <= p.largest, bound, np.inf)


def _lost_below(size_a: F64, size_b: F64, n: int, p: Precision) -> F64 | float:
    """What n products and additions can lose to underflow."""
    growth = 1.0 + accumulated(n, p.u)
    if not p.flush_to_zero:
        return n * p.smallest_subnormal / 2.0 * growth
    operands = size_a.sum(axis=1)[:, None] + size_b.sum(axis=0)[None, :]
    return np.asarray(p.smallest_normal * (2.0 * n + 1.0 + operands) * growth)


def _touched(a: F64, b: F64, s: F64) -> F64 | bool:
    """Where some product has two non-zero factors: elsewhere nothing can underflow, and an exact zero stays exact."""
    if np.all(s > 0.0):
        return True
    return np.asarray((a != 0.0).astype(np.float64) @ (b != 0.0).astype(np.float64) > 0.0)
