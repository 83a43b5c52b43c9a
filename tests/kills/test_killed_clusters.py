"""Workers, nannies, scheduler and client killed in the middle of a write, as processes of their own."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
from distributed import Client

import dask_chunkio as dcio
from tests.support.gates import BUFFER, data, open_gate, reads
from tests.support.kills.cluster_writes import BUFFERS, FREE, write
from tests.support.processes import program, wait_until

pytestmark = pytest.mark.heavy


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start Python processes that end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *words: stack.enter_context(program(*words, cwd=tmp_path, stderr=subprocess.STDOUT))


@pytest.fixture
def cluster(start: Any, tmp_path: Path) -> dict[str, Any]:
    """A scheduler and two workers with a nanny each: processes by name."""
    file = tmp_path / "scheduler.json"
    scheduler = start("-m", "distributed.cli.dask_scheduler", "--port", 0, "--host", "127.0.0.1", "--no-dashboard",
                      "--scheduler-file", file)  # fmt: skip
    wait_until(lambda: file.exists() and "address" in json.loads(file.read_text() or "{}"))
    nannies = [
        start(
            "-m",
            "distributed.cli.dask_worker",
            "--scheduler-file",
            file,
            "--nthreads",
            1,
            "--no-dashboard",
            "--host",
            "127.0.0.1",
            "--memory-limit",
            "0",
            "--local-directory",
            tmp_path,
        )
        for _ in range(2)
    ]
    return {"file": file, "scheduler": scheduler, "nanny": nannies[0]}


@pytest.fixture(params=["new", "existing"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    path = tmp_path / "out.h5"
    if request.param == "existing":
        with h5py.File(path, "w") as file:
            file["old"] = np.arange(100)
    return path


def committed(path: Any) -> Any:
    found = dcio.status(path)
    return found.datasets[0].committed if found and found.datasets else 0


def check(path: Any) -> None:
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["new/x"][...], data(BUFFERS))
        assert set(file) <= {"new", "old"}
        if "old" in file:
            np.testing.assert_array_equal(file["old"][...], np.arange(100))
    assert not path.with_name("out.h5.writing").exists()


def half_written(start: Any, cluster: Any, path: Any) -> Any:
    """Start a write, and return its process when the first half is committed."""
    client = start("-m", "tests.support.kills.cluster_writes", cluster["file"], path, path.parent)
    chunks = FREE * (BUFFER[0] // 5) * 2
    wait_until(lambda: committed(path) >= chunks - 8)
    return client


def worker_pids(cluster: Any) -> list[Any]:
    with Client(scheduler_file=str(cluster["file"])) as client:
        return list(client.run(os.getpid).values())


@pytest.mark.parametrize("victim", ["worker", "nanny"])
def test_the_write_completes_by_itself(start: Any, cluster: Any, path: Any, tmp_path: Path, victim: str) -> None:
    client = half_written(start, cluster, path)
    pid = worker_pids(cluster)[0] if victim == "worker" else cluster["nanny"].pid
    os.kill(pid, signal.SIGKILL)
    open_gate(tmp_path)
    out, _ = client.communicate(timeout=120)
    assert out.endswith("done\n"), out
    check(path)
    assert len(reads(tmp_path)) <= BUFFERS + 2, "more than the buffers in flight were read again"


@pytest.mark.parametrize(
    "ending", [("client", "threads"), ("client", "cluster"), ("scheduler", "threads"), ("everything", "threads")]
)
def test_the_write_is_resumed(start: Any, cluster: Any, path: Any, tmp_path: Path, ending: tuple[str, ...]) -> None:
    victim, again = ending
    client = half_written(start, cluster, path)
    before = committed(path)
    os.kill(client.pid, signal.SIGKILL)
    if victim != "client":
        os.kill(cluster["scheduler"].pid, signal.SIGKILL)
    if victim == "everything":
        for process in psutil.process_iter(["cmdline", "cwd"]):
            if process.info["cwd"] == str(tmp_path):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
    open_gate(tmp_path)
    (tmp_path / "reads").unlink()
    if again == "threads":
        # Workers that lost their scheduler end what they run.
        write(path, tmp_path, resume=True, wait=True, scheduler="threads")
    else:
        with Client(scheduler_file=str(cluster["file"])):
            write(path, tmp_path, resume=True, wait=True)
    check(path)
    read = len({buffer for _, buffer in reads(tmp_path)})
    assert read <= BUFFERS - before // (2 * BUFFER[0] // 5) + 2
