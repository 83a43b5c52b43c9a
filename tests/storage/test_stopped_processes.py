"""Processes that are stopped in the middle, presumed dead, and go on."""

import subprocess
import sys
from pathlib import Path

import pytest
from stopped_commits import INSIDE, OUTSIDE

SCRIPT = Path(__file__).with_name("stopped_commits.py")


@pytest.mark.parametrize("ending", [pytest.param("continued", marks=pytest.mark.heavy), "killed"])
@pytest.mark.parametrize("phase", [*(pytest.param(phase, marks=pytest.mark.heavy) for phase in OUTSIDE), *INSIDE])
def test_others_go_on_or_wait_and_nothing_is_lost(phase, ending, tmp_path):
    command = [sys.executable, SCRIPT, phase, ending, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
