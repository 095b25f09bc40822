"""Keras: a model that ``model.save("model.keras")`` wrote, with its losses and its optimizer."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from ..errors import sentence
from .keras_backend import load


def load_model(path: Path) -> Any:
    """Load it through Keras itself, in its safe mode: no code from the file is run.

    Raises ``ValueError`` for a file that is no Keras archive, or that Keras cannot load.
    """
    if not zipfile.is_zipfile(path) or "config.json" not in zipfile.ZipFile(path).namelist():
        raise ValueError(
            sentence("model", got=f"is {path.name}, which is no Keras archive",
                     expected='a file that model.save("….keras") wrote',
                     remedy="Load anything else in a Python file, and pass FILE.py:FUNCTION.")
        )  # fmt: skip
    keras = load()
    try:
        return keras.models.load_model(path)
    except Exception as error:  # whatever the parts of a model raise when they are made again
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            sentence("model", got=f"is {path.name}, which Keras cannot load ({said})",
                     expected="a model of Keras' own parts",
                     remedy="Load a model with parts of your own in a Python file, and pass FILE.py:FUNCTION.")
        ) from error  # fmt: skip
