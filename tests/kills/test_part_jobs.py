"""Independent jobs that write one file in parts; some are killed, and run again."""

import os

import pytest

from tests.support.processes import run_python

SCRIPT = "tests.support.kills.part_jobs"


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("way", "jobs", "at_once"), [("write", 100, 20), ("draft", 30, 10), ("regions", 20, 5)])
def test_many_jobs(way: str, jobs: int, at_once: int) -> None:
    seed = os.environ.get("DASK_CHUNKIO_SEED", "1")
    done = run_python("-m", SCRIPT, "--way", way, "--jobs", jobs, "--at-once", at_once, "--seed", seed)
    assert done.returncode == 0, done.stdout + done.stderr
