"""What the engine runs on: its version, instruction set, threads and compiler."""

from __future__ import annotations

import operator
import platform
from typing import Any

from . import __version__, _core
from .errors import sentence

MOST_THREADS = 1024


def info() -> dict[str, Any]:
    """What the engine runs on.

    The keys: ``version``; ``isa``, the instruction set in use; ``isas``, those that this build and this processor have,
    the fastest first; ``threads``; ``openmp``, whether the build has it; ``compiler``.

    The environment variables ``PYENGINE_ISA`` and ``PYENGINE_NUM_THREADS`` choose the instruction set and the number of
    threads. They are read when they are first needed; raises ``ValueError``, listing the valid values, for others.

    >>> info()["isa"] in info()["isas"]
    True
    """
    build = _core.build_info()
    return {
        "version": __version__,
        "isa": _core.isa(),
        "isas": _core.isas(),
        "threads": _core.num_threads(),
        "openmp": build["openmp"],
        "compiler": build["compiler"],
    }


def set_num_threads(n: int) -> None:
    """Set the number of threads of every later call; results are the same bits for any number.

    Raises ``TypeError`` if ``n`` is not an int and ``ValueError`` if it is not from 1 to 1024. Without OpenMP one
    thread computes.

    >>> before = info()["threads"]
    >>> set_num_threads(1)
    >>> info()["threads"]
    1
    >>> set_num_threads(before)
    """
    expected = f"a whole number from 1 to {MOST_THREADS}"
    try:
        number = operator.index(n)
    except TypeError:
        raise TypeError(
            sentence("n", got=f"is of type {type(n).__name__}", expected=expected, remedy="Pass an int.")
        ) from None
    if isinstance(n, bool) or not 1 <= number <= MOST_THREADS:
        raise ValueError(sentence("n", got=f"is {n}", expected=expected, remedy="Use 1 for no parallelism."))
    _core.set_num_threads(number)


def environment() -> dict[str, str]:
    """Versions, instruction set, threads: what someone needs who gets other numbers.

    >>> sorted(environment())
    ['machine', 'numpy', 'pyengine', 'python']
    """
    import numpy as np

    here = info()
    return {
        "pyengine": f"{here['version']} ({here['isa']}, threads: {here['threads']})",
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
