"""Memory of large results, used again.

The operating system gives a program fresh pages as zeros, one fault a page: for the gradients of a network of a million
parameters that takes half as long as computing them. So the memory of a large array comes back here when nothing refers
to the array or a view of it any more, and the next result takes it.
"""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

# A cache line. A vector that lies across two takes longer to write: in results of NumPy's, which begin at any multiple
# of 16 bytes, the gradients of the benchmarks' small network took 2 % longer.
LINE = 64
# Below, finding the next line takes longer than it saves.
SMALL = 4096
# From here on the C library asks the operating system for the memory and gives it back at once.
LARGE = 128 * 1024


class SpareMemory:
    """Arrays whose memory returns; at most ``most`` free ones are kept, the latest, and no more bytes than ``within``.

    >>> spare = SpareMemory(most=1)
    >>> first = spare.empty(100_000, np.dtype("float32"))
    >>> address = first.ctypes.data
    >>> del first
    >>> spare.empty(100_000, np.dtype("float32")).ctypes.data == address
    True
    """

    def __init__(self, most: int, within: float = math.inf) -> None:
        self.most, self.within = most, within
        self.free: list[npt.NDArray[np.uint8]] = []

    def empty(self, count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """An array (count,) whose numbers are not set, from the start of a cache line; small ones are NumPy's own."""
        size = count * dtype.itemsize
        if size < SMALL:
            return np.empty(count, dtype)
        if size < LARGE:
            return _lines(size).view(dtype)
        return np.asarray(_Lent(self._take(size), weakref.ref(self))).view(dtype)

    def _take(self, size: int) -> npt.NDArray[np.uint8]:
        # Every pop is one step, so that no two threads get one block.
        passed: list[npt.NDArray[np.uint8]] = []
        try:
            while self.free:
                try:
                    block = self.free.pop()
                except IndexError:
                    break
                if block.size == size:
                    return block
                passed.append(block)
        finally:
            self.free[:0] = reversed(passed)
        return _lines(size)

    def give_back(self, block: npt.NDArray[np.uint8]) -> None:
        """Keep a block that nothing refers to."""
        self.free.append(block)
        del self.free[: -self.most]
        while sum(one.size for one in tuple(self.free)) > self.within:
            del self.free[:1]


class _Lent:
    """What the arrays over a block refer to, so that its end is theirs."""

    def __init__(self, block: npt.NDArray[np.uint8], owner: weakref.ref[SpareMemory]) -> None:
        self.block = block
        self.owner = owner
        self.__array_interface__ = block.__array_interface__

    def __del__(self) -> None:
        owner = self.owner()
        if owner is not None:
            owner.give_back(self.block)


def _lines(size: int) -> npt.NDArray[np.uint8]:
    around = np.empty(size + LINE, np.uint8)
    start = -around.ctypes.data % LINE
    return around[start : start + size]


_checks = SpareMemory(most=32, within=1 << 27)


def empty(shape: int | tuple[int, ...], dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
    """An array whose numbers are not set, in memory that the checks share: 128 MB of it wait for the next one."""
    count = shape if isinstance(shape, int) else math.prod(shape)
    return _checks.empty(count, np.dtype(dtype)).reshape(shape)
