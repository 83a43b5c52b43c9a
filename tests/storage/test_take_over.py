"""Several calls that want to take over the write of a dead process."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from dask_chunkio.storage import take_over as module
from dask_chunkio.storage.activity.activity_lock import ActivityLock
from dask_chunkio.storage.activity.lease import Lease, create_lease
from dask_chunkio.storage.take_over import take_over
from dask_chunkio.storage.target import Target

fcntl = pytest.importorskip("fcntl", reason="takes locks of POSIX")


@pytest.fixture
def dead(tmp_path: Path) -> Target:
    """Return a target with the folder of a worker of a cluster that died just now: its lease is valid for 1.5 s."""
    target = Target(str(tmp_path / "out.h5"), "mine")
    os.mkdir(target.folder)
    ActivityLock(target.lock, create=True).close()
    lease = Lease.here("theirs", "tcp://127.0.0.1:1", 1.5)
    create_lease(target.folder, replace(lease, pid=2**22 + 1))
    return target


class Clock:
    """A clock that only waiting moves; at every second look another process holds the lock."""

    def __init__(self, other: IO[bytes]) -> None:
        self.other, self.now, self.looks = other, 0.0, 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.looks += 1
        fcntl.flock(self.other, fcntl.LOCK_EX if self.looks % 2 else fcntl.LOCK_UN)
        time.sleep(0.01)


def test_a_lock_that_another_waiting_call_holds_for_a_moment_is_not_a_live_write(
    dead: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that waits for the lease takes the lock, sees that the lease is still valid, and releases the lock."""
    with open(dead.lock, "rb+") as other:
        clock = Clock(other)
        monkeypatch.setattr(module, "time", clock)
        activity_lock = ActivityLock(dead.lock, create=False)
        assert take_over(dead, activity_lock, 1, patience=0.3)
        activity_lock.close()
    assert clock.now > 0.3, "it has not waited for longer than its patience"


def test_a_lock_that_is_held_all_the_time_is_a_live_write(dead: Target) -> None:
    with open(dead.lock, "rb+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        activity_lock = ActivityLock(dead.lock, create=False)
        assert not take_over(dead, activity_lock, 1, patience=0.3)
        activity_lock.close()
