"""What `pyengine.info()` promises, and that the two environment variables act or refuse."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

import pyengine as pe

REPORT = "import pyengine as pe; i = pe.info(); print(i['isa'], i['threads'])"


def fresh(code: str = REPORT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def threads() -> Iterator[int]:
    """The number of threads before the test, set back after it."""
    before = pe.info()["threads"]
    yield before
    pe.set_num_threads(before)


def test_info_names_version_isa_threads_and_compiler() -> None:
    info = pe.info()
    assert list(info) == ["version", "isa", "isas", "threads", "openmp", "compiler"]
    assert info["isa"] in info["isas"]
    assert info["threads"] >= 1
    assert isinstance(info["openmp"], bool)
    assert re.search(r"\d+\.\d+", info["compiler"])


def test_version_is_that_of_the_distribution() -> None:
    assert pe.__version__ == pe.info()["version"] == importlib.metadata.version("pyengine-grad")


def test_portable_fallback_is_always_available() -> None:
    assert "naive" in pe.info()["isas"]


@pytest.mark.parametrize("name", pe.info()["isas"])
def test_isa_variable_chooses_the_instruction_set(name: str) -> None:
    done = fresh(PYENGINE_ISA=name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == name


def test_unknown_isa_fails() -> None:
    done = fresh(PYENGINE_ISA="mmx")
    assert done.returncode != 0
    assert "ValueError" in done.stderr
    assert "PYENGINE_ISA" in done.stderr
    assert "mmx" in done.stderr
    for valid in pe.info()["isas"]:
        assert valid in done.stderr


def test_threads_variable_sets_the_number_of_threads() -> None:
    done = fresh(PYENGINE_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "1"


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "3 threads", "99999999999999999999"])
def test_bad_threads_variable_fails(value: str) -> None:
    done = fresh(PYENGINE_NUM_THREADS=value)
    assert done.returncode != 0
    assert "ValueError" in done.stderr
    assert "PYENGINE_NUM_THREADS" in done.stderr
    assert value in done.stderr


def test_set_num_threads_is_reported(threads: int) -> None:
    for n in (1, 2, 3, 1024):
        pe.set_num_threads(n)
        assert pe.info()["threads"] == (n if pe.info()["openmp"] else 1)


@pytest.mark.parametrize(
    ("n", "kind"),
    [
        (0, ValueError),
        (-2, ValueError),
        (1025, ValueError),
        (10**30, ValueError),
        (True, ValueError),
        (1.0, TypeError),
        ("2", TypeError),
        (None, TypeError),
    ],
)
def test_set_num_threads_to_a_bad_number_fails(threads: int, n: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"`n` .*; expected a whole number from 1 to 1024\. "):
        pe.set_num_threads(n)  # type: ignore[arg-type]
    assert pe.info()["threads"] == threads
