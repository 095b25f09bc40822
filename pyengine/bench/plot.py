"""The result as a picture: one panel a size and task, a dot per contestant at its median, a line over its quartiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .contestant import ENGINE
from .table import OWN, digits, time


def save(held: dict[str, Any], path: Path) -> None:
    """Draw into a file; the suffix, ``.svg`` or ``.png``, chooses the format. Needs matplotlib."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    sizes = list(dict.fromkeys(contest["size"] for contest in held["contests"]))
    tasks = list(dict.fromkeys(contest["task"] for contest in held["contests"]))
    # A fixed salt and no date: the same result gives the same file.
    with mpl.rc_context({"svg.hashsalt": "pyengine", "font.size": 9, "svg.fonttype": "none"}):
        figure = Figure(figsize=(5.5 * len(sizes), 2.6 * len(tasks) + 0.6), layout="constrained")
        axes = figure.subplots(len(tasks), len(sizes), squeeze=False)
        for contest in held["contests"]:
            axis = axes[tasks.index(contest["task"])][sizes.index(contest["size"])]
            _panel(axis, contest, held["titles"])
        metadata = {"Date": None} if path.suffix == ".svg" else None
        what = f"{held['machine']['cpu']}, threads: {held['threads']}, {held['dtype']}"
        figure.suptitle(f"{what}\nTime of a step, logarithmic; left is faster")
        figure.savefig(path, metadata=metadata)


def _panel(axis: Any, contest: dict[str, Any], titles: dict[str, str]) -> None:
    results = contest["results"]
    names = [name for name in reversed(titles) if name in results]
    own = results.get(ENGINE, {}).get("median")
    for row, name in enumerate(names):
        found = results[name]
        colour = "#1b6ca8" if name in OWN else "#5c6670"
        axis.plot(found["quartiles"], [row, row], color=colour, linewidth=2.5, alpha=0.5)
        axis.plot(found["median"], row, "o", color=colour, markersize=6)
        relative = f"  {digits(found['median'] / own)}×" if own and name != ENGINE else ""
        axis.annotate(
            f"{time(found['median'])}{relative}",
            (max(found["quartiles"][1], found["median"]), row),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
        )
    axis.set_yticks(range(len(names)), [titles[name] for name in names])
    ends = [end for found in results.values() for end in found["quartiles"]] or [1.0]
    axis.set_xscale("log")
    # Room on the right for the longest label, which takes about a third of the panel.
    axis.set_xlim(min(ends) / 1.2, max(ends) * max(2.0, (max(ends) / min(ends)) ** 0.6))
    axis.set_xticks([], minor=False)
    axis.set_xticks([], minor=True)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.grid(axis="y", color="#e3e7ea")
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "bottom", "left"]].set_visible(False)
    axis.tick_params(length=0)
    axis.set_title(f"{contest['size']}, {contest['task']}", loc="left")
