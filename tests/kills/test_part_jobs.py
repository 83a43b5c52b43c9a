"""Independent jobs that write one file in parts; some are killed, and run again."""

import os

import pytest

from tests.support.processes import run_python

SCRIPT = "tests.support.kills.part_jobs"


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_a_hundred_jobs() -> None:
    seed = os.environ.get("DASK_CHUNKIO_SEED", "1")
    done = run_python("-m", SCRIPT, "--jobs", 100, "--at-once", 20, "--seed", seed)
    assert done.returncode == 0, done.stdout + done.stderr
