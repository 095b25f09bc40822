"""The result in a terminal, in the manner of the demo's report."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from . import machine
from .contestant import ENGINE
from .sizes import TASKS
from .table import OWN, digits, fastest_peer, time

if TYPE_CHECKING:
    from rich.console import Console

WIDEST = 100


def plain(held: dict[str, Any], width: int = 80) -> str:
    """The result as text without colours."""
    from rich.console import Console

    file = io.StringIO()
    show(held, Console(file=file, width=width, color_system=None, force_terminal=False, legacy_windows=False))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def show(held: dict[str, Any], console: Console) -> None:
    """Print the result: one table a size and task, then who is missing, then how to read it."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    width = min(console.width, WIDEST)

    def say(what: Any) -> None:
        console.print(what, width=width, highlight=False)

    for contest in held["contests"]:
        say(Text.assemble((f"{contest['size']}, {contest['task']}", "bold"), "  ", contest["shape"]))
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("", overflow="fold")
        for name in ("median", "quartiles", "×", "cores", "GFLOP/s", "error"):
            table.add_column(name, justify="right", no_wrap=True)
        own = contest["results"].get(ENGINE)
        for name, found in sorted(contest["results"].items(), key=lambda item: item[1]["median"]):
            low, high = found["quartiles"]
            table.add_row(
                held["titles"][name],
                time(found["median"]),
                f"{time(low)} – {time(high)}",
                digits(found["median"] / own["median"]) if own else "",
                f"{found['cores']:.1f}",
                digits(contest["products"] / found["median"] / 1e9),
                f"{found['agreement']['error']:.0e}".replace("e-0", "e-"),
                style="bold" if name in OWN else "",
            )
        say(Padding(table, (0, 0, 0, 2)))
        for name, why in contest["refused"].items():
            say(Padding(Text(f"✗ {held['titles'][name]} {why}", style="red"), (0, 0, 0, 2)))
        say(Padding(Text(_verdict(held, contest)), (0, 0, 1, 2)))
    for name, why in held["missing"].items():
        say(Text(f"{held['titles'][name]} did not take part: {why}"))
    if machine.busy(held["machine"]):
        say(
            Text(f"The machine was busy (load {held['machine']['load_before']}): these times mean little.", style="red")
        )
    say(Text("How to read this", style="bold"))
    guide = Table.grid(padding=(0, 2))
    guide.add_column(style="dim", no_wrap=True)
    guide.add_column()
    for task in dict.fromkeys(contest["task"] for contest in held["contests"]):
        guide.add_row(task, TASKS[task])
    guide.add_row("median", "of the rounds; in each, everyone runs a little, in an order drawn anew")
    guide.add_row("×", "median over pyengine's; below 1 is faster than pyengine")
    guide.add_row("cores", "processor time over wall time: who used more than the others")
    guide.add_row("error", "largest ‖answer - truth‖ / ‖truth‖ of an array; only answers that agree are timed")
    say(Padding(guide, (0, 0, 0, 2)))
    facts = held["machine"]
    versions = " · ".join(f"{name} {version}" for name, version in held["versions"].items())
    load = f"load {facts['load_before']} before, {facts['load_after']} after"
    say(Text(f"\n{facts['cpu']} · threads {held['threads']} · {held['dtype']} · {load} · {versions}", style="dim"))


def _verdict(held: dict[str, Any], contest: dict[str, Any]) -> str:
    found = fastest_peer(contest)
    if found is None:
        return "No peer to compare with."
    name, ratio = found
    title = held["titles"][name]
    if ratio >= 1.0:
        return f"pyengine is {digits(ratio)} times as fast as the fastest peer, {title}."
    return f"{title} is faster: {digits(1.0 / ratio)} times as fast as pyengine."
