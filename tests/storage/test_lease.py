"""The leases of the processes that write."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dask_chunkio.storage.activity import lease as lease_module
from dask_chunkio.storage.activity.lease import Lease, create_lease, leases_in

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
