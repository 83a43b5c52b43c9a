"""When a write is handed on again, and when it is given up."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest
from dask.delayed import Delayed
from distributed import CancelledError, KilledWorker, Status
from distributed.scheduler import WorkerState

import dask_chunkio as dcio
from dask_chunkio.execution.graph import buffer_of, build_graph
from dask_chunkio.execution.retries import retry_while_progressing
from dask_chunkio.keywords import DatasetKeywords
from dask_chunkio.planning.planner import PreparedWrite, prepare
from dask_chunkio.planning.resources import find_workers
from dask_chunkio.results import WriteResult
from dask_chunkio.storage.target import Target

DATA = np.arange(40)


@pytest.fixture
def write(target: Path) -> PreparedWrite:
    keywords: DatasetKeywords = {"chunks": (5,), "buffer_shape": (10,)}
    return prepare(Target(str(target), "one"), ("/x", DATA), None, keywords, find_workers("synchronous"))


WORKER = WorkerState(
    address="tcp://127.0.0.1:1",
    status=Status.closed,
    pid=1,
    name=0,
    memory_limit=0,
    local_directory="",
    nanny=None,
    server_id="",
)


def killed(task: Any) -> KilledWorker:
    return KilledWorker(task, WORKER, 3)


def run(write: PreparedWrite, *errors: Any) -> WriteResult:
    """Run the tasks of one buffer for each error and raise it; then all."""
    delayed = build_graph(write.creation(exclusive=False), write.sources)
    keys = [key for key in delayed.dask if buffer_of(key, write.target.write_id, write.jobs)]
    left = list(errors)

    def compute() -> WriteResult:
        if not left:
            result: WriteResult = delayed.compute(scheduler="synchronous")
            return result
        commits, error = left.pop(0)
        for number in commits:
            (key,) = (key for key in keys if key[-1] == number)
            Delayed(key, delayed.dask, layer=key[0]).compute(scheduler="synchronous")
        raise error(keys) if callable(error) else error

    return retry_while_progressing(write, compute)


def of(number: int) -> Callable[[list[Any]], KilledWorker]:
    return lambda keys: killed(next(key for key in keys if key[-1] == number))


def test_it_goes_on_while_more_is_committed(write: PreparedWrite, target: Path) -> None:
    result = run(write, ([0], of(1)), ([1], of(0)), ([2], of(0)))
    assert result.buffers == 4
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["x"], DATA)


def test_an_attempt_without_a_commit_is_the_last(write: PreparedWrite) -> None:
    with pytest.raises(KilledWorker):
        run(write, ([0], of(1)), ([], of(2)))


def test_a_buffer_that_kills_twice_is_given_up(write: PreparedWrite) -> None:
    with pytest.raises(KilledWorker):
        run(write, ([0], of(3)), ([1], of(3)))


def test_another_task_that_kills_twice_is_given_up(write: PreparedWrite) -> None:
    with pytest.raises(KilledWorker):
        run(write, ([0], killed("upstream")), ([1], killed("upstream")))


def test_what_somebody_cancels_is_given_up(write: PreparedWrite) -> None:
    with pytest.raises(CancelledError):
        run(write, ([0], CancelledError("x cancelled for reason: user")))


@pytest.mark.parametrize("fuse", [True, False])
def test_keys_say_which_buffer_they_are_for(write: PreparedWrite, fuse: bool) -> None:
    graph = build_graph(write.creation(exclusive=False), write.sources, fuse).dask
    found = sorted(place for key in graph if (place := buffer_of(key, write.target.write_id, write.jobs)))
    assert found == sorted([(0, 0), (0, 1), (0, 2), (0, 3)] * (1 if fuse else 2))


def test_blocks_that_are_committed_are_not_computed_again(target: Path) -> None:
    """On resuming, and where a worker is lost with its receipts."""
    computed: list[int] = []

    def block(_data: Any, block_id: Any) -> Any:
        computed.append(block_id[0])
        if os.path.exists(target.with_name("fail")) and block_id == (2,):
            raise ValueError("not yet")
        return np.full(10, block_id[0])

    array = da.zeros(40, chunks=10, dtype=int).map_blocks(block, dtype=int, meta=np.empty(0, int))
    target.with_name("fail").touch()
    with pytest.raises(dcio.errors.SourceError, match=r"buffer 2.*not yet"):
        dcio.to_hdf5(target, "/x", array, scheduler="synchronous")
    target.with_name("fail").unlink()
    dcio.to_hdf5(target, "/x", array, scheduler="synchronous", resume=True)
    assert sorted(computed) == [0, 1, 2, 2, 3]
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["x"], np.repeat(range(4), 10))
