"""The open writers of a process: those of one write are no hindrance to another."""

import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import dask_chunkio as dcio
from dask_chunkio.storage import session
from tests.support.storage.writes import Write, numbers

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no flock")


def test_a_write_that_waits_for_a_lock_holds_up_no_other(tmp_path: Path) -> None:
    with Write(tmp_path / "waits.h5") as waiting, open(waiting.target.lock, "rb") as foreign:
        fcntl.flock(foreign, fcntl.LOCK_EX)
        with ThreadPoolExecutor(2) as pool:

            def engage() -> None:
                with session.in_use(waiting.target, False):
                    pass

            held = pool.submit(engage)
            try:
                other = pool.submit(dcio.to_hdf5, tmp_path / "other.h5", "/x", numbers(), scheduler="sync")
                other.result(30)
                assert not held.done()
            finally:
                fcntl.flock(foreign, fcntl.LOCK_UN)
            held.result(30)


def test_a_write_is_let_go_between_its_tasks_and_never_under_one(tmp_path: Path) -> None:
    """As the thread does that looks after the writes of a process, whenever it finds one that nothing needs."""
    with Write(tmp_path / "a.h5") as write:
        ended = threading.Event()

        def let_go() -> None:
            while not ended.is_set():
                session.release_unused(write.target.write_id)

        def use(_: Any) -> Any:
            with session.in_use(write.target, False) as writer, writer.transactions.files.used():
                return os.fstat(writer.transactions.files.file).st_ino

        with ThreadPoolExecutor(3) as pool:
            pool.submit(let_go)
            try:
                assert len(set(pool.map(use, range(300)))) == 1
            finally:
                ended.set()


def test_a_write_whose_folder_is_left_is_not_finished_whatever_is_known_of_its_id(tmp_path: Path) -> None:
    with Write(tmp_path / "a.h5", write_id="same") as finished:
        finished.commit_missing()
        finished.finish()
    assert session.is_finished(finished.target)
    with Write(tmp_path / "b.h5", write_id="same") as other:
        assert not session.is_finished(other.target)
