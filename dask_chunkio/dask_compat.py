"""All use of private parts of dask and distributed, and all code that needs distributed.

The import of distributed takes a quarter of a second.  A program that uses a cluster has imported it already.  If it
is not imported, there is no client, no worker and no error of theirs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from types import FrameType
from typing import Any

import dask.base
import dask.config
import dask.threaded
from dask.local import batch_execute_tasks, get_async

__all__ = [
    "ProgressReport",
    "ReportListener",
    "cluster_errors",
    "dask_array",
    "distributed",
    "find_get",
    "in_worker",
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

# Number of the dataset, number of the buffer, size of the buffer in bytes.
ProgressReport = tuple[int, int, int]
ReportListener = Callable[[ProgressReport], None]
_listeners: dict[str, ReportListener] = {}


def is_loaded() -> bool:
    """Return whether this process has imported distributed."""
    return "distributed" in sys.modules


def dask_array() -> Any:
    """Return the module dask.array; its import takes up to half a second, and only dask arrays need it."""
    return importlib.import_module("dask.array")


def distributed() -> Any:
    """Return the package distributed; import it if that was not done before."""
    return importlib.import_module("distributed")


def cluster_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that a cluster raises if it abandons a computation; none if there is no cluster."""
    return (distributed().KilledWorker, distributed().CancelledError) if is_loaded() else ()


def killed_task(error: BaseException) -> Any:
    """Return the key of the task during which several workers died; None for any other error."""
    return getattr(error, "task", None) if is_loaded() and isinstance(error, distributed().KilledWorker) else None


def is_connection_lost(error: BaseException) -> bool:
    """Return whether a client cancelled its futures because it lost its connection.

    distributed states this reason only in the text of its `CancelledError`.
    """
    return "connection-lost" in str(error)


def is_client(scheduler: Any) -> bool:
    """Return whether `scheduler` is a client of a cluster."""
    return is_loaded() and isinstance(scheduler, distributed().Client)


def package_folders() -> list[str]:
    """Return the folders of dask and distributed, without an import of distributed."""
    return [folder for name in ("dask", "distributed") for folder in _locations(name)]


def _locations(name: str) -> list[str]:
    spec = find_spec(name)
    return [] if spec is None else list(spec.submodule_search_locations or ())


def memory_limit() -> int:
    """Return the memory limit of this process in bytes, as distributed finds it in the machine, cgroup and limits."""
    return int(importlib.import_module("distributed.system").MEMORY_LIMIT if is_loaded() else _limit_without_package())


@functools.cache
def _limit_without_package() -> int:
    """Return what distributed would find; of the package only this module is run, which needs none of the others."""
    spec = spec_from_file_location("_distributed_system", os.path.join(*_locations("distributed")[:1], "system.py"))
    if spec is None or spec.loader is None:
        raise ImportError("distributed has no module system")
    system = module_from_spec(spec)
    spec.loader.exec_module(system)
    return int(system.MEMORY_LIMIT)


def find_get(scheduler: Any) -> Callable[..., Any]:
    """Return the function with which dask would compute, as `dask.base.get_scheduler` does; threads by default.

    dask imports distributed to find a client, even for a scheduler of its own.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        As dask does.
    """
    name = dask.config.get("scheduler", None) if scheduler is None else scheduler
    if not is_loaded():
        if name is None:
            return dask.threaded.get
        if isinstance(name, str) and name.lower() in dask.base.named_schedulers:
            return dask.base.named_schedulers[name.lower()]
    return dask.base.get_scheduler(scheduler=scheduler) or dask.threaded.get


def transaction_lock(write_id: str) -> Callable[[], AbstractContextManager[object]]:
    """Return a function that returns the lock of one write.

    On a cluster this is a lock of the scheduler.  It works even if the locks of the file system
    do not reach other hosts.  It has a lease, so that two processes can hold it at the same time:
    the write therefore also takes `flock` on the file.  Call this function in the thread of a task.
    """
    if not in_worker():
        return contextlib.nullcontext
    lock = distributed().Lock(f"dask_chunkio-{write_id}")
    return lambda: lock


def is_held(key: str) -> bool:
    """Return whether this process runs a graph with this key, or one of its workers keeps the value of the key.

    Whether the value itself is in memory does not tell this: the traceback of an error can keep a value long after
    its graph was abandoned, and a worker that is short of memory moves a value to disk.
    """
    workers = list(distributed().Worker._instances) if is_loaded() else []
    return any(key in worker.data for worker in workers) or any(_is_of_graph(frame, key) for frame in _running_frames())


def _is_of_graph(frame: FrameType, key: str) -> bool:
    """Return whether a stack frame belongs to a local scheduler of dask that runs a graph with this key."""
    if frame.f_code is get_async.__code__:
        return key in frame.f_locals["dsk"]
    # A worker process returns its results when all tasks of a batch are done.
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
    """Return the address of the scheduler whose worker runs this task; empty outside of a worker."""
    return str(distributed().get_worker().scheduler.address) if in_worker() else ""


def spans_hosts() -> bool:
    """Return whether workers on other hosts may run tasks of the same graph.

    If the worker accepts connections from this host only, there are no workers on other hosts.
    """
    if not in_worker():
        return False
    scheme, _, place = str(distributed().get_worker().address).partition("://")
    host = place.rpartition(":")[0].strip("[]")
    return scheme != "inproc" and host != "localhost" and not host.startswith("127.") and host != "::1"


def worker_threads(otherwise: int) -> int:
    """Return the number of threads of the worker that runs this task; `otherwise` outside of a worker."""
    return int(distributed().get_worker().state.nthreads) if in_worker() else otherwise


def leave_threads() -> bool:
    """Take this task out of the worker's thread pool; return whether the task may now wait.

    Outside of a worker a task must not wait: it may occupy the thread that the awaited task needs.
    """
    if not in_worker():
        return False
    distributed().secede()
    return True


def pauses() -> Iterator[float]:
    """Yield the pauses between attempts, in seconds: growing up to half a second, random so that attempts spread."""
    pause = 0.02
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(2 * pause, 0.5)


def progress_topic(write_id: str) -> str:
    """Return the topic of the events with which workers report committed buffers."""
    return f"dask_chunkio-{write_id}"


@contextlib.contextmanager
def listen(write_id: str, listener: ReportListener):  # type: ignore[no-untyped-def]
    """Call `listener` for each buffer that tasks in this process commit, while the context is open."""
    _listeners[write_id] = listener
    try:
        yield
    finally:
        _listeners.pop(write_id, None)


def report(write_id: str, word: ProgressReport) -> None:
    """Report a committed buffer to the client."""
    listener = _listeners.get(write_id)
    if listener is not None:
        listener(word)
    elif in_worker():
        distributed().get_worker().log_event(progress_topic(write_id), word)


def in_worker() -> bool:
    """Return whether this thread runs a task of a worker of a cluster."""
    if not is_loaded():
        return False
    try:
        distributed().get_worker()
    except ValueError:
        return False
    return True
