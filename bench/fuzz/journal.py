"""The journal of a campaign: one line of JSON per network and framework, appended as soon as it is judged."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Key = tuple[str, str, int]
"""The framework, the seed or the name of the case, and the number of threads."""


def key(record: dict[str, Any]) -> Key:
    return record["framework"], str(record["case"]), record["threads"]


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a journal; a line that an interruption cut short is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def newest(path: Path) -> dict[Key, dict[str, Any]]:
    """The last record of every network and framework: a case that was run again counts as it is now."""
    return {key(record): record for record in read(path)}


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a record, on the disk when this returns; what an interruption cut short before stays a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            cut = file.read(1) != b"\n"
        else:
            cut = False
        line = json.dumps(record, ensure_ascii=False) + "\n"
        file.write(("\n" if cut else "").encode() + line.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
