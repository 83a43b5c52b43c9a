"""Keepalives: objects that keep a write alive while a process holds its task graph.

The arguments of every task of a write include a `Keepalive`.  While one is in the memory of a process (a worker
that keeps it for later tasks, or the process that computes the graph), that process shares the activity lock of
the write and renews a lease beside it.  So the write also counts as alive during all work upstream of it, on any
host.  One thread in each process looks after all of its writes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dask_chunkio.printable import printable
from dask_chunkio.storage.activity.activity_lock import ActivityLock
from dask_chunkio.storage.activity.lease import Lease, create_lease, leases_in, remove_lease, renew_lease
from dask_chunkio.storage.filesystem.descriptors import in_child
from dask_chunkio.storage.filesystem.side_folder import is_kept_by_open_files

__all__ = ["Held", "Keepalive", "attend", "close_files", "let_go", "look", "remove_leases", "scheduler_of", "settle"]

logger = logging.getLogger("dask_chunkio")

# Interval at which the thread checks whether a write is still held, in seconds.
_TICK = 0.5
# How long a thread waits for another thread that closes a write, in seconds.  Closing may wait for a transaction.
_LONGEST_CLOSING = 2.5
# How many times a lease is renewed during its period of validity.
_RENEWALS = 6
_MOST_ENDED = 10_000


@dataclass(frozen=True, slots=True)
class Held:
    """A write as the processes that hold it know it.

    Parameters
    ----------
    folder, lock : str
        The folder beside the target, and the file in it whose lock is shared.
    write_id : str
        Identifier of the call.
    key : str
        Key of the graph under which the scheduler keeps the arguments that all tasks share.
    is_held : callable
        Takes a key; returns whether this process runs a graph with that key, or keeps its value for one.
    scheduler : str
        Address of the cluster's scheduler; empty for a process without a cluster.
    seconds : float
        How long the lease is valid after its last renewal.
    """

    folder: str
    lock: str
    write_id: str
    key: str
    is_held: Callable[[str], bool]
    scheduler: str = ""
    seconds: float = 30.0


class Keepalive:
    """A sign that a write is alive, for as long as this object or an unpickled copy of it exists.

    Parameters
    ----------
    held : Held
        The write.
    has_begun : bool
        Whether the folder of the write exists already; otherwise `announce` and `share` are called when it does.
    """

    def __init__(self, held: Held, has_begun: bool = True) -> None:
        self._held = held
        _activities.hold(self, held, has_begun)

    def __reduce__(self) -> tuple[Any, ...]:
        return Keepalive, (self._held,)

    def announce(self) -> None:
        """Begin the lease; to be called once this call has the right to the write."""
        if (activity := _activities.find(self._held.write_id)) is not None:
            activity.announce()

    def give_up(self) -> None:
        """Stop keeping the write alive, because it could not begin.

        Its lease is removed at once: if this process ended first, other calls would wait for the lease to run out.
        """
        if (activity := _activities.find(self._held.write_id)) is not None:
            activity.handles.discard(self)
            _activities.drop_if_dead(activity, is_over=False)

    def share(self) -> None:
        """Share the activity lock from now on."""
        if (activity := _activities.find(self._held.write_id)) is not None:
            activity.share()


class _Activity:
    """The lock and the lease with which this process shows that one write is alive."""

    def __init__(self, held: Held, has_begun: bool) -> None:
        self.held = held
        self.handles: weakref.WeakSet[Keepalive] = weakref.WeakSet()
        self._has_begun = has_begun
        self._was_held = False
        self._activity_lock: ActivityLock | None = None
        self._is_shared = False
        self._lease = ""
        self._renewed = 0.0
        self._counter = 0
        self._is_over = False
        self._lock = threading.Lock()

    @property
    def is_alive(self) -> bool:
        """Whether tasks that need the write may still come.

        A `Keepalive` may outlive its graph in the traceback of an error, or on the disk of a worker that spilled it.
        So `Held.is_held` decides, once it has ever returned True.
        """
        is_held = self.held.is_held(self.held.key)
        self._was_held = self._was_held or is_held
        return is_held or (not self._was_held and bool(self.handles)) or _is_used(self.held.write_id)

    @property
    def is_lost(self) -> bool:
        """Whether another process removed the lease: the call is over, or another call has taken the write over."""
        return bool(self._lease) and not os.path.exists(self._lease)

    def announce(self) -> None:
        with self._lock:
            if not self._is_over:
                self._renew()

    def look(self) -> None:
        """Note, from inside a task, that this process runs the graph of the write.

        A graph may end before the thread checks it.  A `Keepalive` that is left in the traceback of an error must not
        count as a graph then.
        """
        if not self._was_held:
            self._was_held = self.held.is_held(self.held.key)

    def share(self) -> None:
        self.look()
        with self._lock:
            self._has_begun = True
            if not self._is_over:
                self._share()

    def look_after(self) -> None:
        """Share the lock if it is not shared yet, and renew the lease if it is due."""
        with self._lock:
            if self._is_over or not self._has_begun:
                return
            if not self._is_shared:
                self._share()
            if time.monotonic() - self._renewed >= self.held.seconds / _RENEWALS:
                self._renew()

    def close(self) -> None:
        """Remove the lease, and release the lock."""
        with self._lock:
            self._is_over = True
            if self._lease:
                remove_lease(self._lease)
            if self._activity_lock is not None:
                self._activity_lock.close()
                self._activity_lock = None

    def _share(self) -> None:
        # The tasks report a missing folder or a full disk, not this thread.
        with contextlib.suppress(OSError):
            if self._activity_lock is None:
                self._activity_lock = ActivityLock(self.held.lock, create=False)
            self._is_shared = self._activity_lock.try_share()

    def _renew(self) -> None:
        lease = Lease.here(self.held.write_id, self.held.scheduler, self.held.seconds)
        with contextlib.suppress(OSError):
            if self._lease:
                self._counter += 1
                renew_lease(self._lease, lease.at(self._counter))
            else:
                self._lease = create_lease(self.held.folder, lease)
            self._renewed = time.monotonic()


class _Activities:
    """The writes that this process keeps alive.  No I/O happens while their lock is held."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Reset to an empty state, with a new lock that no thread holds."""
        self._by_id: dict[str, _Activity] = {}
        # In insertion order, so that the oldest can be removed first.
        self._ended: dict[str, None] = {}
        # Writes whose lease another process has removed: over, unless their call begins again.
        self._lost: dict[str, None] = {}
        # Activities that are no longer found by their id, and whose locks and leases another thread is closing.
        self._closing: list[_Activity] = []
        self._lock = threading.RLock()
        # The thread waits for copies that come with tasks; those who close and wait for one another do not wake it.
        self._came = threading.Condition(self._lock)
        self._closed_one = threading.Condition(self._lock)
        self._is_due = False
        self._thread: threading.Thread | None = None

    def hold(self, handle: Keepalive, held: Held, has_begun: bool) -> None:
        with self._lock:
            if not has_begun:
                self._lost.pop(held.write_id, None)
            if held.write_id in self._ended or held.write_id in self._lost:
                return
            if held.write_id not in self._by_id:
                self._by_id[held.write_id] = _Activity(held, has_begun)
            self._by_id[held.write_id].handles.add(handle)
            # The call that begins a write shares its lock itself; a copy has only the thread.
            self._is_due = self._is_due or has_begun
            if self._thread is None:
                self._thread = threading.Thread(target=self._look_after, name="dask_chunkio-keepalive", daemon=True)
                self._thread.start()
            elif has_begun:
                self._came.notify_all()

    def find(self, write_id: str) -> _Activity | None:
        with self._lock:
            return self._by_id.get(write_id)

    def in_folder(self, folder: str) -> list[_Activity]:
        with self._lock:
            return [one for one in self._by_id.values() if one.held.folder == folder]

    def end(self, write_id: str) -> None:
        """End a write for good, even while `Keepalive` objects of it exist."""
        with self._lock:
            _remember(self._ended, write_id)
        self.close_files(write_id)

    def close_files(self, write_id: str) -> None:
        """Close the lock and the lease of a write that is over; its `Keepalive` objects may remain."""
        with self._lock:
            activity = self._by_id.pop(write_id, None)
            if activity is None:
                return
            self._closing.append(activity)
        with self._closed(activity):
            activity.close()

    @contextlib.contextmanager
    def _closed(self, activity: _Activity) -> Iterator[None]:
        try:
            yield
        finally:
            with self._lock:
                self._closing.remove(activity)
                self._closed_one.notify_all()

    def wait_closed(self, folder: str, seconds: float) -> None:
        """Wait until other threads have closed the writes in a folder that they have begun to close."""
        with self._lock:
            self._closed_one.wait_for(lambda: all(one.held.folder != folder for one in self._closing), seconds)

    def drop_if_dead(self, activity: _Activity, is_over: bool = True) -> bool:
        """Close a write that this process no longer needs, and return whether it did.

        If its lease was removed, the write is registered again only if its call begins again; `is_over` is False if
        that is what the call is about to do.
        """
        write_id, is_lost = activity.held.write_id, activity.is_lost
        with self._lock:
            if not is_lost and activity.is_alive:
                return False
            if self._by_id.get(write_id) is activity:
                del self._by_id[write_id]
                if is_lost and is_over:
                    _remember(self._lost, write_id)
            self._closing.append(activity)
        with self._closed(activity):
            is_kept = is_kept_by_open_files(activity.held.folder)
            activity.close()
            _release(write_id)
            if is_kept:
                with contextlib.suppress(OSError):
                    os.rmdir(activity.held.folder)
        return True

    def _look_after(self) -> None:
        while found := self._next():
            while found:
                activity = found.pop()
                try:
                    if not self.drop_if_dead(activity):
                        activity.look_after()
                except Exception:
                    logger.exception("the lease of %s was not renewed", printable(activity.held.folder))
            del activity

    def _next(self) -> list[_Activity]:
        """Wait for the next tick or copy; return the writes to look after.  The thread ends if there are none."""
        with self._lock:
            if not self._is_due:
                self._came.wait(_TICK)
            self._is_due = False
            found = list(self._by_id.values())
            if not found:
                self._thread = None
            return found


