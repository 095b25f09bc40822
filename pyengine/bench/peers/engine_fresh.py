"""pyengine as it is called at first: every call returns a new result, in new memory, as most peers' do."""

from __future__ import annotations

from ..contestant import Contestant
from ..sizes import Numbers, Size
from . import engine

TITLE = "pyengine, new result each call"
PACKAGES = engine.PACKAGES
INSTALL = engine.INSTALL
TASKS = engine.TASKS
environment = engine.environment


def setup(size: Size, numbers: Numbers, task: str, threads: int) -> Contestant:
    return engine.contestant(size, numbers, task, threads, reuse=False)
