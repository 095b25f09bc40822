"""`import pyengine` costs little more than `import numpy`: it loads pyengine's own modules and no framework.

A wall-clock bound would test the machine. The set of modules that the import loads is what makes it fast or slow, and
it is the same everywhere.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

ADDED_TO_NUMPY = """
import sys
import numpy
before = set(sys.modules)
import pyengine
print("\\n".join(sorted(set(sys.modules) - before)))
"""

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
    """The modules that `import pyengine` loads beside those that numpy loaded."""
    return run(ADDED_TO_NUMPY).split()


def test_import_adds_only_own_modules_and_the_standard_library_to_numpy(added: list[str]) -> None:
    roots = {name.partition(".")[0] for name in added}
    # Cython's runtime registers a module for its types, named after its version.
    foreign = {root for root in roots - sys.stdlib_module_names - {"pyengine"} if not root.startswith("_cython_")}
    assert "pyengine" in roots
    assert foreign <= {"numpy", "cython_runtime"}, f"`import pyengine` loads {sorted(foreign)}"


@pytest.mark.parametrize("name", OPTIONAL)
def test_import_loads_no_optional_package(added: list[str], name: str) -> None:
    assert not [module for module in added if module == name or module.startswith(f"{name}.")]


@pytest.mark.parametrize("name", SLOW_STANDARD_LIBRARY)
def test_import_adds_no_slow_part_of_the_standard_library(added: list[str], name: str) -> None:
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
