"""The scheduler's lock around a transaction, and word of what is committed."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import FrameType

from dask.local import batch_execute_tasks, get_async
from distributed import Lock, Worker, get_worker, secede

__all__ = [
    "ProgressReport",
    "ReportListener",
    "is_held",
    "leave_threads",
    "listen",
    "pauses",
    "progress_topic",
    "report",
    "scheduler_address",
    "spans_hosts",
    "transaction_lock",
    "worker_threads",
]

# Number of the dataset, number of the buffer, its bytes.
ProgressReport = tuple[int, int, int]
ReportListener = Callable[[ProgressReport], None]
_listeners: dict[str, ReportListener] = {}


def transaction_lock(write_id: str) -> Callable[[], AbstractContextManager[object]]:
    """Return what gives the lock of one write.

    On a cluster that is the scheduler's lock, which also holds where a file system's locks do
    not reach other hosts.  It has a lease and can be held twice: `flock` on the file stands
    beside it.  Call this in a task's own thread.
    """
    if not _in_worker():
        return contextlib.nullcontext
    lock = Lock(f"dask_chunkio-{write_id}")
    return lambda: lock


def is_held(key: str) -> bool:
    """Say whether a graph with this key is being run here, or its value is kept by a worker for one.

    A value that was computed can live on in the traceback of an error when its graph is long given up; and a
    worker that is short of memory has it on disk.
    """
    return any(key in worker.data for worker in list(Worker._instances)) or any(
        _is_of_graph(frame, key) for frame in _running_frames()
    )


def _is_of_graph(frame: FrameType, key: str) -> bool:
    """Say whether a call of dask's local schedulers is for a graph with this key."""
    if frame.f_code is get_async.__code__:
        return key in frame.f_locals["dsk"]
    # A worker process hands on what it has computed when all tasks of a batch are done.
    if frame.f_code is batch_execute_tasks.__code__:
        return any(arguments[0] == key for arguments in frame.f_locals["it"])
    return False


def _running_frames() -> Iterator[FrameType]:
    for top in sys._current_frames().values():
        frame: FrameType | None = top
        while frame is not None:
            yield frame
            frame = frame.f_back


def scheduler_address() -> str:
    """Return the address of the scheduler whose worker runs this task; empty where none does."""
    return str(get_worker().scheduler.address) if _in_worker() else ""


def spans_hosts() -> bool:
    """Say whether workers of other hosts may run tasks of the same graph.

    A worker that listens on this host alone has no others.
    """
    if not _in_worker():
        return False
    scheme, _, place = str(get_worker().address).partition("://")
    host = place.rpartition(":")[0].strip("[]")
    return scheme != "inproc" and host != "localhost" and not host.startswith("127.") and host != "::1"


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
def listen(write_id: str, listener: ReportListener):  # type: ignore[no-untyped-def]
    """Have `hearer` told of buffers committed by tasks in this process."""
    _listeners[write_id] = listener
    try:
        yield
    finally:
        _listeners.pop(write_id, None)


def report(write_id: str, word: ProgressReport) -> None:
    """Tell the client of a buffer that is committed."""
    listener = _listeners.get(write_id)
    if listener is not None:
        listener(word)
    elif _in_worker():
        get_worker().log_event(progress_topic(write_id), word)


def _in_worker() -> bool:
    try:
        get_worker()
    except ValueError:
        return False
    return True
