"""`import pyengine` is free: names are imported when they are first used, and none of them brings a framework.

A wall-clock bound would test the machine. The set of modules that an import loads is what makes it fast or slow, and it
is the same everywhere.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pyengine

ADDED = """
import sys
{first}
before = set(sys.modules)
import pyengine
{then}
print("\\n".join(sorted(set(sys.modules) - before)))
"""

EVERY_NAME = "for name in pyengine.__all__: getattr(pyengine, name)"

OPTIONAL = (
    *("dask", "flint", "jax", "jaxlib", "jinja2", "keras", "matplotlib", "mpmath", "pandas", "pytest", "rich", "scipy"),
    *("sklearn", "tensorflow", "torch", "typer"),
)

SLOW_STANDARD_LIBRARY = (
    *("asyncio", "concurrent", "ctypes.util", "email", "http", "importlib.metadata", "logging", "multiprocessing"),
    *("sqlite3", "ssl", "unittest", "urllib.request", "xml"),
)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def added() -> list[str]:
    """The modules that using every public name loads beside those that numpy loaded."""
    return run(ADDED.format(first="import numpy", then=EVERY_NAME)).split()


def test_import_alone_loads_neither_numpy_nor_a_module_of_its_own() -> None:
    loaded = run(ADDED.format(first="", then="")).split()
    assert [name for name in loaded if name.startswith(("numpy", "pyengine."))] == []
    assert len(loaded) > 0
    assert {name.partition(".")[0] for name in loaded} <= sys.stdlib_module_names | {"pyengine"}


def test_every_public_name_is_known_to_type_checkers_and_to_dir() -> None:
    tree = ast.parse(Path(pyengine.__file__).read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    static = {alias.name for node in ast.walk(checked) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert static | {"__version__"} == set(pyengine.__all__)
    assert set(pyengine.__all__) <= set(dir(pyengine))
    for name in pyengine.__all__:
        assert getattr(pyengine, name) is not None


def test_an_unknown_name_fails() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Netwrok'"):
        _ = pyengine.Netwrok


def test_every_name_adds_only_own_modules_and_the_standard_library_to_numpy(added: list[str]) -> None:
    roots = {name.partition(".")[0] for name in added}
    # Cython's runtime registers a module for its types, named after its version.
    foreign = {root for root in roots - sys.stdlib_module_names - {"pyengine"} if not root.startswith("_cython_")}
    assert "pyengine" in roots
    assert foreign <= {"numpy", "cython_runtime"}, f"pyengine loads {sorted(foreign)}"


@pytest.mark.parametrize("name", OPTIONAL)
def test_no_name_loads_an_optional_package(added: list[str], name: str) -> None:
    assert not [module for module in added if module == name or module.startswith(f"{name}.")]


@pytest.mark.parametrize("name", SLOW_STANDARD_LIBRARY)
def test_no_name_loads_a_slow_part_of_the_standard_library(added: list[str], name: str) -> None:
    assert not [module for module in added if module == name or module.startswith(f"{name}.")]


def test_gradients_need_no_optional_package() -> None:
    hidden = "\n".join(f"sys.modules[{name!r}] = None" for name in OPTIONAL)
    printed = run(f"""
import sys
{hidden}
import numpy as np
import pyengine as pe
net = pe.Network(2, [pe.Dense(3, "tanh")], {{"a": pe.Head([pe.Dense(1)], loss="mse")}})
params = net.init(seed=0, dtype="float64")
g = net.gradients(params, np.ones((4, 2)), {{"a": np.zeros((4, 1))}})
print(np.isfinite(g.summed.flat).all() and g.summed.flat.any())
""")
    assert printed.strip() == "True"
