"""The command line: ``pyengine demo``, ``verify``, ``bench``, ``selftest``, ``info``.

Exit codes: 0 what was judged holds, 1 it is refuted, 2 wrong usage, 3 inconclusive.
"""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .errors import is_sentence, listing, sentence
from .files import write_atomically
from .progress import progress_line

if TYPE_CHECKING:
    from .report import Report

EXIT_CODES = {
    "CONSISTENT": 0, "CERTIFIED": 0, "INCONSISTENT": 1, "REFUTED": 1, "REFUTED_STATISTICAL": 1, "INCONCLUSIVE": 3
}  # fmt: skip
WRONG_USAGE = 2
NEEDS = "The command line needs typer and rich; install them with: pip install 'pyengine-grad[cli]'"


def main() -> None:
    """The entry point ``pyengine``."""
    try:
        import rich  # noqa: F401  # the commands need it; say so now, in one sentence
        import typer  # noqa: F401
    except ModuleNotFoundError:
        sys.exit(_refuse(NEEDS))
    with contextlib.suppress(AttributeError, ValueError):
        # A terminal that lacks ∇ shows a question mark; that is better than a traceback.
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    application()()


def application() -> Any:
    """Build the typer application."""
    import typer

    app = typer.Typer(
        help="Are the gradients of several losses summed at shared layers? Evidence from your own framework.",
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )

    def version(value: bool) -> None:
        if value:
            typer.echo(f"pyengine {__version__}")
            raise typer.Exit

    @app.callback()
    def root(
        _version: bool = typer.Option(
            False, "--version", callback=version, is_eager=True, help="Show the version and exit."
        ),
    ) -> None:
        pass

    @app.command()
    def demo(
        framework: str = typer.Option(
            "auto", help="auto, keras, torch or builtin; auto takes the first that is installed."
        ),
        seed: int = typer.Option(0, help="Chooses the digits and the initial weights."),
        batch: int = typer.Option(64, help="How many of the 1,797 digits."),
        json_path: Path | None = typer.Option(  # noqa: B008  # typer reads the default, nothing is shared
            None, "--json", metavar="PATH", help="Also write the report as JSON."
        ),
    ) -> None:
        """Take one real training step on handwritten digits and judge it."""
        raise typer.Exit(run_demo(framework, seed, batch, json_path))

    @app.command()
    def verify(
        model: str = typer.Argument(
            metavar="MODEL", help="MODEL.keras, or FILE.py:FUNCTION that returns what pe.verify takes."
        ),
        data: Path | None = typer.Option(  # noqa: B008
            None, metavar="FILE.npz", help="The batch: x, a target per output, perhaps sample_weight."
        ),
        mode: str = typer.Option("auto", help="auto, staged or blackbox."),
        seed: int = typer.Option(0, min=0, help="Chooses the projections of the statistical checks."),
        json_path: Path | None = typer.Option(  # noqa: B008
            None, "--json", metavar="PATH", help="Also write the report as JSON."
        ),
        html_path: Path | None = typer.Option(  # noqa: B008
            None, "--html", metavar="PATH", help="Also write the report as one HTML file."
        ),
    ) -> None:
        """Judge a model of your own on a batch of your own."""
        raise typer.Exit(run_verify(model, data, mode, seed, json_path, html_path))

    @app.command()
    def bench(
        size: list[str] = typer.Option(  # noqa: B008
            ["tiny", "small", "medium"], help="tiny, small, medium, large; several by commas, or all."
        ),
        task: str = typer.Option("both", help="per-loss, summed or both."),
        peers: str = typer.Option("auto", help="Names by commas; auto takes all that are installed."),
        threads: int | None = typer.Option(None, min=1, help="For every contestant alike. Default: as the engine has."),
        dtype: str = typer.Option("float32", help="float32 or float64."),
        seconds: float = typer.Option(10.0, min=0.0, help="Time for the rounds of each size and task."),
        json_path: Path | None = typer.Option(  # noqa: B008
            None, "--json", metavar="PATH", help="Also write the result as JSON."
        ),
    ) -> None:
        """Race the installed frameworks on the same gradients; only who agrees is timed."""
        raise typer.Exit(
            run_bench(size, task, peers, threads=threads, dtype=dtype, seconds=seconds, json_path=json_path)
        )

    @app.command()
    def selftest(
        quick: bool = typer.Option(False, help="Every third fault, and no search for the smallest; some seconds."),
        full: bool = typer.Option(False, help="The large network too; some minutes."),
        seed: int = typer.Option(0, min=0, help="Chooses parameters, batches and projections."),
        json_path: Path | None = typer.Option(  # noqa: B008
            None, "--json", metavar="PATH", help="Also write the result as JSON."
        ),
    ) -> None:
        """Plant known faults into correct gradients: do the checks catch them, and are they silent on the rest?"""
        raise typer.Exit(run_selftest(seed, quick=quick, full=full, json_path=json_path))

    @app.command()
    def info(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
        """Show what the engine runs on."""
        from .runtime import info as facts

        found = facts()
        if as_json:
            typer.echo(json.dumps(found))
            return
        width = max(map(len, found))
        for name, value in found.items():
            typer.echo(f"{name:<{width}}  {', '.join(value) if isinstance(value, list) else value}")

    return app


def run_demo(framework: str, seed: int, batch: int, json_path: Path | None = None) -> int:
    """Run the demo, print its report, and return the exit code."""
    from . import demo

    if json_path is not None and not json_path.parent.is_dir():
        return _refuse(f"There is no folder {json_path.parent} to write {json_path.name} into.")
    try:
        report = demo.run(framework, seed=seed, batch=batch)  # type: ignore[arg-type]  # run() checks the name
    except ImportError as error:
        extra = framework if framework in ("keras", "torch") else "cli"
        return _refuse(f"{framework} could not be used: {error}. Install it with: pip install 'pyengine-grad[{extra}]'")
    except ValueError as error:
        return _refuse(str(error))
    _print(report)
    if json_path is not None:
        write_atomically(json_path, report.to_json() + "\n")
    return EXIT_CODES[report.verdict]


def run_verify(
    model: str,
    data: Path | None = None,
    mode: str = "auto",
    seed: int = 0,
    json_path: Path | None = None,
    html_path: Path | None = None,
) -> int:
    """Judge the model, print the report, and return the exit code."""
    from importlib.util import find_spec

    from .verify_file import verify_file

    for path in (json_path, html_path):
        if path is not None and not path.parent.is_dir():
            return _refuse(f"There is no folder {path.parent} to write {path.name} into.")
    if html_path is not None and find_spec("jinja2") is None:
        return _refuse("`--html` needs jinja2; install it with: pip install 'pyengine-grad[report]'")
    try:
        report = verify_file(model, data, mode=mode, seed=seed)  # type: ignore[arg-type]  # verify() checks the mode
    except Exception as error:
        if is_sentence(str(error)):
            return _refuse(str(error))
        # The user's own code, or a framework's: where it happened matters, and 1 would say refuted.
        traceback.print_exc()
        return WRONG_USAGE
    print(report)
    if json_path is not None:
        write_atomically(json_path, report.to_json() + "\n")
    if html_path is not None:
        report.to_html(html_path)
    return EXIT_CODES[report.verdict]


def run_bench(
    sizes: list[str],
    task: str,
    peers: str,
    *,
    threads: int | None = None,
    dtype: str = "float32",
    seconds: float = 10.0,
    json_path: Path | None = None,
) -> int:
    """Run the benchmark, print its tables, and return the exit code."""
    from rich.console import Console

    from .bench import contest, contestant, terminal
    from .bench.sizes import SIZES, TASKS
    from .runtime import info

    if json_path is not None and not json_path.parent.is_dir():
        return _refuse(f"There is no folder {json_path.parent} to write {json_path.name} into.")
    try:
        chosen_sizes = _chosen("size", ",".join(sizes), list(SIZES), "all")
        chosen_tasks = _chosen("task", task, list(TASKS), "both")
        chosen_peers = _chosen("peers", peers, list(contestant.PEERS), "auto")
        _chosen("dtype", dtype, ["float32", "float64"], "")
    except ValueError as error:
        return _refuse(str(error))
    with progress_line(alone=True) as say:
        held = contest.compete(
            chosen_sizes,
            chosen_tasks,
            chosen_peers,
            threads=info()["threads"] if threads is None else threads,
            dtype=dtype,
            seconds=seconds,
            say=say,
        )
    if json_path is not None:
        write_atomically(json_path, json.dumps(held, indent=1, ensure_ascii=False) + "\n")
    if sys.stdout.isatty():
        terminal.show(held, Console())
    else:
        print(terminal.plain(held, width=terminal.WIDEST))
    return 0


def run_selftest(seed: int = 0, *, quick: bool = False, full: bool = False, json_path: Path | None = None) -> int:
    """Run the self-test, print its table, and return the exit code: 0 if nothing escaped and nothing was refused."""
    from rich.console import Console

    from .selftest import campaign, report

    if json_path is not None and not json_path.parent.is_dir():
        return _refuse(f"There is no folder {json_path.parent} to write {json_path.name} into.")
    if quick and full:
        return _refuse("`--quick` and `--full` were both given; expected one of them. Leave one out.")
    with progress_line(alone=True) as say:
        outcome = campaign.run(seed=seed, quick=quick, full=full, say=say)
    if json_path is not None:
        write_atomically(json_path, report.to_json(outcome) + "\n")
    if sys.stdout.isatty():
        report.show(outcome, Console())
    else:
        print(report.plain(outcome))
    return 0 if outcome.ok else 1


def _chosen(argument: str, given: str, known: list[str], every: str) -> list[str]:
    """The names in a list by commas, in their usual order."""
    names = [name.strip() for name in given.split(",")]
    if every and names == [every]:
        return known
    unknown = [name for name in names if name not in known]
    if unknown:
        expected = listing([*known, every] if every else known)
        raise ValueError(sentence(argument, got=f"is {unknown[0]!r}", expected=expected, remedy="Use these names."))
    return [name for name in known if name in names]


def _print(report: Report) -> None:
    from rich.console import Console

    from .render import terminal

    if sys.stdout.isatty():
        terminal.show(report, Console())
    else:
        print(terminal.plain(report))


def _refuse(message: str) -> int:
    print(message, file=sys.stderr)
    return WRONG_USAGE
