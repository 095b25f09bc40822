"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that no reader ever sees half of it, with the permissions that any new file gets.

    An old file is replaced only when the new one is complete. Raises ``OSError`` where the folder cannot be written to.
    """
    # tempfile's drafts are private, and stay so when they are renamed.
    draft = path.parent / f".{path.name}.{secrets.token_hex(8)}.part"
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
