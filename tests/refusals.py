"""The form of every refusal: one sentence that names the argument, what it got, what was expected, and a remedy."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

SENTENCE = re.compile(r"`(?P<argument>[^`]+)` (?P<got>\S.*?); expected (?P<expected>\S.*?)\. (?P<remedy>\S.*[.?])")


def refused(call: Callable[[], object], kind: type[Exception], argument: str, got: str, expected: str = "") -> None:
    """Assert that ``call`` raises exactly ``kind`` and that each part of its message says what it must."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind, f"{type(caught.value).__name__} instead of {kind.__name__}"
    message = str(caught.value)
    parts = SENTENCE.fullmatch(message)
    assert parts, f"not one sentence of the agreed form: {message}"
    assert parts["argument"] == argument, message
    assert got in parts["got"], message
    assert expected in parts["expected"], message
