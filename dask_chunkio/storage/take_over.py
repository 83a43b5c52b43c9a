"""Take over a write, only if the process that wrote it is dead or has released it."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import dataclass
from typing import Protocol

from dask_chunkio.printable import printable
from dask_chunkio.storage.activity.activity_lock import ActivityLock, opened_activity_lock
from dask_chunkio.storage.activity.keepalive import scheduler_of, settle
from dask_chunkio.storage.activity.lease import SeenLease, leases_in, remove_lease

__all__ = ["LastSign", "Lockable", "last_sign", "remove_dead_leases", "take_over"]

logger = logging.getLogger("dask_chunkio")

# How long a process may take to release a write that has ended, in seconds.  Workers of the cluster that runs this
# call are told by the scheduler, and may be busy.
_GRACE = 2.5
_GRACE_OF_CLUSTER = 10.0
_PAUSE = 0.1
# A lease of another host that is older than so many times its validity is not watched: clocks differ by less.
_MUCH_OLDER = 10


class Lockable(Protocol):
    """What a process holds with an activity lock and leases: a write, or a draft."""

    @property
    def path(self) -> str:
        """The file to write."""

    @property
    def folder(self) -> str:
        """The folder of the leases."""

    @property
    def lock(self) -> str:
        """The file of the activity lock."""

    @property
    def write_id(self) -> str:
        """Identifies the call, or the holder of the draft."""


@dataclass(frozen=True, slots=True)
class LastSign:
    """When a write was last seen alive.

    Parameters
    ----------
    is_alive : bool
        Whether it counts as running.
    time : float
        Time of the last sign of life, in seconds since 1970; 0 without any.
    """

    is_alive: bool
    time: float


def last_sign(target: Lockable) -> LastSign:
    """Return whether a process works on a write, as far as one check can tell, and when that was last seen."""
    if not os.path.exists(target.lock):
        return LastSign(False, 0.0)
    settle(target.folder)
    with opened_activity_lock(target.lock) as activity_lock:
        if not activity_lock.take_alone(1):
            return LastSign(True, time.time())
        leases = leases_in(target.folder)
    # Use this machine's clock: to read the clock of the file system, a file would have to be written.
    is_alive = any(_rest(one, time.time()) > 0 for one in leases)
    return LastSign(is_alive, max((one.modified for one in leases), default=0.0))


def take_over(target: Lockable, activity_lock: ActivityLock, looks: int, patience: float = _GRACE) -> bool:
    """Take the activity lock of a write exclusively, as soon as no process works on the write any more.

    Processes that may work where the locks of this machine do not reach are waited for: until their lease
    is renewed, or has run out.

    Parameters
    ----------
    target : Lockable
        The write.
    activity_lock : ActivityLock
        The lock to take.
    looks : int
        As for `ActivityLock.take_alone`.
    patience : float
        Seconds to wait for processes that hold the lock all the time and may be about to release it; 0 not to wait.

    Returns
    -------
    bool
        Whether this process holds the activity lock exclusively now.
    """
    watched = _Watched(target)
    begun = held_since = time.monotonic()
    while True:
        # Only this process can tell that its own `Keepalive` has outlived its graph, but a worker learns that late.
        is_ours = settle(target.folder, target.write_id) and not scheduler_of(target.write_id)
        if activity_lock.take_alone(looks):
            rest = watched.rest()
            if rest <= 0:
                return True
            activity_lock.release()
            if watched.has_moved or not patience:
                return False
            if _is_over(begun, patience, target) and not watched.waits:
                return False
            # Another call that waits for the same lease holds the lock for a moment only.
            held_since = time.monotonic()
        elif is_ours or _is_over(held_since, patience, target):
            return False
        time.sleep(_PAUSE)


def _is_over(since: float, patience: float, target: Lockable) -> bool:
    """Return whether the holders of the lock have had enough time to release it."""
    waited = time.monotonic() - since
    longest = _GRACE_OF_CLUSTER if patience and _is_of_this_cluster(target) else patience
    return waited > longest


def _is_of_this_cluster(target: Lockable) -> bool:
    mine = scheduler_of(target.write_id)
    found = (seen.lease for seen in leases_in(target.folder))
    return bool(mine) and any(lease is not None and lease.scheduler == mine for lease in found)


def remove_dead_leases(target: Lockable) -> None:
    """Remove the leases of other calls after a take-over.

    A process of such a call that was only stopped then finds that its call is over.
    """
    for seen in leases_in(target.folder):
        if seen.lease is None or seen.lease.write_id != target.write_id:
            remove_lease(seen.path)


class _Watched:
    """The leases of a write that a call wants to take over."""

    def __init__(self, target: Lockable) -> None:
        self._target = target
        self._first: dict[str, tuple[bytes, float]] = {}
        self._is_told = False
        self.has_moved = False
        self.waits = False

    def rest(self) -> float:
        """Return the seconds until all leases have run out, as far as is known yet."""
        now, rest = _now_at(self._target.lock), 0.0
        self.waits = False
        for seen in leases_in(self._target.folder):
            if seen.lease is not None and seen.lease.write_id == self._target.write_id:
                continue
            if (mine := self._rest_of(seen, now)) > 0:
                self._tell(seen, mine, now)
                self.waits |= not (seen.lease is not None and seen.lease.is_of_live_process)
            rest = max(rest, mine)
        return rest

    def _rest_of(self, seen: SeenLease, now: float) -> float:
        data, since = self._first.setdefault(seen.path, (seen.data, time.monotonic()))
        if data != seen.data:
            self.has_moved = True
        rest = _rest(seen, now)
        if seen.lease is not None and seen.lease.is_of_this_boot:
            return rest
        # The clock of another host may differ: watch its lease for its period of validity, unless it is much older.
        if now - seen.modified > _MUCH_OLDER * seen.seconds:
            return 0.0
        return max(0.0, since + seen.seconds - time.monotonic())

    def _tell(self, seen: SeenLease, rest: float, now: float) -> None:
        if not self._is_told and not self.has_moved:
            self._is_told = True
            logger.warning(
                "%s: waiting up to %.0f s for a sign of %s, last seen %.0f s ago, which may still be writing it",
                printable(self._target.path), rest, printable(seen), max(0.0, now - seen.modified),
            )  # fmt: skip


def _rest(seen: SeenLease, now: float) -> float:
    """Return for how many seconds a lease is still valid."""
    rest = max(0.0, min(seen.modified - now, 0.0) + seen.seconds)
    if seen.lease is not None and seen.lease.is_of_this_boot and not seen.lease.scheduler:
        return rest if seen.lease.is_of_live_process else 0.0
    return rest


def _now_at(path: str) -> float:
    """Return the time by the clock of the file system, which also dates the renewals of leases."""
    with contextlib.suppress(OSError):
        os.utime(path)
        return os.stat(path).st_mtime
    return time.time()
