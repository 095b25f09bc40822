"""What a long verification is doing is seen on a terminal, after a second, and nowhere else."""

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import pyengine as pe
from pyengine.progress import AFTER, progress_line, say

pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX's")

WORK = """
import sys, time
from pyengine.progress import progress_line, say
with progress_line({shown}, after={after}, alone={alone}):
    for i in range(4):
        say("operations", i, 4)
        time.sleep(0.1)
print("the report")
"""


VERIFICATION = """
import numpy as np, pyengine as pe, rich.console, rich.progress
from pyengine.progress import progress_line
progress_line.__wrapped__.__kwdefaults__["after"] = {after}
heads = {{"a": pe.Head([pe.Dense(1)], loss="mse")}}
net = pe.Network(n_in=512, trunk=[pe.Dense(512, "tanh"), pe.Dense(512, "tanh")], heads=heads)
x, t = np.ones((256, 512), "float32"), {{"a": np.ones((256, 1), "float32")}}
assert pe.verify((net, net.init(seed=0)), x, t).ok
print("the report")
"""


def seen(
    shown: str = "None", *, after: float = 0.1, alone: bool = False, terminal: bool = True, work: str = WORK
) -> tuple[str, str]:
    """stdout and stderr of the work, the second one on a terminal."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    program = work.format(shown=shown, after=after, alone=alone)
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=theirs, check=True, timeout=60, env=environment
    )
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # how a pseudo-terminal ends
        pass
    os.close(ours)
    return done.stdout.decode(), said.decode(errors="replace")


def test_a_terminal_shows_what_is_done_and_the_report_is_left_alone() -> None:
    stdout, stderr = seen()
    assert "operations" in stderr
    assert "/4" in stderr
    assert stdout == "the report\n"


def test_a_verification_that_takes_longer_shows_what_it_is_doing() -> None:
    stdout, stderr = seen(after=0.0, work=VERIFICATION)
    assert "gradients" in stderr
    assert stdout == "the report\n"
    assert seen(after=3600.0, work=VERIFICATION) == ("the report\n", "")


def test_nothing_is_shown_in_the_first_second() -> None:
    assert AFTER == 1.0
    assert seen(after=AFTER) == ("the report\n", "")


def test_nothing_is_shown_beside_a_terminal_unless_asked() -> None:
    assert seen(terminal=False) == ("the report\n", "")
    assert "operations" in seen("True", terminal=False)[1]


def test_nothing_is_shown_on_a_terminal_if_so_asked() -> None:
    assert seen("False") == ("the report\n", "")


def test_what_is_said_by_others_does_not_reach_a_line_that_is_alone() -> None:
    assert "operations" not in seen(alone=True)[1]


def test_inner_verifications_speak_through_the_outer_line() -> None:
    with progress_line(False) as outer, progress_line(True, after=0.0) as inner:
        assert inner is say
        assert outer is not say
    stdout, stderr = seen("None, after=0.1) as _, progress_line(False")
    assert "operations" in stderr
    assert stdout == "the report\n"


def test_rich_is_asked_for_in_one_sentence_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with (
        pytest.raises(ModuleNotFoundError, match=r"`progress` is True without rich; expected rich"),
        progress_line(True),
    ):
        pass


def test_an_error_inside_ends_the_line() -> None:
    def interrupted() -> None:
        with progress_line(True, after=0.0):
            time.sleep(0.3)
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    time.sleep(0.2)
    assert threading.active_count() <= before


def test_verify_takes_the_wish() -> None:
    net = pe.Network(n_in=3, trunk=[pe.Dense(4, "tanh")], heads={"a": pe.Head([pe.Dense(1)], loss="mse")})
    given = np.eye(3, dtype="float32"), {"a": np.ones((3, 1), "float32")}
    assert pe.verify((net, net.init(seed=0)), *given, progress=True).ok
