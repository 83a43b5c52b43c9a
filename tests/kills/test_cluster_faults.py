"""A process cluster that loses workers again and again, and a connection, while it writes."""

import concurrent.futures
import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import h5py
import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster

import dask_chunkio as dcio
from tests.support.gates import Gated, data, open_gate, reads
from tests.support.kills.proxy import Proxy
from tests.support.processes import environment, python, wait_until

pytestmark = pytest.mark.heavy
BUFFERS, KILLS = 120, 20


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    # The cluster looks for a worker this long after its loss, once: one that is just then lost again is given up.
    monkeypatch.setitem(dask.config.config["distributed"]["deploy"], "lost-worker-timeout", "1 hour")
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    with Client(cluster, set_as_default=False) as client:
        yield client


@contextlib.contextmanager
def writing(path: Any, client: Any, gates: Any) -> Iterator[Any]:
    """Write in a thread; what is given waits for it and looks at the file."""
    folder = path.parent
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        source = Gated(folder, BUFFERS, gates=gates)
        future = pool.submit(dcio.to_hdf5, path, "/x", source, scheduler=client, compression="gzip", progress=False)

        def finished() -> Any:
            result = future.result(120)
            with h5py.File(path) as file:
                np.testing.assert_array_equal(file["x"][...], data(BUFFERS), strict=True)
            assert os.listdir(folder).count("out.h5.writing") == 0
            return result

        try:
            yield finished
        finally:
            for gate in range(gates):
                open_gate(folder, gate)


def waiting(folder: Any, gate: Any, gates: Any) -> set[Any]:
    """The processes that wait at a gate: the last to read there."""
    found = reads(folder)
    return {process for process, buffer in found if buffer * gates // BUFFERS >= gate}


def running(client: Any, without: int = 0) -> Any:
    """The two workers' processes once both are up, the one given no longer among them; else nothing."""
    pids = sorted(client.run(os.getpid, on_error="ignore").values())
    return pids if len(pids) == 2 and without not in pids else []


def test_a_worker_is_killed_twenty_times(target: Path, client: Any) -> None:
    chosen, folder, killed = random.Random(1), target.parent, 0
    with writing(target, client, KILLS) as finished:
        for gate in range(KILLS):
            wait_until(lambda gate=gate: waiting(folder, gate, KILLS))
            # A nanny gives up a worker that dies while it starts: the next is killed when both are up.
            pids = wait_until(lambda killed=killed: running(client, without=killed))
            killed = chosen.choice(pids)
            os.kill(killed, signal.SIGKILL)
            open_gate(folder, gate)
        finished()
    # On a worker of one thread, one buffer is in flight.
    assert len(reads(folder)) <= BUFFERS + KILLS


def test_an_adaptive_cluster_grows_and_shrinks(target: Path, cluster: Any, client: Any) -> None:
    folder, gates = target.parent, 3
    cluster.adapt(minimum=1, maximum=3, interval="100ms", wait_count=1)
    with writing(target, client, gates) as finished:
        wait_until(lambda: len(waiting(folder, 0, gates)) == 3)
        open_gate(folder, 0)
        wait_until(lambda: len(waiting(folder, 1, gates)) == 3)
        cluster.adapt(minimum=1, maximum=1, interval="100ms", wait_count=1)
        wait_until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 1)
        open_gate(folder, 1)
        wait_until(lambda: waiting(folder, 2, gates))
        cluster.adapt(minimum=2, maximum=3, interval="100ms", wait_count=1)
        open_gate(folder, 2)
        finished()
    # Two workers were in the middle of a buffer when they were let go.
    assert len(reads(folder)) <= BUFFERS + 2


def test_workers_are_retired(target: Path, cluster: Any, client: Any) -> None:
    folder, gates = target.parent, 6
    cluster.scale(2 + gates)
    client.wait_for_workers(2 + gates, timeout=60)
    with writing(target, client, gates) as finished:
        for gate in range(gates):
            wait_until(lambda gate=gate: waiting(folder, gate, gates))
            leaving = next(iter(client.scheduler_info(n_workers=-1)["workers"]))
            open_gate(folder, gate)
            client.retire_workers([leaving])
            wait_until(lambda leaving=leaving: leaving not in client.scheduler_info(n_workers=-1)["workers"])
        finished()
    assert len(reads(folder)) <= BUFFERS + 2 * gates


@pytest.fixture
def proxied(client: Any, cluster: Any, tmp_path: Path) -> Iterator[Any]:
    """Two workers in place of the first, that reach the scheduler through a proxy.

    A worker that loses its connection ends, with its nanny; here, as a batch system does, another is begun.
    """
    proxy = Proxy(int(cluster.scheduler_address.rpartition(":")[2]))
    before = list(client.scheduler_info(n_workers=-1)["workers"])
    command = python("-m", "distributed.cli.dask_worker", f"tcp://127.0.0.1:{proxy.port}", "--nthreads", 1,
                     "--no-dashboard", "--host", "127.0.0.1", "--local-directory", tmp_path)  # fmt: skip
    script = 'while :; do "$@"; done'
    workers = [
        subprocess.Popen(
            ["sh", "-c", script, "-", *command], env=environment(), stderr=subprocess.DEVNULL, start_new_session=True
        )
        for _ in range(2)
    ]
    try:
        client.wait_for_workers(4, timeout=60)
        client.retire_workers(before)
        wait_until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 2)
        yield proxy
    finally:
        for worker in workers:
            children = psutil.Process(worker.pid).children(recursive=True)
            os.killpg(worker.pid, signal.SIGKILL)
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            worker.wait()
        proxy.close()


def test_the_workers_connections_are_cut_and_restored(target: Path, client: Any, proxied: Any) -> None:
    folder, gates = target.parent, 2
    with writing(target, client, gates) as finished:
        for gate in range(gates):
            wait_until(lambda gate=gate: waiting(folder, gate, gates))
            proxied.cut()
            wait_until(lambda: not client.scheduler_info(n_workers=-1)["workers"])
            proxied.restore()
            wait_until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 2)
            open_gate(folder, gate)
        finished()
    assert len(reads(folder)) <= BUFFERS + 2 * gates


@pytest.mark.usefixtures("client")
def test_the_clients_connection_is_cut_and_restored(target: Path, cluster: Any) -> None:
    """The scheduler forgets what a lost client asked for; the write is handed to it again."""
    folder, gates = target.parent, 3
    proxy = Proxy(int(cluster.scheduler_address.rpartition(":")[2]))
    with (
        contextlib.closing(proxy),
        Client(f"tcp://127.0.0.1:{proxy.port}", set_as_default=False) as far,
        writing(target, far, gates) as finished,
    ):
        for gate in range(gates):
            wait_until(lambda gate=gate: waiting(folder, gate, gates))
            proxy.cut()
            wait_until(lambda: far.status == "connecting")
            proxy.restore()
            open_gate(folder, gate)
            wait_until(lambda: far.status == "running")
        finished()
    assert len(reads(folder)) <= BUFFERS + 2 * gates
