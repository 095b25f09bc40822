"""Errors with one voice: which argument, what was expected, what was got, what to do about it."""

from __future__ import annotations


class GradientMismatch(AssertionError):
    """A gradient lies outside its bound.

    It is an ``AssertionError``, so that a test which meets it fails instead of erring.
    """


class NotComputed(AttributeError):
    """A part of a result was not asked for when the result was computed."""


def sentence(argument: str, *, got: str, expected: str, remedy: str) -> str:
    """Compose the message of every input error.

    >>> sentence("x", got="has shape (3, 4)", expected="(batch, 5)", remedy="Transpose it?")
    '`x` has shape (3, 4); expected (batch, 5). Transpose it?'
    """
    return f"`{argument}` {got}; expected {expected}. {remedy}"


def listing(names: object) -> str:
    """Join names for an error message.

    >>> listing(["relu", "tanh"])
    'relu, tanh'
    """
    items = [str(name) for name in names]  # type: ignore[attr-defined]
    return ", ".join(items) if items else "(none)"
