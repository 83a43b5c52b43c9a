"""Many writes into one file at once, killed, stopped, interrupted and attacked: one right file in the end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("storm.py")


def storm(kills, seed):
    command = [sys.executable, SCRIPT, "--kills", str(kills), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 rounds failed" in done.stdout


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="the state of processes is asked of Linux")
def test_a_storm():
    storm(int(os.environ.get("DASK_CHUNKIO_KILLS", "30")), int(os.environ.get("DASK_CHUNKIO_SEED", "1")))
