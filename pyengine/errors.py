"""Errors with one voice: which argument, what was expected, what was got, what to do about it."""

from __future__ import annotations

import numbers


class GradientMismatch(AssertionError):
    """A gradient lies outside its bound.

    It is an ``AssertionError``, so that a test which meets it fails instead of erring.
    """


class Unsupported(ValueError):
    """The engine does not know a layer or a loss of a model; the message names it.

    What needs only the framework can still be judged.
    """


class NotComputed(AttributeError):
    """A part of a result was not asked for when the result was computed."""


def sentence(argument: str, *, got: str, expected: str, remedy: str) -> str:
    """Compose the message of every input error.

    >>> sentence("x", got="has shape (3, 4)", expected="(batch, 5)", remedy="Transpose it?")
    '`x` has shape (3, 4); expected (batch, 5). Transpose it?'
    """
    return f"`{argument}` {got}; expected {expected}. {remedy}"


def is_sentence(message: str) -> bool:
    """Whether :func:`sentence` composed it.

    >>> is_sentence(sentence("x", got="is missing", expected="a batch", remedy="Pass it.")), is_sentence("no such key")
    (True, False)
    """
    return message.startswith("`") and "; expected " in message


def listing(names: object) -> str:
    """Join names for an error message.

    >>> listing(["relu", "tanh"])
    'relu, tanh'
    """
    items = [str(name) for name in names]  # type: ignore[attr-defined]
    return ", ".join(items) if items else "(none)"


def require_real(argument: str, value: object, *, expected: str) -> None:
    """Check that an option is a real number; which numbers are allowed is the caller's to say.

    >>> require_real("delta", "1", expected="a finite number above 0")
    Traceback (most recent call last):
    TypeError: `delta` is of type str; expected a finite number above 0. Pass a real number.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            sentence(
                argument, got=f"is of type {type(value).__name__}", expected=expected, remedy="Pass a real number."
            )
        )
