"""What the numbers were measured on."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def facts() -> dict[str, Any]:
    """Processor, cores, the package's commit if it is a checkout, the date (UTC) and the load before the first run."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "usable_cores": _usable(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "commit": _commit(),
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "load_before": load(),
    }


def load() -> float:
    """The load average over one minute: how many others were running."""
    return round(os.getloadavg()[0], 2)


def busy(held: dict[str, Any]) -> bool:
    """Whether others took more than half the machine before the first run, so that the numbers mean little."""
    return bool(held["load_before"] > (held["usable_cores"] or 1) / 2)


def _usable() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _cpu() -> str:
    """The model's name; with family, model and clock where a virtual machine hides the name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name", platform.machine())
    numbers = [f"{key.replace('cpu ', '')} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def _commit() -> str | None:
    """The commit of the checkout that the package runs from, with ``+`` where files differ from it."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # an installed package may lie within someone else's checkout
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
