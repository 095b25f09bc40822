"""The journal of a campaign: one line of JSON per network and framework, appended as soon as it is judged."""

from __future__ import annotations

import json
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
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8")[-1:] if path.exists() else "\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(("" if text in {"", "\n"} else "\n") + json.dumps(record, ensure_ascii=False) + "\n")
