"""The result as Markdown: what the READMEs show is rendered from the committed JSON, never typed."""

from __future__ import annotations

from typing import Any

from . import machine
from .contestant import ENGINE
from .sizes import TASKS

OWN = (ENGINE, "pyengine-fresh")
TITLES = {
    "per-loss": "Both per-loss gradients and their weighted sum",
    "summed": "The gradient of the weighted sum alone",
}


def time(seconds: float) -> str:
    """Three digits and a unit.

    >>> time(5.08e-6), time(0.000153), time(0.0071), time(1.25)
    ('5.08 µs', '153 µs', '7.10 ms', '1.25 s')
    """
    for unit, name in ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s")):
        if seconds < 999.5 * unit or name == "s":
            return f"{digits(seconds / unit)} {name}"
    raise AssertionError("every number of seconds has a unit")


def digits(value: float) -> str:
    """Three digits: 5.08, 15.3, 153."""
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def fastest_peer(contest: dict[str, Any]) -> tuple[str, float] | None:
    """The peer with the smallest median, and that median over the engine's: below 1 the peer is faster."""
    results = contest["results"]
    peers = {name: found["median"] for name, found in results.items() if name not in OWN}
    if ENGINE not in results or not peers:
        return None
    name = min(peers, key=peers.__getitem__)
    return name, peers[name] / results[ENGINE]["median"]


def summary(held: dict[str, Any]) -> str:
    """One row a size and task: the engine, the fastest peer, and their ratio."""
    lines = [
        f"{_machine(held)} Medians; the ratio is the fastest peer's over pyengine's.",
        "",
        "| task | size | pyengine | fastest peer | | ratio |",
        "|-|-|-:|-|-:|-:|",
    ]
    for contest in held["contests"]:
        found = fastest_peer(contest)
        if found is None:
            continue
        name, ratio = found
        own, other = contest["results"][ENGINE]["median"], contest["results"][name]["median"]
        label = f"{contest['size']}: {contest['shape']}"
        cells = [contest["task"], label, time(own), held["titles"][name], time(other), f"{digits(ratio)}×"]
        lines.append(_row(cells))
    return "\n".join(lines)


def full(held: dict[str, Any]) -> str:
    """Every contestant, one table a task, with quartiles and times relative to the engine; then what did not run."""
    lines = [_machine(held), ""]
    for task in TASKS:
        contests = [contest for contest in held["contests"] if contest["task"] == task]
        if contests:
            lines += [f"**{TITLES[task]}**: {TASKS[task]}.", "", *_task(held, contests), ""]
    lines += _notes(held)
    versions = ", ".join(f"{name} {version}" for name, version in held["versions"].items())
    commit = held["machine"]["commit"]
    lines.append(
        f"Versions: {versions}, Python {held['machine']['python']}" + (f"; commit {commit}." if commit else ".")
    )
    return "\n".join(lines)


def _task(held: dict[str, Any], contests: list[dict[str, Any]]) -> list[str]:
    names = [name for name in held["titles"] if any(name in contest["results"] for contest in contests)]
    lines = [_row(["", *(contest["size"] for contest in contests)]), "|-|" + "-:|" * len(contests)]
    lines += [
        _row([held["titles"][name], *(_cell(contest["results"], name) for contest in contests)]) for name in names
    ]
    ratios = [fastest_peer(contest) for contest in contests]
    lines.append(_row(["fastest peer / pyengine", *(f"**{digits(found[1])}×**" if found else "" for found in ratios)]))
    return lines


def _cell(results: dict[str, Any], name: str) -> str:
    if name not in results:
        return ""
    found = results[name]
    low, high = found["quartiles"]
    relative = (
        "" if name == ENGINE or ENGINE not in results else f", {digits(found['median'] / results[ENGINE]['median'])}×"
    )
    return f"{time(found['median'])} ({time(low)} – {time(high)}){relative}"


def _notes(held: dict[str, Any]) -> list[str]:
    titles = held["titles"]
    notes = [f"{titles[name]} did not run; {why}." for name, why in held["missing"].items()]
    for contest in held["contests"]:
        for name, why in contest["refused"].items():
            notes.append(f"{titles[name]} at {contest['size']}, {contest['task']}, {why}.")
    by_norm = {
        f"{contest['size']} ({found['agreement']['by_norm']} of {found['agreement']['arrays']})": None
        for contest in held["contests"]
        for found in contest["results"].values()
        if found["agreement"]["by_norm"] and contest["task"] == "per-loss"
    }
    if by_norm:
        notes.append(
            f"Arrays judged by norm as well, because their rounding bound alone says too little: {', '.join(by_norm)}."
        )
    if machine.busy(held["machine"]):
        notes.append("The machine was busy: these times mean little.")
    return [f"{note}\n" for note in notes]


def _machine(held: dict[str, Any]) -> str:
    facts, threads = held["machine"], held["threads"]
    count = f"{threads} thread" + ("s" if threads != 1 else "")
    isa = held["versions"].get("isa", "unknown")
    load = f"load {facts['load_before']} before, {facts['load_after']} after"
    rounds = [contest["rounds"] for contest in held["contests"]]
    spread = f"{min(rounds)} to {max(rounds)}" if min(rounds) != max(rounds) else f"{rounds[0]}"
    return (
        f"{facts['cpu']}, {facts['usable_cores']} cores, {facts['system']}; {count}, {held['dtype']}, "
        f"{isa}; {facts['date'][:10]}; {load}; {spread} rounds."
    )


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
