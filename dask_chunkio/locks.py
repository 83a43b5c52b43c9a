"""The scheduler's lock around a turn, and word of what is committed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

from distributed import Lock, get_worker

__all__ = ["Listener", "listen", "progress_topic", "report", "turn_lock", "worker_threads"]

Listener = Callable[[int], None]
_listeners: dict[str, Listener] = {}


def turn_lock(write_id: str) -> Callable[[], AbstractContextManager[object]]:
    """Return what gives the lock of one write.

    On a cluster that is the scheduler's lock, which also holds where a file system's locks do
    not reach other hosts.  It has a lease and can be held twice: `flock` on the file stands
    beside it.  Call this in a task's own thread.
    """
    if not _in_worker():
        return contextlib.nullcontext
    lock = Lock(f"dask_chunkio-{write_id}")
    return lambda: lock


def worker_threads(otherwise: int) -> int:
    """Return how many threads the worker has that runs this task."""
    return int(get_worker().state.nthreads) if _in_worker() else otherwise


def progress_topic(write_id: str) -> str:
    """Return the topic under which workers report."""
    return f"dask_chunkio-{write_id}"


@contextlib.contextmanager
def listen(write_id: str, listener: Listener):  # type: ignore[no-untyped-def]
    """Have `listener` told of bytes committed by tasks in this process."""
    _listeners[write_id] = listener
    try:
        yield
    finally:
        _listeners.pop(write_id, None)


def report(write_id: str, nbytes: int) -> None:
    """Tell the client that `nbytes` of the source are committed."""
    listener = _listeners.get(write_id)
    if listener is not None:
        listener(nbytes)
    elif _in_worker():
        get_worker().log_event(progress_topic(write_id), nbytes)


def _in_worker() -> bool:
    try:
        get_worker()
    except ValueError:
        return False
    return True
