"""Several calls that want to take over the write of a dead process."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest

from dask_chunkio.storage import take_over as module
from dask_chunkio.storage.activity.activity_lock import ActivityLock
from dask_chunkio.storage.activity.lease import Lease, create_lease, remove_lease, renew_lease
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


@pytest.fixture
def free(dead: Target) -> Target:
    """Return a target whose folder has no lease, and whose lock nobody holds."""
    for name in os.listdir(dead.folder):
        if name.startswith("lease-"):
            remove_lease(os.path.join(dead.folder, name))
    return dead


class Waiting:
    """A clock that only waiting moves; something may happen as a call waits."""

    def __init__(self, happens: Callable[[float], object] = lambda _: None) -> None:
        self.now, self.happens = 1000.0, happens

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.happens(self.now)

    @property
    def waited(self) -> float:
        return self.now - 1000.0


def lease_of(target: Target, **changed: Any) -> tuple[Lease, str]:
    """Have a process of another host hold the write, unless it is changed."""
    lease = replace(Lease.here("theirs", "", 20.0), **{"boot": "of another host", **changed})
    return lease, create_lease(target.folder, lease)


def taken(target: Target, clock: Waiting, monkeypatch: pytest.MonkeyPatch, patience: float = 2.5) -> bool:
    monkeypatch.setattr(module, "time", clock)
    activity_lock = ActivityLock(target.lock, create=False)
    try:
        return take_over(target, activity_lock, 1, patience)
    finally:
        activity_lock.close()


def test_a_write_of_another_host_is_dead_when_its_lease_has_run_out_unchanged(
    free: Target, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the clock of that host says: only this one counts."""
    _, path = lease_of(free)
    os.utime(path, (time.time() + 100, time.time() + 100))
    clock = Waiting()
    assert taken(free, clock, monkeypatch)
    assert 20 <= clock.waited < 21
    (told,) = caplog.messages
    assert f"{free.path}: waiting up to 20 s for a sign of a process on " in told


def test_a_lease_that_another_host_renews_is_a_live_write(free: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, path = lease_of(free)
    clock = Waiting(lambda now: renew_lease(path, lease.at(1)) if now > 1005 else None)
    assert not taken(free, clock, monkeypatch)
    assert 5 <= clock.waited < 6


def test_a_lease_of_another_host_that_is_much_too_old_is_not_waited_for(
    free: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = lease_of(free)
    os.utime(path, (time.time() - 300, time.time() - 300))
    clock = Waiting()
    assert taken(free, clock, monkeypatch)
    assert clock.waited == 0


@pytest.mark.parametrize("boot", ["of another host", ""])
def test_a_call_that_does_not_wait_leaves_a_write_that_may_be_alive(
    free: Target, monkeypatch: pytest.MonkeyPatch, boot: str
) -> None:
    lease_of(free, boot=boot or Lease.here("", "", 1).boot, scheduler="tcp://127.0.0.1:1")
    clock = Waiting()
    assert not taken(free, clock, monkeypatch, patience=0)
    assert clock.waited == 0


def test_a_worker_of_this_machine_that_lives_is_waited_for_only_so_long(
    free: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler of its cluster may call it off; otherwise it goes on."""
    lease_of(free, boot=Lease.here("", "", 1).boot, scheduler="tcp://127.0.0.1:1")
    clock = Waiting()
    assert not taken(free, clock, monkeypatch)
    assert 2.5 < clock.waited < 3


def test_the_lease_of_the_call_itself_holds_it_up_for_no_time(free: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker on another host has begun its lease before this one looks."""
    lease_of(free, write_id=free.write_id)
    clock = Waiting()
    assert taken(free, clock, monkeypatch)
    assert clock.waited == 0


def test_the_clock_of_this_machine_dates_leases_where_the_lock_cannot_be_touched(
    free: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock belongs to another user."""

    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    boot, scheduler = Lease.here("", "", 1).boot, "tcp://127.0.0.1:1"
    _, path = lease_of(free, boot=boot, scheduler=scheduler, pid=2**22 + 1)
    os.utime(path, (time.time() - 30, time.time() - 30))
    monkeypatch.setattr(os, "utime", refuse)
    clock = Waiting()
    assert taken(free, clock, monkeypatch)
    assert clock.waited == 0
