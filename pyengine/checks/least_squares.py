"""Least squares over many numbers that lie in parts: what few rows explain of a vector, in every part and in all.

The rows of a part are brought into the form Rᵀ·Q with orthonormal rows Q; of all parts together R and Q are those of
the parts' small R, one below the other (TSQR: Demmel, Grigori, Hoemmen & Langou, SIAM J. Sci. Comput. 34, 2012). So
the numbers are read for the parts alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..parameters import Array
from .evidence import BLOCK

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Explained:
    """K rows (K, n), each divided by its norm, as rᵀ·Q, and a vector (n,) as alongᵀ·Q and what no row explains.

    ``norms`` (K,) are those of the rows, 1 for zeros; ``rest`` is the norm of what is left; ``shares`` has Q·Qᵀ over
    each of the parts, (K, K).
    """

    norms: Vector
    r: Vector
    along: Vector
    rest: float
    shares: tuple[Vector, ...]

    def coefficients(self, spreads: Sequence[float], uncertain: Sequence[float]) -> list[tuple[float, float]]:
        """The coefficient of every row and how far it may move; infinite for a row without a direction of its own.

        ``spreads`` has the norm of each row's uncertainty, ``uncertain`` that of the vector's, by parts.
        """
        inverse = np.linalg.pinv(self.r)
        farthest = np.zeros(len(self.norms))
        for share, allowed in zip(self.shares, uncertain, strict=True):
            squares = np.einsum("ki,ij,kj->k", inverse, share, inverse)
            farthest += np.sqrt(np.maximum(squares, 0.0)) * allowed
        found = []
        for k, norm in enumerate(self.norms):
            others = np.delete(self.r, k, axis=1)
            imitated = others @ np.linalg.lstsq(others, self.r[:, k], rcond=None)[0]
            known = norm * float(np.linalg.norm(self.r[:, k] - imitated)) > spreads[k]
            radius = float(farthest[k] / norm) if known else math.inf
            found.append((float(inverse[k] @ self.along / norm), radius))
        return found

    def left(self, coefficients: Sequence[float]) -> float:
        """‖vector - Σ coefficient·row‖."""
        return math.hypot(self.rest, *(self.along - self.r @ (self.norms * coefficients)))


def explained(rows: Sequence[Array], vector: Vector, room: Vector) -> Explained:
    """By rows over one part. ``room`` (K, n) is overwritten."""
    norms = _or_one(np.array([np.linalg.norm(row) for row in rows]))
    for own, row, norm in zip(room, rows, norms, strict=True):
        np.divide(row, norm, out=own)
    q, r = orthonormal(room)
    along = q @ vector
    square = 0.0
    for start in range(0, vector.size, BLOCK):
        left = vector[start : start + BLOCK] - along @ q[:, start : start + BLOCK]
        square += float(np.vdot(left, left))
    return Explained(norms, r, along, math.sqrt(square), (q @ q.T,))


def together(parts: Sequence[Explained]) -> Explained:
    """By the same rows over all parts."""
    stacked = np.concatenate([part.r * part.norms for part in parts])
    norms = _or_one(np.linalg.norm(stacked, axis=0))
    q, r = np.linalg.qr(stacked / norms)
    beside = np.concatenate([part.along for part in parts])
    along = q.T @ beside
    rest = math.hypot(*(part.rest for part in parts), *(beside - q @ along))
    blocks = np.split(q, len(parts))
    shares = (block.T @ part.shares[0] @ block for block, part in zip(blocks, parts, strict=True))
    return Explained(norms, r, along, rest, tuple(shares))


def _or_one(norms: Vector) -> Vector:
    return np.where(norms > 0.0, norms, 1.0)


def orthonormal(rows: Vector) -> tuple[Vector, Vector]:
    """Orthonormal rows Q and a triangular R with rows = Rᵀ·Q: Gram-Schmidt, a row twice where the first pass takes more
    than half of its square (Daniel et al. 1976; twice is enough: Parlett 1980, §6.9). What is not clear of the others
    after that is made of roundings: it has a row of zeros.

    Overwrites ``rows`` with Q.
    """
    q, r = rows, np.zeros((len(rows), len(rows)))
    for k in range(len(q)):
        for _ in range(2 if k else 0):
            shares = q[:k] @ q[k]
            for start in range(0, q.shape[1], BLOCK):
                here = slice(start, start + BLOCK)
                q[k, here] -= shares @ q[:k, here]
            r[:k, k] += shares
            r[k, k] = np.linalg.norm(q[k])
            if r[k, k] >= np.linalg.norm(shares):
                break
        else:
            r[k, k] = np.linalg.norm(q[k]) if k == 0 else 0.0
        if r[k, k] > 0.0:
            q[k] /= r[k, k]
        else:
            q[k] = 0.0
    return q, r
