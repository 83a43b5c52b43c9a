"""What runs the tasks is found as it is: event loops, clusters without workers, workers without the package, limits."""

import asyncio
import inspect
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import h5py
import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster, Scheduler, Worker

import dask_chunkio as dcio
from dask_chunkio.errors import ArgumentError, ArgumentTypeError, SourceError, WorkerError
from dask_chunkio.keywords import DatasetKeywords, WriteKeywords
from dask_chunkio.planning import planner, resources

X = np.arange(120, dtype="i4").reshape(20, 6)


def local(**keywords: Any) -> LocalCluster:
    host = {"host": "127.0.0.1"} if keywords.get("processes", True) else {}
    return LocalCluster(dashboard_address="127.0.0.1:0", **host, **keywords)


# Event loops


def test_an_asynchronous_client_computes_what_is_delayed(target: Path) -> None:
    async def write() -> Any:
        async with (
            Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address="127.0.0.1:0") as scheduler,
            Worker(scheduler.address, nthreads=1, host="127.0.0.1"),
            Client(scheduler.address, asynchronous=True) as client,
        ):
            with pytest.raises(ArgumentError, match=r"belongs to an event loop.*compute=False"):
                dcio.to_hdf5(target, "/x", X)
            assert not target.exists()
            planned = dcio.to_hdf5(target, "/x", da.from_array(X, chunks=(10, 6)), chunks=(5, 6), compute=False)
            return await client.compute(planned)

    result = asyncio.run(write())
    assert result.chunks == 4
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["x"][...], X)


# Clusters without workers


def test_a_cluster_that_has_no_workers_yet_is_waited_for(target: Path) -> None:
    with local(n_workers=0, processes=False) as cluster, Client(cluster) as client:
        cluster.scale(1)
        assert dcio.to_hdf5(target, "/x", X).nbytes == X.nbytes
        (worker,) = client.scheduler_info()["workers"].values()
        limited = resources.find_workers(memory_limit=worker["memory_limit"])
        assert resources.find_workers().memory_nbytes == limited.memory_nbytes


def test_an_adaptive_cluster_begins_a_worker(target: Path) -> None:
    with local(n_workers=0, processes=False) as cluster, Client(cluster):
        cluster.adapt(minimum=0, maximum=1, interval="20ms")
        assert dcio.to_hdf5(target, "/x", X).nbytes == X.nbytes


def test_a_cluster_that_gets_no_workers_is_given_up(target: Path) -> None:
    with (
        local(n_workers=0, processes=False) as cluster,
        Client(cluster),
        dask.config.set({"chunkio.worker-timeout": "20ms"}),
        pytest.raises(WorkerError, match=r"has had no workers for 0\.02 s.*worker-timeout"),
    ):
        dcio.to_hdf5(target, "/x", X)
    assert not os.listdir(target.parent)


WITHOUT_PACKAGE = """
import os, sys
sys.path = [one for one in sys.path if not os.path.isdir(os.path.join(one or os.getcwd(), "dask_chunkio"))]
from distributed.cli.dask_worker import main
main(args=[sys.argv[1], "--no-nanny", "--no-dashboard", "--host", "127.0.0.1", "--nthreads", "1"])
"""


