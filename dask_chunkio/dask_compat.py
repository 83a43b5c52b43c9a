"""Everything of dask and distributed that is not their public API, or that needs distributed.

distributed takes a quarter of a second to import.  Who uses a cluster has imported it; where nobody has, there is no
client, no worker, and no error of theirs.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec
from types import FrameType
from typing import Any

from dask.local import batch_execute_tasks, get_async

__all__ = [
    "ProgressReport",
    "ReportListener",
    "cluster_errors",
    "distributed",
    "is_client",
    "is_connection_lost",
    "is_held",
    "is_loaded",
    "killed_task",
    "leave_threads",
    "listen",
    "memory_limit",
    "package_folders",
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


def is_loaded() -> bool:
    """Say whether anybody in this process uses distributed."""
    return "distributed" in sys.modules


def distributed() -> Any:
    """Return the package distributed, imported now if it is not yet."""
    return importlib.import_module("distributed")


def cluster_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions with which a cluster gives up a computation; none where there is no cluster."""
    return (distributed().KilledWorker, distributed().CancelledError) if is_loaded() else ()


def killed_task(error: BaseException) -> Any:
    """Return the key of the task on which workers died again and again; None for any other error."""
    return getattr(error, "task", None) if is_loaded() and isinstance(error, distributed().KilledWorker) else None


def is_connection_lost(error: BaseException) -> bool:
    """Say whether a client gave up what it waited for as its connection broke.

    distributed names that in the text of its `CancelledError` only.
    """
    return "connection-lost" in str(error)


def is_client(scheduler: Any) -> bool:
    """Say whether a scheduler is a client of a cluster."""
    return is_loaded() and isinstance(scheduler, distributed().Client)


def package_folders() -> list[str]:
    """Return the folders of dask and distributed, without importing the latter."""
    return [folder for name in ("dask", "distributed") for folder in _locations(name)]


def _locations(name: str) -> list[str]:
    spec = find_spec(name)
    return [] if spec is None else list(spec.submodule_search_locations or ())


def memory_limit() -> int:
    """Return the bytes that this process may have, as distributed finds them: of the machine, its cgroup and limits."""
    return int(importlib.import_module("distributed.system").MEMORY_LIMIT)


def transaction_lock(write_id: str) -> Callable[[], AbstractContextManager[object]]:
    """Return what gives the lock of one write.

    On a cluster that is the scheduler's lock, which also holds where a file system's locks do
    not reach other hosts.  It has a lease and can be held twice: `flock` on the file stands
    beside it.  Call this in a task's own thread.
    """
    if not _in_worker():
        return contextlib.nullcontext
    lock = distributed().Lock(f"dask_chunkio-{write_id}")
    return lambda: lock


def is_held(key: str) -> bool:
    """Say whether a graph with this key is being run here, or its value is kept by a worker for one.

    A value that was computed can live on in the traceback of an error when its graph is long given up; and a
    worker that is short of memory has it on disk.
    """
    workers = list(distributed().Worker._instances) if is_loaded() else []
    return any(key in worker.data for worker in workers) or any(_is_of_graph(frame, key) for frame in _running_frames())


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
    return str(distributed().get_worker().scheduler.address) if _in_worker() else ""


def spans_hosts() -> bool:
    """Say whether workers of other hosts may run tasks of the same graph.

    A worker that listens on this host alone has no others.
    """
    if not _in_worker():
        return False
    scheme, _, place = str(distributed().get_worker().address).partition("://")
    host = place.rpartition(":")[0].strip("[]")
    return scheme != "inproc" and host != "localhost" and not host.startswith("127.") and host != "::1"


def worker_threads(otherwise: int) -> int:
    """Return how many threads the worker has that runs this task."""
    return int(distributed().get_worker().state.nthreads) if _in_worker() else otherwise


def leave_threads() -> bool:
    """Give up this task's place among a worker's threads; say whether it may wait now.

    Outside of a worker, whoever waits may have the very thread that the one waited for needs.
    """
    if not _in_worker():
        return False
    distributed().secede()
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
    """Tell `listener` of buffers committed by tasks in this process."""
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
        distributed().get_worker().log_event(progress_topic(write_id), word)


def _in_worker() -> bool:
    if not is_loaded():
        return False
    try:
        distributed().get_worker()
    except ValueError:
        return False
    return True
