"""Two calls for one file, Ctrl-C, and sources that fail: what the second is told, and what is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import dask.base
import h5py
import numpy as np
import pytest
from distributed import Client

import dask_chunkio
from dask_chunkio import GenericDataChunkIterator, status, to_hdf5
from dask_chunkio.errors import SourceError, TargetBusyError
from tests.support.faults.interrupted_writes import DATA, Slow, write
from tests.support.notes import notes
from tests.support.processes import run_python

SCRIPT = "tests.support.faults.interrupted_writes"


class Held(GenericDataChunkIterator):
    """Can be read when it is let go."""

    def __init__(self) -> None:
        self.begun, self.free = threading.Event(), threading.Event()
        super().__init__(buffer_shape=(60, 10), chunk_shape=(5, 10))

    def _get_data(self, selection: tuple[slice, ...]) -> Any:
        self.begun.set()
        assert self.free.wait(60)
        return DATA[selection]

    def _get_maxshape(self) -> tuple[int, ...]:
        return DATA.shape

    def _get_dtype(self) -> np.dtype[Any]:
        return DATA.dtype


@pytest.fixture(params=["new", "existing"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "out.h5"
    if request.param == "existing":
        with h5py.File(path, "w") as file:
            file["old"] = [1, 2]
    return path


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_call_is_told_at_once_and_the_first_goes_on(
    path: Path, pool: ThreadPoolExecutor, resume: bool
) -> None:
    source = Held()
    first = pool.submit(to_hdf5, path, "/x", source, scheduler="threads")
    assert source.begun.wait(60)
    with pytest.raises(TargetBusyError, match=r"is being written by another call, started .*wait=True") as caught:
        to_hdf5(path, "/x" if resume else "/y", DATA, resume=resume, scheduler="synchronous")
    # Nothing offers to discard what the other call writes.
    assert not getattr(caught.value, "__notes__", [])
    assert "discard" not in str(caught.value)
    source.free.set()
    first.result(60)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], DATA)
        assert "y" not in file


def test_a_second_call_can_wait(path: Path, pool: ThreadPoolExecutor) -> None:
    source = Held()
    first = pool.submit(to_hdf5, path, "/x", source, scheduler="threads")
    assert source.begun.wait(60)
    second = pool.submit(to_hdf5, path, "/y", DATA + 1, wait=True, scheduler="synchronous")
    assert not second.done()
    source.free.set()
    first.result(60)
    second.result(60)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], DATA)
        np.testing.assert_array_equal(file["y"][...], DATA + 1)


def test_waiting_for_another_program(path: Path, pool: ThreadPoolExecutor) -> None:
    with h5py.File(path, "a") as file:
        file["mine"] = 1
        with pytest.raises(TargetBusyError, match="open"):
            to_hdf5(path, "/x", DATA, scheduler="synchronous")
        waiting = pool.submit(to_hdf5, path, "/x", DATA, wait=True, scheduler="synchronous")
        assert not waiting.done()
    waiting.result(60)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], DATA)


@pytest.mark.parametrize(
    ("path", "scheduler"),
    [
        pytest.param(path, scheduler, marks=[] if (path, scheduler) == ("new", "threads") else pytest.mark.heavy)
        for path in ("new", "existing")
        for scheduler in ("threads", "processes", "synchronous", "cluster")
    ],
    indirect=["path"],
)
def test_ctrl_c_begins_no_new_buffer_and_says_how_to_go_on(path: Path, tmp_path: Path, scheduler: str) -> None:
    log = tmp_path / "log"
    done = run_python("-m", SCRIPT, scheduler, path, log, timeout=120)
    assert done.returncode == 130, done.stderr
    assert "resume the write by the same call with resume=True" in done.stdout
    noted = notes(log)
    begun = {words[1] for words in noted if words[0] == "begin"}
    if scheduler in ("threads", "synchronous"):
        after = noted[noted.index(("returned",)) + 1 :]
        assert not after, "it returned before the calls that were running"
    assert len(begun) < len(DATA) // 10
    kept = status(path)
    assert kept is not None
    assert not kept.running
    committed = kept.datasets[0].committed
    log.unlink()
    write(path, Slow(str(log), None), "threads", resume=True)
    again = [words for words in notes(log) if words[0] == "begin"]
    assert len(again) == len(DATA) // 10 - committed // 2
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], DATA)


class Flaky(GenericDataChunkIterator):
    """Fails the first two times that its fourth buffer is read."""

    def __init__(self, log: Path) -> None:
        self.log = log
        super().__init__(buffer_shape=(10, 10), chunk_shape=(5, 10))

    def _get_data(self, selection: tuple[slice, ...]) -> Any:
        if selection[0].start == 30:
            with self.log.open("a") as log:
                log.write("x")
            if len(self.log.read_text()) <= 2:
                raise OSError("the instrument does not answer")
        return DATA[selection]

    def _get_maxshape(self) -> tuple[int, ...]:
        return DATA.shape

    def _get_dtype(self) -> np.dtype[Any]:
        return DATA.dtype


@pytest.mark.parametrize("how", ["compute_kwargs", "annotate"])
def test_sources_are_retried_as_dask_says(path: Path, tmp_path: Path, thread_client: Client, how: str) -> None:
    source = Flaky(tmp_path / "log")
    if how == "annotate":
        with dask.base.annotate(retries=2):
            to_hdf5(path, "/x", source, scheduler=thread_client)
    else:
        to_hdf5(path, "/x", source, scheduler=thread_client, compute_kwargs={"retries": 2})
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], DATA)


def test_without_retries_the_error_names_the_place_and_what_is_kept_is_resumed(path: Path, tmp_path: Path) -> None:
    source = Flaky(tmp_path / "log")
    for _ in range(2):
        with pytest.raises(SourceError, match=r"/x, buffer 3, selection \[30:40, 0:10\].*does not answer") as caught:
            to_hdf5(path, "/x", source, scheduler="synchronous", resume=True)
        assert "resume=True" in caught.value.__notes__[0]
        kept = dask_chunkio.status(path)
        assert kept is not None
        assert kept.datasets[0].committed == 6
    to_hdf5(path, "/x", source, scheduler="synchronous", resume=True)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], DATA)