def _remember(found: dict[str, None], write_id: str) -> None:
    found[write_id] = None
    if len(found) > _MOST_ENDED:
        del found[next(iter(found))]


_activities = _Activities()
# A forked child keeps nothing alive: the locks and leases belong to its parent.
in_child(_activities.forget)


def let_go(write_id: str) -> None:
    """End a write in this process, even while `Keepalive` objects of it exist."""
    _activities.end(write_id)


def scheduler_of(write_id: str) -> str:
    """Return the address of the scheduler that runs a write of this process; empty without one."""
    activity = _activities.find(write_id)
    return activity.held.scheduler if activity is not None else ""


def close_files(write_id: str) -> None:
    """Close the lock and the lease of a write that is over in this process."""
    _activities.close_files(write_id)


def settle(folder: str, write_id: str = "") -> bool:
    """Close the writes in a folder whose graphs no longer run; return whether this process holds any other write there.

    `write_id` names the caller's own write, which is not checked.
    """
    others = [one for one in _activities.in_folder(folder) if one.held.write_id != write_id]
    held = [one for one in others if not _activities.drop_if_dead(one)]
    _activities.wait_closed(folder, _LONGEST_CLOSING)
    return bool(held)


def look(write_id: str) -> None:
    """Note, from inside a task, that this process runs the graph of a write."""
    if (activity := _activities.find(write_id)) is not None:
        activity.look()


def remove_leases(folder: str, write_id: str) -> None:
    """Remove every lease of a write that is over.

    Otherwise the leases of dead workers would stay valid for a while.
    """
    for seen in leases_in(folder):
        if seen.lease is not None and seen.lease.write_id == write_id:
            remove_lease(seen.path)


# Set through `attend` by the module that keeps the files of writes open.
_is_used: Callable[[str], bool] = lambda _: False  # noqa: E731
_release: Callable[[str], None] = lambda _: None  # noqa: E731


def attend(is_used: Callable[[str], bool], release: Callable[[str], None]) -> None:
    """Register the functions which tell whether tasks of a write run (`is_used`), and close its files (`release`)."""
    global _is_used, _release
    _is_used, _release = is_used, release
