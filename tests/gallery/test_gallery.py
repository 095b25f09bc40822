"""Bugs that people had, as small honest loops: every one is caught and named, and its corrected twin passes."""

from __future__ import annotations

from pathlib import Path

import pytest
from gallery import accumulation, surgery, totals
from gallery.loops import Bug, expect_consistent, expect_named

BUGS = [*accumulation.BUGS, *totals.BUGS, *surgery.BUGS]
IDS = [bug.title for bug in BUGS]


@pytest.mark.parametrize("bug", BUGS, ids=IDS)
def test_bug_is_caught_and_named(bug: Bug) -> None:
    expect_named(bug)


@pytest.mark.parametrize("bug", BUGS, ids=IDS)
def test_corrected_twin_passes(bug: Bug) -> None:
    expect_consistent(bug)


def test_gallery_is_large_and_cites_every_thread() -> None:
    assert len(BUGS) >= 25
    assert all(bug.thread.startswith("https://") for bug in BUGS)
    assert len({bug.title for bug in BUGS}) == len(BUGS)


def test_page_lists_the_gallery() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/gallery.md").read_text(encoding="utf-8")
    listed = [line for line in page.splitlines() if line.startswith("| ") and "https://" in line]
    assert listed == [f"| [{bug.title}]({bug.thread}) | {bug.named} |" for bug in BUGS]
