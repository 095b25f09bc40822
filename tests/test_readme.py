"""The README keeps its promises: two commands of one line each, and an example that runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["demo", "test"])
def test_a_command_is_one_line_in_a_fenced_block(name: str) -> None:
    (command,) = re.findall(rf"<!-- command: {name} -->\n```bash\n(.*?)\n```\n", README, flags=re.DOTALL)
    assert command.strip()
    assert "\n" not in command


def test_the_example_runs_and_names_what_it_says() -> None:
    (example,) = re.findall(r"```python\n(.*?)\n```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    g = names["g"]
    assert g.per_loss["digit"]["trunk.0.weight"].shape == (128, 64)  # type: ignore[attr-defined]
    assert np.isfinite(g.summed["trunk.0.weight"]).all()  # type: ignore[attr-defined]
    assert g.cosine.shape == (2, 2)  # type: ignore[attr-defined]
