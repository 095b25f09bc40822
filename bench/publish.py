"""Write the tables and pictures of every committed result: ``python bench/publish.py``.

The tables stand between ``<!-- bench: begin -->`` and ``<!-- bench: end -->``: all results in ``bench/README.md``, the
newest in short in ``README.md``. A test holds them to the JSON files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pyengine.bench import plot, table

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- bench: begin -->\n", "<!-- bench: end -->"


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """The committed results by file name, the newest last."""
    held = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    return dict(sorted(held.items(), key=lambda item: item[1]["machine"]["date"]))


def everything(held: dict[str, dict[str, Any]]) -> str:
    """All results, the newest first."""
    sections = [
        f"### {Path(name).stem}\n\n![{Path(name).stem}](results/{Path(name).stem}.svg)\n\n{table.full(result)}\n\n"
        f"[{name}](results/{name})\n"
        for name, result in reversed(held.items())
    ]
    return "\n".join(sections)


def newest(held: dict[str, dict[str, Any]]) -> str:
    """The newest whole campaign in short."""
    if not held:
        return ""
    name, result = max(held.items(), key=lambda item: (len(item[1]["contests"]), item[1]["machine"]["date"]))
    links = f"[Every contestant, quartiles, versions](bench/README.md), from [{name}](bench/results/{name})."
    stem = Path(name).stem
    return f"![{stem}](bench/results/{stem}.svg)\n\n{table.summary(result)}\n\n{links}\n"


def blocks() -> dict[Path, str]:
    """What stands between the markers of each README."""
    held = results(ROOT / "bench/results")
    return {ROOT / "bench/README.md": everything(held), ROOT / "README.md": newest(held)}


def placed(text: str, block: str) -> str:
    """The text with what stands between its markers replaced; unchanged without markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}{block}{end}{after}" if end else text


def main() -> None:
    for path, block in blocks().items():
        path.write_text(placed(path.read_text(encoding="utf-8"), block), encoding="utf-8")
    for name, result in results(ROOT / "bench/results").items():
        plot.save(result, (ROOT / "bench/results" / name).with_suffix(".svg"))


if __name__ == "__main__":
    sys.exit(main())
