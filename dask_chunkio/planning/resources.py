"""The resources of a write: the scheduler that dask would choose, its threads and their memory."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import cloudpickle
import dask
import dask.local
import dask.multiprocessing
import dask.threaded
import psutil
from dask.system import CPU_COUNT
from dask.utils import parse_bytes

from dask_chunkio.config import settings
from dask_chunkio.dask_compat import cluster_errors, distributed, find_get, is_client, memory_limit
from dask_chunkio.errors import ArgumentError, PicklingError, WorkerError

__all__ = ["Kind", "Workers", "find_workers", "refuse_import_by_spawn", "require_picklable"]

Result = TypeVar("Result")
logger = logging.getLogger("dask_chunkio")
_PACKAGE = "dask_chunkio"
Kind = Literal["synchronous", "threads", "processes", "distributed", "other"]

# Memory that Python, numpy, h5py and distributed use in a worker before any data.
_BASE_NBYTES = 128 << 20
# The usable share of a worker's memory limit: above it, distributed starts to spill by default.
_USABLE = 0.6
# The share of the free memory that local processes may use.
_FREE = 0.8


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers that run the tasks of a write.

    Parameters
    ----------
    kind : str
        ``"synchronous"``, ``"threads"``, ``"processes"``, ``"distributed"`` or ``"other"``.
    threads : int
        Number of threads in all worker processes together.
    threads_per_worker : int
        Maximum number of threads in one process.
    memory_nbytes : int
        Memory for the data of a write in the process that has the least, in bytes.
    client : distributed.Client or None
        The client, if `kind` is ``"distributed"`` and a call may wait for the client.
    is_asynchronous : bool
        Whether the client belongs to an event loop.
    """

    kind: Kind
    threads: int
    threads_per_worker: int
    memory_nbytes: int
    client: Any = None
    is_asynchronous: bool = False

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function where the files of the tasks are: on a worker of a cluster, otherwise here.

        Raises
        ------
        WorkerError
            If the cluster gives up the call.
        """
        if self.client is None:
            return function(*arguments)
        try:
            found: Result = self.client.submit(function, *arguments, pure=False).result()
        except cluster_errors() as error:
            raise WorkerError(
                f"the cluster gave up a task of this call ({error}): its workers died or were restarted; run the same "
                f"call again with resume=True"
            ) from error
        return found

    @property
    def share_process(self) -> bool:
        """Whether tasks run in this process and use the objects of the user directly."""
        return self.kind in ("synchronous", "threads")


def find_workers(scheduler: Any = None, memory_limit: int | str | None = None) -> Workers:
    """Find the workers that dask would use.

    Parameters
    ----------
    scheduler : str, callable, Client or Executor, optional
        Same as in dask; by default the current `Client`, or threads if there is none.
    memory_limit : int or str, optional
        Total memory that one worker process may use, in bytes or as in ``"600MB"``; by default the lowest limit
        of the cluster's workers, or four fifths of the free memory, shared by local processes.

    Raises
    ------
    ArgumentError
        If dask does not know that scheduler, or `memory_limit` is not a size.
    WorkerError
        If a cluster has no worker within the time ``chunkio.worker-timeout``, or has a worker without this package.
    """
    found = _workers(scheduler)
    if found.client is not None:
        _require_package(found.client)
    return found if memory_limit is None else replace(found, memory_nbytes=_usable(_parsed(memory_limit)))


def _parsed(limit: int | str) -> int:
    try:
        nbytes = int(parse_bytes(limit))
    except (ValueError, TypeError, OverflowError) as error:
        raise ArgumentError(f"memory_limit={limit!r} is not a size; give bytes, or text such as '600MB'") from error
    if nbytes < 1:
        raise ArgumentError(f"memory_limit={limit!r} is below 1 byte; give the total memory that a worker may use")
    return nbytes


def _usable(limit: int) -> int:
    """Return the memory for the data of a write in a process with that limit, in bytes."""
    return max(int(limit * _USABLE) - _BASE_NBYTES, limit // 8)


def _workers(scheduler: Any) -> Workers:
    try:
        get = find_get(scheduler)
    except RuntimeError:
        # dask refuses a client that belongs to an event loop: a synchronous call cannot wait there.
        return _asynchronous(scheduler if is_client(scheduler) else distributed().default_client())
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"scheduler={scheduler!r} is not known to dask; use 'threads', 'processes', 'synchronous' or a Client"
        ) from error
    if get is dask.local.get_sync:
        return Workers("synchronous", 1, 1, _local_memory(1))
    count = dask.config.get("num_workers", None) or CPU_COUNT
    if get is dask.threaded.get:
        return Workers("threads", count, count, _local_memory(1))
    if get is dask.multiprocessing.get:
        return Workers("processes", count, 1, _local_memory(count))
    client = getattr(get, "__self__", None)
    if client is not None and hasattr(client, "scheduler_info"):
        return _cluster(client)
    return Workers("other", count, count, _local_memory(1))


def _cluster(client: Any) -> Workers:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        _wait_for_a_worker(client)
        workers = client.scheduler_info(n_workers=-1)["workers"]
    return _of_workers(workers.values(), client)


def _asynchronous(client: Any) -> Workers:
    """Return the workers that a client in an event loop knows already: this call cannot wait to ask the cluster."""
    return replace(_of_workers(client._scheduler_identity.get("workers", {}).values(), None), is_asynchronous=True)


def _of_workers(workers: Iterable[Mapping[str, Any]], client: Any) -> Workers:
    threads = [int(worker["nthreads"]) for worker in workers] or [1]
    limits = [int(worker["memory_limit"]) for worker in workers if worker["memory_limit"]]
    limit = min(limits, default=memory_limit())
    return Workers("distributed", sum(threads), max(threads), _usable(limit), client)


def _wait_for_a_worker(client: Any) -> None:
    """Wait for a worker by means of a task: an adaptive cluster starts no worker until it has a task."""
    seconds, address = settings().worker_seconds, client.scheduler.address
    logger.info("the cluster at %s has no workers yet; waiting for one, at most %g s", address, seconds)
    future = client.submit(int, pure=False)
    try:
        future.result(timeout=seconds)
    except TimeoutError as error:
        future.cancel()
        raise WorkerError(
            f"the cluster at {address} has had no workers for {seconds:g} s, so that their memory is unknown; "
            f"start some, or wait longer with dask.config.set({{'chunkio.worker-timeout': '1h'}})"
        ) from error


def _require_package(client: Any) -> None:
    """Refuse workers that cannot import this package: dask would retry without end to send them tasks."""
    # Use only functions of Python itself: a worker without this package cannot receive a function of it.
    found = client.run(eval, f"__import__('importlib.util').util.find_spec({_PACKAGE!r}) is not None")
    if missing := sorted(address for address, has_package in found.items() if has_package is False):
        raise WorkerError(
            f"{len(missing)} of {len(found)} workers, the one at {missing[0]} among them, cannot import {_PACKAGE}; "
            f"install it in the environment of every worker"
        )


def _local_memory(processes: int) -> int:
    memory = psutil.virtual_memory()
    free = int(memory.available * _FREE)
    # distributed finds a limit on this process (of a cgroup or a batch job); memory in use lowers the free memory.
    limit = memory_limit()
    is_limited = memory.total > limit
    return min(free, _usable(limit)) // processes if is_limited else free // processes


def require_picklable(value: Any, where: str) -> None:
    """Check that `value` can be sent to another process.

    Raises
    ------
    PicklingError
        If it cannot; the message names the dataset and the reason.
    """
    try:
        # Some objects can be pickled but not unpickled: hdmf's streams recurse without end.
        cloudpickle.loads(cloudpickle.dumps(value))
    except PicklingError:
        raise
    except Exception as error:
        raise PicklingError(
            f"{where}: the source cannot be sent to worker processes ({type(error).__name__}: {error}). Remove the "
            f"attributes that cannot be pickled (open files in _get_data, or define _to_dict and _from_dict), "
            f"or use scheduler='threads'"
        ) from error


def refuse_import_by_spawn() -> None:
    """Refuse to write while a spawned process imports the user's script.

    Raises
    ------
    WorkerError
        If this process is being spawned; the message says how to guard the script.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise WorkerError(
            "a worker process that is starting has run this script again up to its write; put the script's work under "
            "'if __name__ == \"__main__\":', as Python's multiprocessing needs, or use scheduler='threads'"
        )
