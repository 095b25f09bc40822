"""The house rules that a parser can check: what imports what, what lies where, and how long it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pyengine"
KERNEL = ROOT / "csrc"

# A module imports only what stands above it. Modules of one folder share a line, and may import one another without
# circles. docs/architecture.md says what each is for.
ORDER = (
    "_core",
    "_oracle",
    "_rules",
    "errors",
    "files",
    "progress",
    "runtime",
    "arrays",
    "activations",
    "losses",
    "spec",
    "spare",
    "parameters",
    "batch",
    "gradients",
    "engine",
    "reference",
    "oracle",
    "rounding",
    "optimizers",
    "witnesses",
    "observation",
    "watching",
    "checks",
    "report",
    "stored",
    "verify_staged",
    "verification",
    "verify_observed",
    "judge",
    "render",
    "verify_arrays",
    "verify_step",
    "adapters",
    "verify_certified",
    "verify_model",
    "verify_file",
    "judge_watched",
    "watch_observed",
    "watch_loop",
    "digits",
    "expectations",
    "testing",
    "pytest_plugin",
    "demo",
    "bench",
    "selftest",
    "cli",
    "__main__",
)

# A report renders itself when it is asked to; it imports its renderers only then.
LAZILY_BELOW = {("report", "render"), ("verification", "render")}

FRAMEWORKS = {"jax", "jaxlib", "keras", "optax", "tensorflow", "torch"}
OPTIONAL = {"flint", "jinja2", "matplotlib", "rich", "typer"}
LONGEST = 400

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
CPP = sorted(path for path in KERNEL.rglob("*") if path.suffix in {".cpp", ".hpp"})
WRITTEN = [
    *sorted(path for suffix in ("py", "pyi", "pyx", "pxd") for path in PACKAGE.rglob(f"*.{suffix}")),
    *CPP,
    *sorted((ROOT / "tests").rglob("*.py")),
    *sorted((ROOT / "tests").rglob("*.cpp")),
]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(path: Path) -> str:
    """The module's name below the package: ``checks.staged`` for ``pyengine/checks/staged.py``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rank(module: str) -> int:
    return ORDER.index(module.partition(".")[0])


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, by its full name, and whether it does so at the top level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.If)
        and (not isinstance(node, ast.If) or "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    package = ["pyengine", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                candidate = ROOT.joinpath(*name.split("."), alias.name)
                is_module = candidate.is_dir() or any(candidate.parent.glob(f"{alias.name}.py*"))
                yield (f"{name}.{alias.name}" if is_module else name), node not in lazy


def own_imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The package's own modules that a file imports, by their names below the package, and whether at the top level."""
    for name, top_level in imports(path):
        if name.startswith("pyengine."):
            yield name.removeprefix("pyengine."), top_level


def test_the_tree_is_there() -> None:
    assert len(MODULES) > 10
    assert len(CPP) > 10


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_has_a_place_in_the_order(path: Path) -> None:
    assert dotted(path).partition(".")[0] in ORDER


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_module_imports_only_what_stands_above_it(path: Path) -> None:
    own = dotted(path)
    for name, top_level in own_imports(path):
        same_folder = path.parent != PACKAGE and name.partition(".")[0] == own.partition(".")[0]
        lazily_below = not top_level and (own, name.partition(".")[0]) in LAZILY_BELOW
        assert same_folder or lazily_below or rank(name) < rank(own), f"{own} imports {name}"


def test_modules_of_one_folder_import_one_another_without_circles() -> None:
    graph = {dotted(path): {name for name, _ in own_imports(path)} for path in MODULES if path.parent != PACKAGE}
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in finished:
            for imported in graph.get(name, set()):
                visit(imported, (*trail, name))
            finished.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_frameworks_are_imported_by_adapters_and_contestants_alone_and_only_when_needed(path: Path) -> None:
    for name, top_level in imports(path):
        root = name.partition(".")[0]
        if root in FRAMEWORKS:
            assert path.parent in {PACKAGE / "adapters", PACKAGE / "bench/peers"}, f"{relative(path)} imports {name}"
            assert not top_level, f"{relative(path)} imports {name} at the top level"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_optional_packages_are_imported_only_when_needed(path: Path) -> None:
    # Renderers and the command line are themselves imported only when needed; the tests of the imports hold them to it.
    if dotted(path).partition(".")[0] in {"render", "cli"}:
        return
    for name, top_level in imports(path):
        optional = name.partition(".")[0] in OPTIONAL
        assert not (optional and top_level), f"{relative(path)} imports {name} at the top level"


@pytest.mark.parametrize("path", WRITTEN, ids=relative)
def test_file_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("path", WRITTEN, ids=relative)
def test_file_has_a_name_that_says_something(path: Path) -> None:
    assert path.stem not in {"util", "utils", "helper", "helpers", "misc", "common"}


def test_cmake_lists_exactly_the_sources_of_the_kernel() -> None:
    text = "".join(
        path.read_text(encoding="utf-8") for path in [ROOT / "CMakeLists.txt", *(ROOT / "cmake").glob("*.cmake")]
    )
    listed = set(re.findall(r"csrc/[\w/]+\.cpp", text))
    assert listed == {relative(path) for path in CPP if path.suffix == ".cpp"}


def test_cmake_lists_exactly_the_cpp_tests() -> None:
    text = (ROOT / "tests/cpp/CMakeLists.txt").read_text(encoding="utf-8")
    (listed,) = re.findall(r"foreach\(name IN ITEMS ([\w\s]*)\)", text)
    assert set(listed.split()) == {path.stem for path in (ROOT / "tests/cpp").glob("*.cpp")}


def test_openmp_lives_in_one_place() -> None:
    speaking = {
        path.stem
        for path in CPP
        if re.search(r"#\s*pragma\s+omp|\bomp_\w+\(|<omp\.h>", path.read_text(encoding="utf-8"))
    }
    assert speaking <= {"parallel"}


def test_only_the_bindings_know_python() -> None:
    for path in CPP:
        if path.parent.name != "bind":
            assert not re.search(r"pybind11|Python\.h", path.read_text(encoding="utf-8")), relative(path)


def test_kernel_never_prints_or_aborts() -> None:
    for path in CPP:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bstd::(cout|cerr|abort|exit|terminate)\b|\bf?printf\(|\bassert\(", text), relative(path)


def test_oracle_shares_nothing_with_the_kernel() -> None:
    for path in PACKAGE.glob("*.p[yx][xd]"):
        assert not re.search(r"_core|csrc|extern from \"(?!math\.h)", path.read_text(encoding="utf-8")), relative(path)


@pytest.mark.parametrize("path", [path for path in WRITTEN if path.suffix == ".py"], ids=relative)
def test_no_tolerance_is_a_bare_literal(path: Path) -> None:
    """A tolerance is a bound computed from the case: no literal rtol, no default tolerance of a comparison."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func).rpartition(".")[2]
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        where = f"{relative(path)}:{node.lineno}"
        for name in ("rtol", "atol", "rel", "abs", "rel_tol", "abs_tol"):
            value = keywords.get(name)
            assert not (isinstance(value, ast.Constant) and value.value), f"{where}: {name}={ast.unparse(value)}"
        if called in {"allclose", "isclose", "assert_allclose", "approx", "assert_almost_equal"}:
            assert keywords.keys() & {"rtol", "atol", "rel", "abs", "rel_tol", "abs_tol"}, (
                f"{where}: {called} by default"
            )
