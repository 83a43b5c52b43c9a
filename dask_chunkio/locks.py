"""The scheduler's lock around a turn, and word of what is committed."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from distributed import Lock, get_worker, secede

__all__ = ["Hearer", "Word", "leave_threads", "listen", "pauses", "progress_topic", "report", "turn_lock"]
__all__ += ["worker_threads"]

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


def leave_threads() -> bool:
    """Give up this task's place among a worker's threads; say whether it may wait now.

    Outside of a worker, whoever waits may have the very thread that the one waited for needs.
    """
    if not _in_worker():
        return False
    secede()
    return True


def pauses() -> Iterator[float]:
    """Return how long to wait between attempts, in seconds: longer and longer, to half a second, and never together."""
    pause = 0.02
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(2 * pause, 0.5)


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
