"""Workers may run on every processor but their caller's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os
import numpy as np
import pyengine as pe

net = pe.Network(256, [pe.Dense(256, "relu")], {"a": pe.Head([pe.Dense(2)], loss="mse")})
params, x, targets = net.init(0), np.ones((256, 256), np.float32), {"a": np.zeros((256, 2), np.float32)}
before = set(os.listdir("/proc/self/task"))
pe.set_num_threads(2)
net.gradients(params, x, targets)
workers = set(os.listdir("/proc/self/task")) - before
print(len(workers), *(len(os.sched_getaffinity(0) - os.sched_getaffinity(int(worker))) for worker in workers))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is told where threads may run")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is no other processor")
def test_a_worker_may_run_anywhere_but_beside_its_caller() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["1", "1"]
