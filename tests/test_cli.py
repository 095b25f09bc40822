"""The command line: what it prints, what it writes, and the four exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from reports import consistent, inconclusive, refuted

import pyengine as pe
from pyengine import cli, demo


def run(
    *arguments: str, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own, in a terminal that speaks ASCII only."""
    code = "import sys; from pyengine.cli import main; sys.argv[0] = 'pyengine'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "NO_COLOR": "1", **(environment or {})},
    )


def test_demo_prints_the_answer_and_writes_json(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = run("demo", "--framework", "builtin", "--batch", "16", "--json", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("CONSISTENT  Yes.")
    assert json.loads(path.read_text(encoding="utf-8"))["verdict"] == "CONSISTENT"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_version_and_info() -> None:
    assert run("--version").stdout == f"pyengine {pe.__version__}\n"
    facts = run("info")
    assert facts.returncode == 0
    assert "isa " in facts.stdout
    assert json.loads(run("info", "--json").stdout)["version"] == pe.__version__


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["dance"], 2)])
def test_python_m_pyengine_is_the_command(arguments: list[str], code: int) -> None:
    module = subprocess.run(
        [sys.executable, "-P", "-m", "pyengine", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "NO_COLOR": "1"},
    )
    command = run(*arguments)
    assert (module.returncode, module.stdout) == (code, command.stdout)
    assert module.stderr.replace("python -m pyengine", "pyengine") == command.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--framework", "theano"], "`framework`"),
        (["demo", "--framework", "builtin", "--batch", "0"], "`batch`"),
        (["demo", "--framework", "builtin", "--json", "/nowhere/at/all.json"], "no folder"),
        (["demo", "--speed", "9"], "No such option"),
        (["dance"], "No such command"),
    ],
)
def test_wrong_usage_fails(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == cli.WRONG_USAGE
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("make", "code"), [(consistent, 0), (refuted, 1), (inconclusive, 3)])
def test_exit_code_follows_the_verdict(
    make: Any, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "run", lambda *_, **__: make())
    assert cli.run_demo("auto", 0, 64) == code
    assert capsys.readouterr().out.startswith(make().verdict)


def test_framework_that_is_not_installed_is_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(*_: Any, **__: Any) -> Any:
        raise ModuleNotFoundError("No module named 'torch'")

    monkeypatch.setattr(demo, "run", absent)
    assert cli.run_demo("torch", 0, 64) == cli.WRONG_USAGE
    assert "pip install 'pyengine-grad[torch]'" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["rich", "typer"])
def test_command_line_without_its_packages_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == cli.WRONG_USAGE
    assert capsys.readouterr().err == cli.NEEDS + "\n"
