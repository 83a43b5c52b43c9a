"""Independent jobs that write one file in parts; some are killed, and run again."""

import os

import pytest

from tests.support.processes import run_python

SCRIPT = "tests.support.kills.part_jobs"


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.parametrize("options", [["--jobs", 100, "--at-once", 20], ["--jobs", 30, "--at-once", 10, "--draft"]])
def test_many_jobs(options: list[object]) -> None:
    seed = os.environ.get("DASK_CHUNKIO_SEED", "1")
    done = run_python("-m", SCRIPT, *options, "--seed", seed)
    assert done.returncode == 0, done.stdout + done.stderr
