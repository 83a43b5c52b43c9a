"""Many writes into one file at once, killed, stopped, interrupted and attacked: one right file in the end."""

import os
import signal
import sys
from typing import Any

import pytest

from tests.support.processes import run_python

SCRIPT = "tests.support.storm.storm"


def storm(kills: Any, seed: int) -> None:
    done = run_python("-m", SCRIPT, "--kills", kills, "--seed", seed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 rounds failed" in done.stdout


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="the state of processes is asked of Linux")
def test_a_storm() -> None:
    storm(int(os.environ.get("DASK_CHUNKIO_KILLS", "30")), int(os.environ.get("DASK_CHUNKIO_SEED", "1")))


@pytest.mark.skipif(sys.platform == "win32", reason="processes are not stopped there")
def test_a_process_that_is_left_behind_stopped_keeps_nobody_waiting() -> None:
    script = "import os, signal; child = os.fork(); child or os.kill(os.getpid(), signal.SIGSTOP); print(child)"
    done = run_python("-c", script)
    os.kill(int(done.stdout), signal.SIGKILL)