def test_a_worker_without_the_package_is_named(target: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with local(n_workers=0) as cluster, Client(cluster) as client:
        command = [sys.executable, "-c", WITHOUT_PACKAGE, cluster.scheduler_address]
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as process:
            try:
                client.wait_for_workers(1, timeout=60)
                with pytest.raises(WorkerError, match=r"1 of 1 workers, the one at tcp.*cannot import dask_chunkio"):
                    dcio.to_hdf5(target, "/x", X)
            finally:
                process.kill()
    assert not target.exists()


def test_a_cluster_that_is_restarted_ends_the_call_and_the_same_call_goes_on(target: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Waits(dcio.GenericDataChunkIterator):
        def _get_data(self, selection: Any) -> Any:
            if selection[0].start and not go_on.is_set():
                begun.set()
                go_on.wait()
            return X[selection]

        def _get_maxshape(self) -> tuple[int, ...]:
            return X.shape

        def _get_dtype(self) -> np.dtype[Any]:
            return X.dtype

        def __reduce__(self) -> tuple[Any, ...]:
            # In the process of its worker, which is this one.
            return _kept, ()

    source = Waits(chunk_shape=(5, 6), buffer_shape=(5, 6))
    _sources[:] = [source]

    def restart() -> None:
        begun.wait()
        client.restart(wait_for_workers=False)
        go_on.set()

    with local(n_workers=1, threads_per_worker=1, processes=False) as cluster, Client(cluster) as client:
        restarts = threading.Thread(target=restart)
        restarts.start()
        with pytest.raises(WorkerError) as caught:
            dcio.to_hdf5(target, "/x", source)
        restarts.join()
    assert "resume=True" in "".join(caught.value.__notes__)
    assert not target.exists()
    dcio.to_hdf5(target, "/x", source, scheduler="synchronous", resume=True)
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["x"][...], X)


_sources: list[dcio.GenericDataChunkIterator] = []


def _kept() -> dcio.GenericDataChunkIterator:
    return _sources[-1]


def test_a_cluster_that_is_restarted_as_a_call_begins_ends_it_with_our_error(target: Path) -> None:
    with local(n_workers=1, threads_per_worker=1, processes=False) as cluster, Client(cluster) as client:
        submit = client.submit

        def cancelled(function: Any, *arguments: Any, **keywords: Any) -> Any:
            future = submit(function, *arguments, **keywords)
            future.cancel(force=True)
            return future

        client.submit = cancelled
        with pytest.raises(WorkerError, match=r"gave up a task of this call .* again with resume=True"):
            dcio.to_hdf5(target, "/x", X)
    assert not target.exists()


@pytest.mark.parametrize("scheduler", ["threads", "configuration", "executor", "later", "processes"])
def test_blocks_are_rechunked_where_another_scheduler_than_the_current_client_runs(
    target: Path, process_client: Client, scheduler: str
) -> None:
    """By the tasks of that scheduler: those of a rechunk by P2P run on the client's workers alone."""
    tall = np.arange(4000, dtype="i4").reshape(200, 20)
    x = da.from_array(tall, chunks=(200, 2))
    shapes: dict[str, Any] = {"chunks": (20, 20), "buffer_shape": (20, 20)}
    with process_client.as_current():
        if scheduler == "configuration":
            with dask.config.set(scheduler="threads"):
                dcio.to_hdf5(target, "/x", x, **shapes)
        elif scheduler == "later":
            dcio.to_hdf5(target, "/x", x, compute=False, **shapes).compute(scheduler="threads")
        elif scheduler == "executor":
            with ThreadPoolExecutor(2) as pool:
                dcio.to_hdf5(target, "/x", x, scheduler=pool, **shapes)
        else:
            dcio.to_hdf5(target, "/x", x, scheduler=scheduler, **shapes)
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["x"][...], tall)


# Limits


def test_a_limit_on_the_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "memory_limit", lambda: 500 << 20)
    found = resources.find_workers("threads")
    assert found.memory_nbytes <= 0.6 * (500 << 20)
    assert resources.find_workers("processes").memory_nbytes < found.memory_nbytes + 1


def test_without_a_limit_what_is_free_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "memory_limit", lambda: psutil.virtual_memory().total)
    assert resources.find_workers("threads").memory_nbytes > 0.3 * psutil.virtual_memory().available


# Words


@pytest.mark.parametrize(
    ("where", "scheduler"),
    [
        pytest.param(where, scheduler, marks=pytest.mark.heavy if (where, scheduler) == ("before", "processes") else [])
        for where in ("block", "before")
        for scheduler in ("synchronous", "threads", "processes", "thread_client")
    ],
)
def test_an_error_of_a_dask_array_names_its_dataset(
    target: Path, request: pytest.FixtureRequest, scheduler: str, where: str
) -> None:
    scheduler = request.getfixturevalue(scheduler) if scheduler == "thread_client" else scheduler
    x = da.from_array(X, chunks=(10, 6)).map_blocks(_divides, dtype="i4", meta=X[:0])
    x = x if where == "block" else x.sum(0)
    with pytest.raises(SourceError, match=r"/x.*ZeroDivisionError") as caught:
        dcio.to_hdf5(target, "/x", x, scheduler=scheduler)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert not target.exists()


def _divides(block: Any) -> None:
    raise ZeroDivisionError(f"block of {len(block)} rows")


def test_a_misspelt_keyword_of_the_call_is_recognised(target: Path) -> None:
    with pytest.raises(ArgumentTypeError, match="did you mean 'scheduler'"):
        dcio.to_hdf5(target, "/x", X, sheduler="threads")  # type: ignore[call-overload]
    with pytest.raises(ArgumentTypeError, match="belongs to the call"):
        dcio.to_hdf5(target, {"/x": X}, encoding={"/x": {"resume": True}})  # type: ignore[typeddict-unknown-key]


def test_all_keywords_of_the_call_are_known(target: Path) -> None:
    parameters = inspect.signature(dcio.to_hdf5).parameters.values()
    of_call = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}
    typed = WriteKeywords.__annotations__.keys() - DatasetKeywords.__annotations__.keys()
    assert of_call == typed | {"compute"}
    for name in of_call:
        encoding: Any = {"/x": {name: None}}
        with pytest.raises(ArgumentTypeError, match=f"unknown keyword '{name}'; it belongs to the call"):
            dcio.to_hdf5(target, {"/x": X}, encoding=encoding)


def test_several_processes_are_refused_where_files_have_no_locks(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "HAS_LOCKS", False)
    with pytest.raises(ArgumentError, match=r"no locks between processes, so scheduler='processes' .* use .*'threads'"):
        dcio.to_hdf5(target, "/x", X, scheduler="processes")
    assert dcio.to_hdf5(target, "/x", X, scheduler="threads").nbytes == X.nbytes
