"""What a long verification is doing, in one line on the terminal: nothing is shown in the first second.

The line stands on stderr, where it is in no report's way, and is gone when the work is done.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock, Timer
from typing import Any

from .errors import sentence

AFTER = 1.0
"""Seconds before anything is shown."""

Say = Callable[..., None]
"""Hears ``(what, done=0, of=None)``: what is being done, how many parts are done, and of how many."""

_heard: ContextVar[Say | None] = ContextVar("heard", default=None)


def say(what: str, done: int = 0, of: int | None = None) -> None:
    """Tell whoever listens; costs nothing where nobody does."""
    listener = _heard.get()
    if listener is not None:
        listener(what, done, of)


@contextmanager
def progress_line(shown: bool | None = None, *, alone: bool = False, after: float = AFTER) -> Iterator[Say]:
    """Show what is said inside: on a terminal (None), always (True) or never (False).

    Inside another one it adds nothing, and what is said reaches the outer one. With ``alone`` only what is said through
    the function that it returns is shown. Raises ``ModuleNotFoundError`` if a line is asked for and rich is missing.
    """
    if _heard.get() is not None:
        yield say
        return
    line = _Line(after) if _wanted(shown) else None
    heard = _silent if line is None else line.say
    token = _heard.set(_silent if alone else heard)
    try:
        yield heard
    finally:
        _heard.reset(token)
        if line is not None:
            line.close()


def _wanted(shown: bool | None) -> bool:
    if shown is False or (shown is None and not (sys.stderr is not None and sys.stderr.isatty())):
        return False
    from importlib.util import find_spec

    there = find_spec("rich") is not None
    if shown and not there:
        raise ModuleNotFoundError(
            sentence("progress", got="is True without rich", expected="rich>=13.9",
                     remedy="pip install 'pyengine-grad[cli]', or leave progress out."), name="rich"
        )  # fmt: skip
    return there


def _silent(what: str, done: int = 0, of: int | None = None) -> None:
    pass


class _Line:
    """The line of rich, started by a timer, so that nothing is imported for what is done before."""

    def __init__(self, after: float) -> None:
        self.lock, self.closed = Lock(), False
        self.last: tuple[str, int, int | None] = ("", 0, None)
        self.bar: Any = None
        self.timer = Timer(after, self._open)
        self.timer.daemon = True
        self.timer.start()

    def say(self, what: str, done: int = 0, of: int | None = None) -> None:
        self.last = (what, done, of)
        if self.bar is not None:
            self._update()

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        # Whoever asks for the line gets it in a file too.
        bar = Progress(*columns, console=Console(stderr=True, force_terminal=True), transient=True)
        bar.add_task("", total=None)
        with self.lock:
            if self.closed:
                return
            self.bar = bar
            self._update()
            bar.start()

    def _update(self) -> None:
        what, done, of = self.last
        self.bar.update(self.bar.task_ids[0], description=what, completed=done, total=of)

    def close(self) -> None:
        self.timer.cancel()
        with self.lock:
            self.closed = True
            if self.bar is not None:
                self.bar.stop()
