"""The leases of the processes that write."""

import dataclasses
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dask_chunkio.storage.activity import lease as lease_module
from dask_chunkio.storage.activity.lease import Lease, create_lease, leases_in, process_start
from dask_chunkio.storage.activity.limits import DEFAULT_SECONDS, MOST_SECONDS
from dask_chunkio.storage.filesystem import boot as boot_module
from dask_chunkio.storage.filesystem.boot import boot_id
from dask_chunkio.storage.journal.records import FINISHED, LEASE, pack_record
from tests.support.processes import wait_until

KILLED_AS_IT_CREATES = """
import os, signal, sys
from dask_chunkio.storage.activity import lease
lease.pwrite_all = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
lease.create_lease(sys.argv[1], lease.Lease.here("write", "", 30.0))
"""


def test_a_lease_is_read_back(tmp_path: Path) -> None:
    lease = Lease.here("write", "tcp://127.0.0.1:1", 30.0)
    path = create_lease(str(tmp_path), lease)
    (seen,) = leases_in(str(tmp_path))
    assert (seen.path, seen.lease) == (path, lease)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_process_that_is_killed_as_it_creates_its_lease_leaves_none(tmp_path: Path) -> None:
    """One without content would be believed in: it does not say which process is dead."""
    killed = subprocess.run([sys.executable, "-c", KILLED_AS_IT_CREATES, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir())
    assert leases_in(str(tmp_path)) == []


def test_a_lease_that_cannot_be_written_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again and again: on a disk that stays full, files would pile up."""

    def no_space(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lease_module, "pwrite_all", no_space)
    with pytest.raises(OSError, match="No space"):
        create_lease(str(tmp_path), Lease.here("write", "", 30.0))
    assert not list(tmp_path.iterdir())


HERE = dataclasses.asdict(Lease.here("write", "", 30.0))


def record(**changed: Any) -> bytes:
    return pack_record(LEASE, json.dumps({**HERE, **changed}).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        record()[:-1],
        record()[:-1] + b"?",
        pack_record(FINISHED, b""),
        pack_record(LEASE, b"[]"),
        pack_record(LEASE, b"{}"),
        pack_record(LEASE, b"[" * 100_000),
        record(unknown=1),
        record(write_id=3),
        record(pid="7"),
        record(pid=True),
        record(seconds="long"),
        record(seconds=None),
    ],
)
def test_a_lease_that_cannot_be_read_is_one_of_nobody_known(tmp_path: Path, data: bytes) -> None:
    """Whoever wrote it may still be at work: it is valid for as long as any is by default."""
    (tmp_path / "lease-0123").write_bytes(data)
    (seen,) = leases_in(str(tmp_path))
    assert (seen.lease, seen.seconds, str(seen)) == (None, DEFAULT_SECONDS, "a process")


@pytest.mark.parametrize(("seconds", "expected"), [(-5, 0.0), (1e9, MOST_SECONDS), (20, 20.0)])
def test_no_lease_is_valid_for_ever(tmp_path: Path, seconds: float, expected: float) -> None:
    (tmp_path / "lease-0123").write_bytes(record(seconds=seconds))
    (seen,) = leases_in(str(tmp_path))
    assert seen.seconds == expected


def test_a_system_that_does_not_show_its_processes_as_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: macOS has no `/proc`."""

    def refuse(path: str, **_: Any) -> Any:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    monkeypatch.setattr(lease_module, "open", refuse, raising=False)
    monkeypatch.setattr(boot_module, "open", refuse, raising=False)
    boot_id.cache_clear()
    try:
        assert boot_id().startswith(socket.gethostname()[:64])
        lease = Lease.here("write", "", 30.0)
        assert lease.is_of_live_process
        assert not dataclasses.replace(lease, boot="another").is_of_live_process
        with subprocess.Popen([sys.executable, "-c", ""]) as child:
            wait_until(lambda: process_start(child.pid) == "", "a dead process that nobody has waited for is dead")
        assert process_start(child.pid) == ""
        assert not dataclasses.replace(lease, pid=child.pid).is_of_live_process
    finally:
        boot_id.cache_clear()


def test_a_process_that_ends_as_it_is_looked_at_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self) -> str:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    assert process_start(os.getpid()) != ""
    monkeypatch.setattr(lease_module, "open", lambda *_, **__: Ended(), raising=False)
    assert process_start(os.getpid()) == ""
