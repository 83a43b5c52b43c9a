"""A write is alive for as long as some process holds its graph.

What every task of a write is given holds a `Keepalive`.  While one is in the memory of a process, of
a worker that keeps it for tasks to come or of whoever computes the graph, that process shares the
lock of the write and renews a lease beside it: through all of the work upstream of the write, on any
host.  A thread of each process looks after all of its writes.
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

# How often the thread looks whether a write is still held, in seconds.
_TICK = 0.5
# How long one thread waits for another one that lets go of a write, in seconds: that may wait for a transaction.
_LONGEST_CLOSING = 2.5
# Of its time, a lease is renewed so often.
_RENEWALS = 6
_MOST_ENDED = 10_000


@dataclass(frozen=True, slots=True)
class Held:
    """A write as a process holds it.

    Parameters
    ----------
    folder, lock : str
        The folder beside the target, and the file in it whose lock is shared.
    write_id : str
        Of the call.
    key : str
        Under which whoever runs the graph knows what all tasks are given.
    is_held : callable
        Says of a key whether somebody in this process runs a graph with it, or keeps its value for one.
    scheduler : str
        Of the cluster; empty for a process of its own.
    seconds : float
        How long the lease is believed in.
    """

    folder: str
    lock: str
    write_id: str
    key: str
    is_held: Callable[[str], bool]
    scheduler: str = ""
    seconds: float = 30.0


class Keepalive:
    """Keeps a write alive for as long as this object lives, also where it was unpickled.

    Parameters
    ----------
    held : Held
        The write.
    has_begun : bool
        Whether the write has its folder; if not, `announce` and `share` say so.
    """

    def __init__(self, held: Held, has_begun: bool = True) -> None:
        self._held = held
        _activities.hold(self, held, has_begun)

    def __reduce__(self) -> tuple[Any, ...]:
        return Keepalive, (self._held,)

    def announce(self) -> None:
        """Begin the lease: its owner has the right to the write."""
        if (activity := _activities.find(self._held.write_id)) is not None:
            activity.announce()

    def give_up(self) -> None:
        """Keep nothing alive any more: the write could not begin."""
        if (activity := _activities.find(self._held.write_id)) is not None:
            activity.handles.discard(self)

    def share(self) -> None:
        """Share the lock from now on."""
        if (activity := _activities.find(self._held.write_id)) is not None:
            activity.share()


class _Activity:
    """What this process does for one write to be seen alive."""

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
        """Whether tasks may come that need the write.

        An object may outlive its graph in the traceback of an error; and a worker's memory may hold it on disk.
        So whoever runs the graph is asked, where one was ever seen to.
        """
        is_held = self.held.is_held(self.held.key)
        self._was_held = self._was_held or is_held
        return is_held or (not self._was_held and bool(self.handles)) or _is_used(self.held.write_id)

    @property
    def is_lost(self) -> bool:
        """Whether somebody has removed the lease: the call is over, or another one has taken the write over."""
        return bool(self._lease) and not os.path.exists(self._lease)

    def announce(self) -> None:
        with self._lock:
            if not self._is_over:
                self._renew()

    def look(self) -> None:
        """Note that whoever runs the graph holds the write, from inside a task of it.

        A graph may be over before the thread looks: an object that is left in an error's traceback is none.
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
        """Share the lock, and renew the lease in time."""
        with self._lock:
            if self._is_over or not self._has_begun:
                return
            if not self._is_shared:
                self._share()
            if time.monotonic() - self._renewed >= self.held.seconds / _RENEWALS:
                self._renew()

    def close(self) -> None:
        """Let the write go."""
        with self._lock:
            self._is_over = True
            if self._lease:
                remove_lease(self._lease)
            if self._activity_lock is not None:
                self._activity_lock.close()
                self._activity_lock = None

    def _share(self) -> None:
        # A folder that is gone, a disk that is full: tasks say that, not this thread.
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
    """The writes that this process holds; no I/O while their lock is held."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Hold nothing, with a lock that nobody has."""
        self._by_id: dict[str, _Activity] = {}
        # In order, so that the oldest can be forgotten.
        self._ended: dict[str, None] = {}
        # No longer found by their id, with locks and leases that another thread is about to remove.
        self._closing: list[_Activity] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def hold(self, handle: Keepalive, held: Held, has_begun: bool) -> None:
        with self._changed:
            if held.write_id in self._ended:
                return
            if held.write_id not in self._by_id:
                self._by_id[held.write_id] = _Activity(held, has_begun)
            self._by_id[held.write_id].handles.add(handle)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look_after, name="dask_chunkio-keepalive", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def find(self, write_id: str) -> _Activity | None:
        with self._changed:
            return self._by_id.get(write_id)

    def in_folder(self, folder: str) -> list[_Activity]:
        with self._changed:
            return [one for one in self._by_id.values() if one.held.folder == folder]

    def end(self, write_id: str) -> None:
        """Let a write go for good, whoever still has an object of it."""
        with self._changed:
            self._ended[write_id] = None
            if len(self._ended) > _MOST_ENDED:
                del self._ended[next(iter(self._ended))]
        self.close_files(write_id)

    def close_files(self, write_id: str) -> None:
        """Close the files of a write that is over; its objects may stay."""
        with self._changed:
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
            with self._changed:
                self._closing.remove(activity)
                self._changed.notify_all()

    def wait_closed(self, folder: str, seconds: float) -> None:
        """Wait until other threads have let go of the writes in a folder that they have begun to let go of."""
        with self._changed:
            self._changed.wait_for(lambda: all(one.held.folder != folder for one in self._closing), seconds)

    def drop_if_dead(self, activity: _Activity) -> bool:
        """Let a write go that nobody here needs any more; it may come again."""
        write_id, is_lost = activity.held.write_id, activity.is_lost
        with self._changed:
            if not is_lost and activity.is_alive:
                return False
            if self._by_id.get(write_id) is activity:
                del self._by_id[write_id]
                if is_lost:
                    self._ended[write_id] = None
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
        while True:
            with self._changed:
                found = list(self._by_id.values())
                if not found:
                    self._thread = None
                    return
            for activity in found:
                try:
                    if not self.drop_if_dead(activity):
                        activity.look_after()
                except Exception:
                    logger.exception("the lease of %s was not renewed", printable(activity.held.folder))
            del found, activity
            with self._changed:
                self._changed.wait(_TICK)


