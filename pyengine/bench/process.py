"""The other end of :mod:`.worker`: a contestant's process as an object."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from .contestant import Answer, peer
from .sizes import Size

PATIENCE = 900.0
"""Seconds that a contestant may take over one request; compiling the largest network is what takes long."""


class Failed(Exception):
    """A contestant raised, died or did not answer."""


class ContestantProcess:
    """Started when made; ended by leaving the ``with`` block."""

    def __init__(self, name: str, threads: int, folder: Path) -> None:
        self.name, self.threads, self.folder = name, threads, folder
        self._errors = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pyengine.bench.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | peer(name).environment(threads),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the process and wait for it."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def setup(self, size: Size, task: str, numbers: Path) -> tuple[Answer, dict[str, str]]:
        """The contestant's answer, and what it runs on."""
        path = self.folder / f"{self.name}.npz"
        given = {"size": dataclasses.asdict(size), "task": task, "threads": self.threads}
        said = self.ask("setup", **given, numbers=str(numbers), answer=str(path))
        answer: Answer = {}
        with np.load(path) as held:
            for label in held.files:
                part, _, name = label.partition("/")
                answer.setdefault(part, {})[name] = held[label]
        path.unlink()
        return answer, said["versions"]

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One request and its answer. Raises :class:`Failed`."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._last_words()) from None
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        if not ready:
            raise Failed(f"no answer to {do!r} in {PATIENCE:g} s")
        line = process.stdout.readline()
        if not line:
            raise Failed(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"its process ended: {lines[-1]}" if lines else "its process ended"
