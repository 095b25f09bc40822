"""The README keeps its promises: two commands of one line each, and an example that runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["demo", "test"])
def test_a_command_is_one_line_in_a_fenced_block(name: str) -> None:
    (command,) = re.findall(rf"<!-- command: {name} -->\n```bash\n(.*?)\n```\n", README, flags=re.DOTALL)
    assert command.strip()
    assert "\n" not in command


EXAMPLES = re.findall(r"```python\n(.*?)\n```", README, flags=re.DOTALL)


def test_the_judge_says_of_the_example_what_is_printed_here() -> None:
    (printed,) = re.findall(r"<!-- output: verify -->\n```text\n(.*?)\n```", README, flags=re.DOTALL)
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLES[0]], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in printed.splitlines() if line and line not in lines] == []


def test_the_engines_example_runs_and_names_what_it_says() -> None:
    names: dict[str, object] = {}
    exec(compile(EXAMPLES[1], "README.md", "exec"), names)
    g = names["g"]
    assert g.per_loss["digit"]["trunk.0.weight"].shape == (128, 64)  # type: ignore[attr-defined]
    assert np.isfinite(g.summed["trunk.0.weight"]).all()  # type: ignore[attr-defined]
    assert g.cosine.shape == (2, 2)  # type: ignore[attr-defined]
