"""SIGKILL at random calls to the system: nothing is lost, and the write goes on."""

import os
import re

import pytest

from tests.support.processes import run_python

SCRIPT = "tests.support.kills.killed_writes"


def kills(runs: int, seed: int) -> None:
    done = run_python("-m", SCRIPT, "--runs", runs, "--seed", seed)
    assert (done.returncode, done.stderr) == (0, "")
    found = re.match(r"(\d+) kills, nothing lost", done.stdout)
    assert found is not None, done.stdout
    assert int(found[1]) == runs


def test_a_few_kills() -> None:
    kills(1, seed=1)


@pytest.mark.heavy
@pytest.mark.parametrize("seed", [1000, 2000, 3000, 4000])
def test_many_kills(seed: int) -> None:
    kills(int(os.environ.get("DASK_CHUNKIO_KILLS", "25")), seed)
