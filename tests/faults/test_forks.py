"""A child that the user's source forks holds nothing of the write, and writes nothing for it."""

import os
import sys
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from tests.support.faults import forking_writes
from tests.support.processes import kill, program, wait_for_words
from tests.support.unfinished import unfinished

SCRIPT = "tests.support.faults.forking_writes"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


@pytest.mark.parametrize(
    ("how", "existing"),
    [
        ("os", False),
        *(pytest.param(*both, marks=pytest.mark.heavy) for both in (("os", True), ("multiprocessing", False))),
        ("multiprocessing", True),
    ],
)
def test_what_a_killed_writer_left_is_resumed_while_its_child_lives(tmp_path: Path, how: str, existing: bool) -> None:
    path = tmp_path / "out.h5"
    if existing:
        with h5py.File(path, "w") as file:
            file["old"] = [1, 2]
    with program("-m", SCRIPT, how, path, tmp_path, DASK_CHUNKIO__LEASE_DURATION="300s") as process:
        child = psutil.Process(int(wait_for_words(tmp_path / "child")))
        kill(process.pid)
        process.wait()
        try:
            assert not unfinished(path).running
            forking_writes.write(how, path, tmp_path, scheduler="threads", resume=True)
            if sys.platform == "linux":
                assert not [one for one in child.open_files() if ".writing" in one.path or one.path == str(path)]
            assert child.is_running()
        finally:
            (tmp_path / "end").touch()
            child.kill()
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["new/x"][...], forking_writes.DATA)
