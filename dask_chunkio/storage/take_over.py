"""Taking over a write: only when whoever wrote it is dead, or has let it go."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import dataclass

from dask_chunkio.printable import printable
from dask_chunkio.storage.activity.activity_lock import ActivityLock, opened_activity_lock
from dask_chunkio.storage.activity.keepalive import scheduler_of, settle
from dask_chunkio.storage.activity.lease import SeenLease, leases_in, remove_lease
from dask_chunkio.storage.target import Target

__all__ = ["LastSign", "last_sign", "remove_dead_leases", "take_over"]

logger = logging.getLogger("dask_chunkio")

# How long a process may take to let go of a write that has ended, in seconds; workers of the cluster that this call
# runs on hear of it from the scheduler, and may be busy.
_GRACE = 2.5
_GRACE_OF_CLUSTER = 10.0
_PAUSE = 0.1
# A lease of another host that looks so many times older than it is believed in is not watched: clocks differ by less.
_MUCH_OLDER = 10


@dataclass(frozen=True, slots=True)
class LastSign:
    """When a write was last seen alive.

    Parameters
    ----------
    is_alive : bool
        Whether it counts as running.
    time : float
        Of the last sign, in seconds since 1970; 0 without any.
    """

    is_alive: bool
    time: float


def last_sign(target: Target) -> LastSign:
    """Say whether somebody is at work on a write, as far as one look can tell."""
    if not os.path.exists(target.lock):
        return LastSign(False, 0.0)
    settle(target.folder)
    with opened_activity_lock(target.lock) as activity_lock:
        if not activity_lock.take_alone(1):
            return LastSign(True, time.time())
        leases = leases_in(target.folder)
    # By this machine's clock: to ask for the file system's, something would have to be written.
    is_alive = any(_rest(one, time.time()) > 0 for one in leases)
    return LastSign(is_alive, max((one.modified for one in leases), default=0.0))


def take_over(target: Target, activity_lock: ActivityLock, looks: int, patience: float = _GRACE) -> bool:
    """Take the activity lock on a write alone, as soon as nobody is at work on it any more.

    Whoever may be at work where this machine's locks do not reach is waited for: until its lease
    is renewed, or has run out.

    Parameters
    ----------
    target : Target
        The write.
    activity_lock : ActivityLock
        To take.
    looks : int
        As `ActivityLock.take_alone` has it.
    patience : float
        Seconds to wait for those who hold the lock, and may be about to let go; 0 not to wait for anybody.

    Returns
    -------
    bool
        Whether this process has the activity lock now, alone.
    """
    watched = _Watched(target)
    begun = time.monotonic()
    while True:
        # Only this process can know that an object of its own has outlived its graph, but a worker hears of it late.
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
        elif is_ours or _is_over(begun, patience, target):
            return False
        time.sleep(_PAUSE)


def _is_over(begun: float, patience: float, target: Target) -> bool:
    """Say whether the holders of the lock have had time to release it."""
    waited = time.monotonic() - begun
    longest = _GRACE_OF_CLUSTER if patience and _is_of_this_cluster(target) else patience
    return waited > longest


def _is_of_this_cluster(target: Target) -> bool:
    mine = scheduler_of(target.write_id)
    found = (seen.lease for seen in leases_in(target.folder))
    return bool(mine) and any(lease is not None and lease.scheduler == mine for lease in found)


def remove_dead_leases(target: Target) -> None:
    """Remove the leases of other calls, behind a taking over: who was only stopped finds that it is over."""
    for seen in leases_in(target.folder):
        if seen.lease is None or seen.lease.write_id != target.write_id:
            remove_lease(seen.path)


class _Watched:
    """The leases on a write that somebody wants to take over."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._first: dict[str, tuple[bytes, float]] = {}
        self._is_told = False
        self.has_moved = False
        self.waits = False

    def rest(self) -> float:
        """Return the seconds until all of them have run out, as far as is known yet."""
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
        # Another host's clock may differ: it is watched for the time of its lease, but for one that is much older.
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
    """Return for how many seconds a lease is still believed in."""
    rest = max(0.0, min(seen.modified - now, 0.0) + seen.seconds)
    if seen.lease is not None and seen.lease.is_of_this_boot and not seen.lease.scheduler:
        return rest if seen.lease.is_of_live_process else 0.0
    return rest


def _now_at(path: str) -> float:
    """Return the time by the clock of the file system, which says when a lease was renewed."""
    with contextlib.suppress(OSError):
        os.utime(path)
        return os.stat(path).st_mtime
    return time.time()
