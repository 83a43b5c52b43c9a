"""Several calls that want to take over the write of a dead process."""

import fcntl
import itertools
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dask_chunkio.storage.activity.activity_lock import ActivityLock
from dask_chunkio.storage.activity.lease import Lease, create_lease
from dask_chunkio.storage.take_over import take_over
from dask_chunkio.storage.target import Target

pytestmark = pytest.mark.skipif(os.name == "nt", reason="takes locks of POSIX")


@pytest.fixture
def dead(tmp_path: Path) -> Target:
    """Return a target with the folder of a worker of a cluster that died just now: its lease is valid for 1.5 s."""
    target = Target(str(tmp_path / "out.h5"), "mine")
    os.mkdir(target.folder)
    ActivityLock(target.lock, create=True).close()
    lease = Lease.here("theirs", "tcp://127.0.0.1:1", 1.5)
    create_lease(target.folder, replace(lease, pid=2**22 + 1))
    return target


def test_a_lock_that_another_waiting_call_holds_for_a_moment_is_not_a_live_write(
    dead: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that waits for the lease takes the lock, sees that the lease is still valid, and releases the lock."""
    sleep, looks = time.sleep, itertools.count()
    with open(dead.lock, "rb+") as other:

        def hold_at_every_second_look(seconds: float) -> None:
            fcntl.flock(other, fcntl.LOCK_EX if next(looks) % 2 == 0 else fcntl.LOCK_UN)
            sleep(seconds)

        monkeypatch.setattr(time, "sleep", hold_at_every_second_look)
        activity_lock = ActivityLock(dead.lock, create=False)
        assert take_over(dead, activity_lock, 1, patience=0.3)
        activity_lock.close()


def test_a_lock_that_is_held_all_the_time_is_a_live_write(dead: Target) -> None:
    with open(dead.lock, "rb+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        activity_lock = ActivityLock(dead.lock, create=False)
        assert not take_over(dead, activity_lock, 1, patience=0.3)
        activity_lock.close()
