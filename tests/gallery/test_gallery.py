"""Bugs that people had, as small honest loops: every one is caught and named, and its corrected twin passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gallery import accumulation, jax_bugs, keras_bugs, loops, surgery, totals
from keras_claims import outcome

BUGS: list[Any] = [*accumulation.BUGS, *totals.BUGS, *surgery.BUGS, *jax_bugs.BUGS]
EVERY: list[Any] = [*keras_bugs.BUGS, *BUGS]


def stage(bug: Any) -> Any:
    return jax_bugs if isinstance(bug, jax_bugs.Bug) else loops


@pytest.mark.parametrize("bug", BUGS, ids=[bug.title for bug in BUGS])
def test_bug_is_caught_and_named(bug: Any) -> None:
    stage(bug).expect_named(bug)


@pytest.mark.parametrize("bug", BUGS, ids=[bug.title for bug in BUGS])
def test_corrected_twin_passes(bug: Any) -> None:
    stage(bug).expect_consistent(bug)


@pytest.mark.parametrize("which", ["wrong", "right"])
@pytest.mark.parametrize("bug", keras_bugs.BUGS, ids=[bug.title for bug in keras_bugs.BUGS])
def test_bug_in_keras_is_caught_and_its_twin_passes(
    bug: keras_bugs.Entry, which: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    said = outcome(tmp_path_factory, "keras_gallery_cases.py", bug.backend)[f"{bug.title}: {which}"]
    assert not said, said


def test_gallery_is_large_has_every_framework_and_cites_a_thread_once_a_bug() -> None:
    assert len(EVERY) >= 25
    assert all(bug.thread.startswith("https://") for bug in EVERY)
    assert len({bug.title for bug in EVERY}) == len(EVERY)
    assert len(keras_bugs.BUGS) >= 6
    assert {bug.backend for bug in keras_bugs.BUGS} == {"tensorflow", "jax", "torch"}
    assert len(jax_bugs.BUGS) >= 4


def test_page_lists_the_gallery() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/gallery.md").read_text(encoding="utf-8")
    listed = [line for line in page.splitlines() if line.startswith("| ") and "https://" in line]
    assert listed == [f"| [{bug.title}]({bug.thread}) | {bug.framework} | {bug.named} |" for bug in EVERY]
