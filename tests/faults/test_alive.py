"""A write is alive through all of the work upstream of it, and found dead when its processes are."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import dask.array as da
import h5py
import numpy as np
import psutil
import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import SourceError, TargetBusyError
from dask_chunkio.storage.activity.lease import Lease, leases_in
from tests.support.faults import upstream_writes
from tests.support.faults.upstream_writes import DATA
from tests.support.processes import program, wait_until
from tests.support.unfinished import unfinished

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock")
KINDS = [pytest.param(kind, marks=pytest.mark.heavy) for kind in ("threads", "processes", "cluster", "compute")]


def running(kind: str, path: Path, lease: str = "2s") -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """The script, and all that it starts, until the end of the context."""
    words = "-m", "tests.support.faults.upstream_writes", kind, path, path.parent
    return program(*words, DASK_CHUNKIO__LEASE_DURATION=lease)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = psutil.Process(process.pid)
    return [found, *found.children(recursive=True)]


def wait_until_blocked(process: subprocess.Popen[str], path: Path) -> None:
    """Wait until the file is made, and nothing of the write runs but work upstream of it."""

    def is_blocked() -> bool:
        assert process.poll() is None, process.communicate()
        state = dcio.status(path)
        return state is not None and bool(state.datasets) and is_computing(path)

    wait_until(is_blocked, "it was blocked")


def is_computing(path: Path) -> bool:
    return len(list(path.parent.glob("blocked-*"))) >= 2


def counters(path: Path) -> dict[str, int]:
    return {seen.path: seen.lease.counter for seen in leases_in(f"{path}.writing") if seen.lease is not None}


def leases(path: Path) -> list[Lease]:
    return [seen.lease for seen in leases_in(f"{path}.writing") if seen.lease is not None]


def wait_until_renewed(path: Path) -> None:
    """Wait for longer than a lease is believed in."""
    first = counters(path)
    wait_until(lambda: any(first.get(one, n) + 3 <= n for one, n in counters(path).items()), "leases were renewed")


def resume(path: Path) -> None:
    upstream_writes.write(path, path.parent, "sync", resume=True)


def check(path: Path) -> None:
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], DATA)
    assert not Path(f"{path}.writing").exists()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.h5"


@pytest.mark.parametrize("kind", KINDS)
def test_a_write_that_is_busy_upstream_is_alive_and_dead_when_it_is_killed(path: Path, kind: str) -> None:
    with running(kind, path) as process:
        wait_until_blocked(process, path)
        wait_until_renewed(path)
        assert unfinished(path).running
        for call in (dcio.discard, dcio.recover, resume):
            with pytest.raises(TargetBusyError):
                call(path)
        killed = family(process)
        for one in killed:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        wait_until(lambda: not unfinished(path).running, "it was found dead")
    (path.parent / "gate").touch()
    resume(path)
    check(path)


@pytest.mark.parametrize("kind", KINDS)
def test_after_an_error_upstream_the_same_script_goes_on_at_once(path: Path, kind: str) -> None:
    """With leases of five minutes, and the error being handled."""
    (path.parent / "fail").touch()
    with running(kind, path, lease="300s") as process:
        out, error = process.communicate(timeout=100)
    assert out == "done\n", error
    check(path)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["cluster", "compute"])
def test_a_worker_that_is_lost_while_the_write_is_idle_does_not_end_it(path: Path, kind: str) -> None:
    with running(kind, path, lease="60s") as process:
        wait_until_blocked(process, path)
        # (The client holds it too.)
        lost = {lease.pid for lease in leases(path)} - {process.pid}
        for pid in lost:
            os.kill(pid, signal.SIGKILL)

        def has_another() -> bool:
            state = dcio.status(path)
            if state is None:
                return path.exists()
            assert state.running, "it looks dead"
            if {lease.pid for lease in leases(path) if lease.is_of_live_process} - lost:
                return True
            # Dask may give both workers work upstream of the write first: they go on, a block at a time.
            blocked = [one for one in path.parent.glob("blocked-*") if one.read_text() not in {"", *map(str, lost)}]
            if len(blocked) >= 2:
                blocked[0].unlink()
            return False

        wait_until(has_another, "another worker held it")
        (path.parent / "gate").touch()
        out, error = process.communicate(timeout=100)
    assert out == "done\n", error
    check(path)


def test_an_error_that_is_kept_keeps_no_write_alive(path: Path) -> None:
    """Its traceback has what the tasks were given, and the graph may be over before anybody has looked."""
    fails = da.from_array(DATA, chunks=upstream_writes.BLOCK).map_blocks(lambda _: 1 / 0, dtype=DATA.dtype)
    kept = []
    for number in range(5):
        target = path.with_name(f"{number}.h5")
        with pytest.raises(SourceError) as raised:
            dcio.to_hdf5(target, "/x", fails, compute=False, fuse=True).compute(scheduler="synchronous")
        kept.append(raised.value)
        dcio.to_hdf5(target, "/x", DATA, chunks=upstream_writes.BLOCK, resume=True, scheduler="synchronous")
        with h5py.File(target) as file:
            np.testing.assert_array_equal(file["x"][...], DATA)
