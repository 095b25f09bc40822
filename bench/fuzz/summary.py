"""What a campaign found, counted: as JSON, and as the tables of ``bench/fuzz/README.md``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .journal import newest
from .verdicts import alarms

FOLDER = Path(__file__).resolve().parent
RESULT, README = FOLDER / "results.json", FOLDER / "README.md"
BEGIN, END = "<!-- fuzz: begin -->\n", "<!-- fuzz: end -->"
QUANTILES = (0.5, 0.9, 0.99)
CONFIDENCE = 0.95


def counted(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The counts of every framework, random networks and difficult cases apart."""
    found: dict[str, Any] = {"random": {}, "adversarial": {}}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        part = "adversarial" if record["adversarial"] else "random"
        groups.setdefault((part, record["framework"]), []).append(record)
    for (part, framework), held in sorted(groups.items()):
        found[part][framework] = _counted(held)
    return found


def _counted(records: list[dict[str, Any]]) -> dict[str, Any]:
    staged, final = [r["staged"] for r in records], [r["blackbox"] for r in records]
    wrong = {f"{r['case']}, {r['threads']} threads": found for r in records if (found := alarms(r))}
    seeds = sorted({int(r["case"]) for r in records if not r["adversarial"]})
    return {
        "networks": len(records),
        "seeds": _ranges(seeds),
        "threads": dict(Counter(str(r["threads"]) for r in records)),
        "modes": dict(Counter(r["mode"] for r in records)),
        "stages": sum(s["stages"] for s in staged),
        "false_alarms": wrong,
        # With none in n networks, the probability of one is below this with a confidence of 95 %.
        "rate_below": 1.0 - (1.0 - CONFIDENCE) ** (1.0 / len(records)) if not wrong else None,
        "staged": {
            "verdicts": dict(Counter(s["verdict"] for s in staged)),
            "R": _spread([s["R"] for s in staged]),
            "entry": _spread([s["entry"] for s in staged]),
            "sums": _spread([s["sums"] for s in staged]),
            "replayed_networks": sum(bool(s["replayed"]) for s in staged),
            "replay_largest": max((v for s in staged for v in s["replayed"].values()), default=0.0),
        },
        "blackbox": {
            "verdicts": dict(Counter(f["verdict"] for f in final)),
            "gradients": sum(f["gradients"] for f in final),
            "scale": _spread([f["scale"] for f in final if f["scale"] is not None]),
            "element": _spread([f["element"] for f in final]),
            "replayed_networks": sum(bool(f["replayed"]) for f in final),
            "networks_with_flips": sum(bool(f["flips"]) for f in final),
            "combination": dict(Counter(f["combination"] for f in final)),
        },
        "largest": {
            "parameters": max(r["parameters"] for r in records),
            "batch": max(r["batch"] for r in records),
        },
        "models": dict(Counter(r["model"] for r in records)),
        "commits": dict(Counter(r["commit"] for r in records)),
        "versions": dict(records[-1]["versions"]),
        "dates": sorted({r["date"] for r in records}),
    }


def _spread(values: list[float]) -> dict[str, float]:
    array = np.array(values or [np.nan])
    return {
        **{f"q{round(100 * q)}": float(np.quantile(array, q)) for q in QUANTILES},
        "max": float(array.max()),
    }


def _ranges(seeds: list[int]) -> str:
    """Seeds as ranges: ``1000-1999, 3000``."""
    text: list[str] = []
    start = previous = None
    for seed in [*seeds, None]:
        if previous is not None and seed != previous + 1:
            text.append(f"{start}" if start == previous else f"{start}-{previous}")
            start = seed
        start = seed if start is None else start
        previous = seed
    return ", ".join(text)


def table(result: dict[str, Any]) -> str:
    """The counts as Markdown."""
    return "\n".join(
        f"**{title}**\n\n{_table(result[part])}\n"
        for part, title in (("random", "Random networks"), ("adversarial", "Difficult cases"))
        if result[part]
    )


def _table(part: dict[str, Any]) -> str:
    names = list(part)
    rows: list[tuple[str, list[str]]] = [
        ("networks", [str(part[n]["networks"]) for n in names]),
        ("stages", [f"{part[n]['stages']:,}" for n in names]),
        ("gradients", [f"{part[n]['blackbox']['gradients']:,}" for n in names]),
        ("**false alarms**", [f"**{len(part[n]['false_alarms'])}**" for n in names]),
        ("R, median", [f"{part[n]['staged']['R']['q50']:.3f}" for n in names]),
        ("R, largest", [f"{part[n]['staged']['R']['max']:.4f}" for n in names]),
        ("largest entry test (limit 1, replays explain)", [f"{part[n]['staged']['entry']['max']:.2f}" for n in names]),
        ("largest sum test (limit 1, replays explain)", [f"{part[n]['staged']['sums']['max']:.2f}" for n in names]),
        ("networks with replays", [str(part[n]["staged"]["replayed_networks"]) for n in names]),
        ("largest replayed (limit 1)", [f"{part[n]['staged']['replay_largest']:.2f}" for n in names]),
        ("black-box verdicts", [_counts(part[n]["blackbox"]["verdicts"]) for n in names]),
        ("black-box scale, 99 % (limit 1)", [f"{part[n]['blackbox']['scale']['q99']:.2f}" for n in names]),
        ("networks with flips", [str(part[n]["blackbox"]["networks_with_flips"]) for n in names]),
        ("black-box replays", [str(part[n]["blackbox"]["replayed_networks"]) for n in names]),
        ("false alarms below, 95 %", [_percent(part[n]["rate_below"]) for n in names]),
        ("threads", [_counts(part[n]["threads"]) for n in names]),
        ("modes", [_counts(part[n]["modes"]) for n in names]),
        ("seeds", [part[n]["seeds"] or "–" for n in names]),
        ("model", [_counts(part[n]["models"]) for n in names]),
        ("commit", [_counts(_shortened(part[n]["commits"])) for n in names]),
        ("versions", [", ".join(f"{k} {v}" for k, v in part[n]["versions"].items()) for n in names]),
        ("date", [", ".join(part[n]["dates"]) for n in names]),
    ]
    lines = [f"| | {' | '.join(names)} |", "|-|" + "-|" * len(names)]
    return "\n".join([*lines, *(f"| {title} | {' | '.join(cells)} |" for title, cells in rows)])


def _shortened(commits: dict[str, int]) -> dict[str, int]:
    return {commit[:10]: count for commit, count in commits.items()}


def _counts(counts: dict[str, int]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "–"


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{100.0 * rate:.2g} %"


def readme(result: dict[str, Any], text: str) -> str:
    """The README with its tables anew."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}{table(result)}{END}{rest.partition(END)[2]}"


def write(journals: list[Path]) -> None:
    """Count the journals; write the result and its tables."""
    result = counted(record for path in journals for record in newest(path).values())
    RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    README.write_text(readme(result, README.read_text(encoding="utf-8")), encoding="utf-8")
