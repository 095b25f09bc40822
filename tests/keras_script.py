"""A file of claims about Keras, as a script: ``python FILE RESULT`` writes a JSON object from claim to nothing, or to
the traceback of its failure. Keras has one backend a process; ``keras_claims.py`` is the other side.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

Claim = Callable[[], None]


class Claims(dict[str, Claim]):
    """Claims by name; a decorator that collects them."""

    def __call__(self, function: Claim) -> Claim:
        self[function.__name__] = function
        return function

    def run(self) -> None:
        """What the script does: run every claim, warnings being errors, and write what came of it."""
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        found = {}
        for name, function in self.items():
            try:
                function()
                found[name] = ""
            except Exception:
                found[name] = traceback.format_exc()
        Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")
