"""The result as a picture: one panel a size and task, a bar per contestant, a line over its quartiles."""

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
        figure = Figure(figsize=(4.2 * len(sizes), 2.6 * len(tasks) + 0.4), layout="constrained")
        axes = figure.subplots(len(tasks), len(sizes), squeeze=False)
        for contest in held["contests"]:
            axis = axes[tasks.index(contest["task"])][sizes.index(contest["size"])]
            _panel(axis, contest, held["titles"])
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.suptitle(f"{held['machine']['cpu']}, threads: {held['threads']}, {held['dtype']}. Shorter is faster.")
        figure.savefig(path, metadata=metadata)


def _panel(axis: Any, contest: dict[str, Any], titles: dict[str, str]) -> None:
    results = contest["results"]
    names = [name for name in reversed(titles) if name in results]
    own = results.get(ENGINE, {}).get("median")
    for row, name in enumerate(names):
        found = results[name]
        axis.barh(row, found["median"], color="#1b6ca8" if name in OWN else "#b9c4cc", height=0.7)
        axis.plot(found["quartiles"], [row, row], color="black", linewidth=1.2)
        relative = f"  {digits(found['median'] / own)}×" if own and name != ENGINE else ""
        axis.annotate(
            f"{time(found['median'])}{relative}",
            (max(found["quartiles"][1], found["median"]), row),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
        )
    axis.set_yticks(range(len(names)), [titles[name] for name in names])
    axis.set_xlim(0, 1.45 * max((found["quartiles"][1] for found in results.values()), default=1.0))
    axis.set_xticks([])
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.set_title(f"{contest['size']}, {contest['task']}", loc="left")
