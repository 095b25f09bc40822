"""The examples in the docstrings of the installed package, one test a module."""

from __future__ import annotations

import doctest
import importlib
import io
import pkgutil

import pytest

import pyengine

# These import a package that may be absent, or act when imported.
NOT_IMPORTED = {"pyengine.__main__"}

MODULES = sorted(
    {"pyengine"} | {found.name for found in pkgutil.walk_packages(pyengine.__path__, "pyengine.")} - NOT_IMPORTED
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name: str) -> None:
    module = importlib.import_module(name)
    printed = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        runner.run(example, out=printed.write)
    assert runner.summarize(verbose=False).failed == 0, printed.getvalue()


def test_examples_exist() -> None:
    finder = doctest.DocTestFinder()
    count = sum(len(test.examples) for name in MODULES for test in finder.find(importlib.import_module(name), name))
    assert count > len(MODULES) // 2, "the public docstrings have lost their examples"
