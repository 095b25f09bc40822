"""``verify_file``: a model in a file, and a batch in another, judged. The command ``pyengine verify`` calls it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import listing, sentence
from .parameters import Array
from .verification import Verification
from .verify_model import Mode, verify

X, Y, WEIGHT = "x", "y", "sample_weight"
ARGUMENTS = ("model", "x", "targets", "losses", "loss_weights", "sample_weight")


def verify_file(target: str, data: Path | None = None, *, mode: Mode = "auto", seed: int = 0) -> Verification:
    """Judge the model that ``target`` names on the batch in ``data``.

    ``target`` is ``MODEL.keras``, as ``model.save`` writes it, or ``FILE.py:FUNCTION`` (or ``MODULE:FUNCTION``): a
    function without arguments that returns what :func:`pyengine.verify` takes, as a tuple ``(model, x, targets, losses,
    loss_weights)`` or as a dict of its arguments; or a compiled Keras model alone, whose batch is in ``data``.

    ``data`` is an ``.npz`` file with ``x``, the targets under the names of the outputs (``y`` will do for one
    output), and, if samples have weights, ``sample_weight`` for all outputs or ``sample_weight.OUTPUT`` for one.

    Raises ``ValueError`` for a file or a function that is missing or holds something else, and what ``verify`` raises.
    """
    given = _arguments(target) if ":" in target and not Path(target).exists() else {"model": _saved(Path(target))}
    if "x" not in given:
        if data is None:
            raise ValueError(
                sentence(
                    "data", got="is missing", expected="an .npz file with the batch", remedy="Pass --data FILE.npz."
                )
            )
        given |= _batch(data)
    elif data is not None:
        raise ValueError(
            sentence(
                "data", got=f"is {data.name}", expected=f"none, as {target} brings a batch", remedy="Leave it out."
            )
        )
    return verify(**given, mode=mode, seed=seed)


def _saved(path: Path) -> Any:
    if not path.exists():
        raise ValueError(
            sentence("model", got=f"is {path}, which does not exist", expected="MODEL.keras or FILE.py:FUNCTION",
                     remedy="Check the path.")
        )  # fmt: skip
    if path.suffix == ".py":
        raise ValueError(
            sentence("model", got=f"is {path.name} without a function", expected=f"{path.name}:FUNCTION",
                     remedy="Name the function that returns the model.")
        )  # fmt: skip
    from .adapters.keras_file import load_model

    return load_model(path)


def _batch(path: Path) -> dict[str, Any]:
    """x, targets and weights of samples, from one file of arrays."""
    arrays = _arrays(path)
    if X not in arrays:
        raise ValueError(
            sentence("data", got=f"has {listing(arrays) or 'no arrays'}", expected="x and one array per output",
                     remedy="Save it by numpy.savez(path, x=..., OUTPUT=...).")
        )  # fmt: skip
    x = arrays.pop(X)
    common = arrays.pop(WEIGHT, None)
    own = {name: arrays.pop(name) for name in list(arrays) if name.startswith(f"{WEIGHT}.")}
    if not arrays:
        raise ValueError(
            sentence("data", got="has x alone", expected="an array per output besides", remedy="Add the targets.")
        )
    targets: Any = arrays[Y] if set(arrays) == {Y} else arrays
    weights: Any = common
    if own:
        weights = {name.removeprefix(f"{WEIGHT}."): array for name, array in own.items()}
        if common is not None:
            raise ValueError(
                sentence(
                    "data", got=f"has {WEIGHT} and {listing(own)}", expected="one of the two", remedy="Leave one out."
                )
            )
    lengths = {name: len(array) if array.ndim else 0 for name, array in ({X: x} | arrays | own).items()}
    if common is not None:
        lengths[WEIGHT] = len(common) if common.ndim else 0
    if len(set(lengths.values())) > 1:
        said = listing(f"{length} of {name}" for name, length in lengths.items())
        raise ValueError(
            sentence("data", got=f"has {said}", expected="as many samples in every array", remedy="Save one batch.")
        )
    return {"x": x, "targets": targets, **({} if weights is None else {"sample_weight": weights})}


def _arrays(path: Path) -> dict[str, Array]:
    if not path.exists():
        raise ValueError(
            sentence("data", got=f"is {path}, which does not exist", expected="an .npz file", remedy="Check the path.")
        )  # fmt: skip
    if not zipfile.is_zipfile(path):
        raise ValueError(
            sentence("data", got=f"is {path.name}, which is no .npz file", expected="what numpy.savez writes",
                     remedy="Save the batch by numpy.savez(path, x=..., OUTPUT=...).")
        )  # fmt: skip
    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except ValueError as error:
        raise ValueError(
            sentence("data", got=f"is {path.name}, which cannot be read ({error})", expected="arrays of numbers",
                     remedy="Save numbers, no objects.")
        ) from error  # fmt: skip


def _arguments(target: str) -> dict[str, Any]:
    """What the function returns, as arguments of ``verify``."""
    place, _, name = target.rpartition(":")
    function = getattr(_module(place), name, None)
    if not callable(function):
        raise ValueError(
            sentence("model", got=f"is {target}, and {place} has no function {name!r}", expected="FILE.py:FUNCTION",
                     remedy="Check the name.")
        )  # fmt: skip
    returned = function()
    if isinstance(returned, Mapping) and "model" in returned:
        unknown = [str(key) for key in returned if key not in ARGUMENTS]
        if unknown:
            raise ValueError(
                sentence("model", got=f"is {target}, which returns {listing(unknown)}", expected=listing(ARGUMENTS),
                         remedy="Name them as the arguments of pe.verify.")
            )  # fmt: skip
        return dict(returned)
    if isinstance(returned, tuple) and len(returned) >= 3:
        return dict(zip(ARGUMENTS, returned, strict=False))
    return {"model": returned}


def _module(place: str) -> Any:
    path = Path(place)
    if path.suffix != ".py":
        sys.path.insert(0, str(Path.cwd()))
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place}.".startswith(f"{error.name}."):
                raise
            raise ValueError(
                sentence("model", got=f"is in {place}, which cannot be found",
                         expected="MODULE:FUNCTION or FILE.py:FUNCTION",
                         remedy="Check the name.")
            ) from error  # fmt: skip
    if not path.exists():
        raise ValueError(
            sentence(
                "model",
                got=f"is in {path}, which does not exist",
                expected="FILE.py:FUNCTION",
                remedy="Check the path.",
            )
        )
    # As `python FILE.py` would find what stands beside it.
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