_activities = _Activities()
# A child holds nothing: its parent's locks and leases are its parent's.
in_child(_activities.forget)


def let_go(write_id: str) -> None:
    """End what this process does for a write, whoever still has an object of it."""
    _activities.end(write_id)


def scheduler_of(write_id: str) -> str:
    """Return the address of the scheduler that runs a write of this process, empty without one."""
    activity = _activities.find(write_id)
    return activity.held.scheduler if activity is not None else ""


def close_files(write_id: str) -> None:
    """Close the files of a write that is over in this process."""
    _activities.close_files(write_id)


def settle(folder: str, write_id: str = "") -> bool:
    """Let go of the writes in a folder whose graphs are no longer run; say whether this process holds any other.

    The one that is named is the caller's own, and not looked at.
    """
    others = [one for one in _activities.in_folder(folder) if one.held.write_id != write_id]
    held = [one for one in others if not _activities.drop_if_dead(one)]
    _activities.wait_closed(folder, _LONGEST_CLOSING)
    return bool(held)


def look(write_id: str) -> None:
    """Note, from inside a task, that whoever runs the graph of a write holds it."""
    if (activity := _activities.find(write_id)) is not None:
        activity.look()


def remove_leases(folder: str, write_id: str) -> None:
    """Remove every lease of a write that is over: those of dead workers would be believed in for a while."""
    for seen in leases_in(folder):
        if seen.lease is not None and seen.lease.write_id == write_id:
            remove_lease(seen.path)


# Set by whoever keeps files of a write open.
_is_used: Callable[[str], bool] = lambda _: False  # noqa: E731
_release: Callable[[str], None] = lambda _: None  # noqa: E731


def attend(is_used: Callable[[str], bool], release: Callable[[str], None]) -> None:
    """Have `is_used` asked whether tasks of a write run, and `release` called when this process lets it go."""
    global _is_used, _release
    _is_used, _release = is_used, release
