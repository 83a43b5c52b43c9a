"""The open writers of a process: those of one write are no hindrance to another."""

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from writes import Write, numbers

import dask_chunkio as dcio
from dask_chunkio.storage import writers

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no flock")


def test_a_write_that_waits_for_a_lock_holds_up_no_other(tmp_path):
    with Write(tmp_path / "waits.h5") as waiting, open(waiting.target.lock, "rb") as foreign:
        fcntl.flock(foreign, fcntl.LOCK_EX)
        with ThreadPoolExecutor(2) as pool:

            def engage():
                with writers.engaged(waiting.target, False):
                    pass

            held = pool.submit(engage)
            try:
                other = pool.submit(dcio.to_hdf5, tmp_path / "other.h5", "/x", numbers(), scheduler="sync")
                other.result(30)
                assert not held.done()
            finally:
                fcntl.flock(foreign, fcntl.LOCK_UN)
            held.result(30)
