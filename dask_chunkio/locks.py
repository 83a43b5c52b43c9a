"""The scheduler's lock around a turn, and word of what is committed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

from distributed import Lock, get_worker

__all__ = ["Hearer", "Word", "listen", "progress_topic", "report", "turn_lock", "worker_threads"]

# Number of the dataset, number of the buffer, its bytes.
Word = tuple[int, int, int]
Hearer = Callable[[Word], None]
_hearers: dict[str, Hearer] = {}


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
def listen(write_id: str, hearer: Hearer):  # type: ignore[no-untyped-def]
    """Have `hearer` told of buffers committed by tasks in this process."""
    _hearers[write_id] = hearer
    try:
        yield
    finally:
        _hearers.pop(write_id, None)


def report(write_id: str, word: Word) -> None:
    """Tell the client of a buffer that is committed."""
    hearer = _hearers.get(write_id)
    if hearer is not None:
        hearer(word)
    elif _in_worker():
        get_worker().log_event(progress_topic(write_id), word)


def _in_worker() -> bool:
    try:
        get_worker()
    except ValueError:
        return False
    return True
