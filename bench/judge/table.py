"""The tables, rendered from the committed results; nothing in them is typed."""

from __future__ import annotations

from typing import Any

BEGIN, END = "<!-- judge: begin -->\n", "<!-- judge: end -->"
Rows = list[dict[str, Any]]
LEGEND = """● at every size it was planted with; a number is the smallest size that was caught, and all larger ones were
too; ○ at some sizes only; · never."""


def placed(text: str, block: str) -> str:
    """The text with what stands between its markers replaced; unchanged without markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}{block}{end}{after}" if end else text


def readme(result: dict[str, Any]) -> str:
    """Everything between the markers."""
    facts = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    where = f"{facts['date'][:10]}, {facts['cpu']}, {facts['system']}, Python {facts['python']}"
    lines = [
        f"{where}; {versions}; {result['seconds']} s.",
        "",
        "### Faults caught, and correct networks refused",
        "",
        *_summary(result["detection"], result["unmodified"], result["false_alarms"]),
        "",
        "### The same in small networks, where finite differences can visit every parameter",
        "",
        *_summary(result["small_detection"], result["small_unmodified"], result["small_false_alarms"]),
        "",
        "### Every fault",
        "",
        LEGEND,
        "",
        *_everything(result["detection"]),
        "",
    ]
    return "\n".join(lines)


def _summary(faults: Rows, unmodified: Rows, correct: Rows) -> list[str]:
    judges = list(faults[0]["caught"])
    lines = [_row(["", "of", *judges]), "|-|-:|" + "-:|" * len(judges)]
    whole = [one for one in faults if one["size"] is None]
    lines.append(_counts("faults of one size", whole, "caught", judges))
    for size in sorted({one["size"] for one in faults if one["size"] is not None}, reverse=True):
        here = [one for one in faults if one["size"] == size]
        lines.append(_counts(f"faults of relative size {size:g}", here, "caught", judges))
    lines.append(_counts("**the same networks without a fault, refused**", unmodified, "refused", judges))
    lines.append(_counts("**other correct networks, refused**", correct, "refused", judges))
    return lines


def _counts(name: str, rows: Rows, key: str, judges: list[str]) -> str:
    cells = [str(sum(one[key][judge] for one in rows)) if judge in rows[0][key] else "" for judge in judges]
    return _row([name, str(len(rows)), *cells])


def _everything(faults: Rows) -> list[str]:
    judges = list(faults[0]["caught"])
    lines = [_row(["fault", "in", *judges]), "|-|-|" + "-|" * len(judges)]
    for name in dict.fromkeys(one["fault"] for one in faults):
        rows = [one for one in faults if one["fault"] == name]
        lines.append(_row([name, rows[0]["case"], *(_cell(rows, judge) for judge in judges)]))
    return lines


def _cell(rows: Rows, judge: str) -> str:
    caught = [one["caught"][judge] for one in rows]
    if not any(caught):
        return "·"
    if rows[0]["size"] is None:
        return "●"
    sizes = [one["size"] for one in rows if one["caught"][judge]]
    monotonic = all(one["caught"][judge] == (one["size"] >= min(sizes)) for one in rows)
    return f"{min(sizes):g}" if monotonic else "○"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
