"""What runs the tasks: the scheduler that dask would choose, its threads and their memory."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import cloudpickle
import dask
import dask.base
import dask.local
import dask.multiprocessing
import dask.threaded
import psutil
from dask.system import CPU_COUNT
from dask.utils import parse_bytes

from dask_chunkio.config import settings
from dask_chunkio.dask_compat import distributed, is_client, memory_limit
from dask_chunkio.errors import ArgumentError, PicklingError, WorkerError

__all__ = ["Kind", "Workers", "find_workers", "refuse_import_by_spawn", "require_picklable"]

Result = TypeVar("Result")
logger = logging.getLogger("dask_chunkio")
_PACKAGE = "dask_chunkio"
Kind = Literal["synchronous", "threads", "processes", "distributed", "other"]

# What Python, numpy, h5py and distributed take in a worker before any data.
_BASE_NBYTES = 128 << 20
# Where distributed starts to spill, by default: the share of a worker's limit that may be used.
_USABLE = 0.6
# The share that local processes may take of what is free.
_FREE = 0.8


@dataclass(frozen=True, slots=True)
class Workers:
    """Who runs the tasks.

    Parameters
    ----------
    kind : str
        ``"synchronous"``, ``"threads"``, ``"processes"``, ``"distributed"`` or ``"other"``.
    threads : int
        In all worker processes together.
    threads_per_worker : int
        The most that one process has.
    memory_nbytes : int
        What the poorest process has for the data of a write.
    client : distributed.Client or None
        Where `kind` is ``"distributed"``, and the client may be waited for.
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
        """Call a function where the files of the tasks are: of a cluster, on a worker."""
        if self.client is None:
            return function(*arguments)
        found: Result = self.client.submit(function, *arguments, pure=False).result()
        return found

    @property
    def share_process(self) -> bool:
        """Whether tasks run in this very process, from the user's own objects."""
        return self.kind in ("synchronous", "threads")


def find_workers(scheduler: Any = None, memory_limit: int | str | None = None) -> Workers:
    """Find what dask would use.

    Parameters
    ----------
    scheduler : str, callable, Client or Executor, optional
        As dask takes it; by default the current `Client`, or else threads.
    memory_limit : int or str, optional
        What one worker process may take in all, in bytes or as in ``"600MB"``; by default the limit of
        the cluster's poorest worker, or four fifths of what is free, shared by local processes.

    Raises
    ------
    ArgumentError
        If dask does not know that scheduler, or `memory_limit` is no size.
    WorkerError
        If a cluster has no worker for as long as ``chunkio.worker-timeout`` says, or one without this package.
    """
    found = _workers(scheduler)
    if found.client is not None:
        _require_package(found.client)
    return found if memory_limit is None else replace(found, memory_nbytes=_usable(_parsed(memory_limit)))


def _parsed(limit: int | str) -> int:
    try:
        nbytes = int(parse_bytes(limit))
    except (ValueError, TypeError, OverflowError) as error:
        raise ArgumentError(f"memory_limit={limit!r} is no size; give bytes, or words such as '600MB'") from error
    if nbytes < 1:
        raise ArgumentError(f"memory_limit={limit!r} is below 1 byte; give what a worker may take in all")
    return nbytes


def _usable(limit: int) -> int:
    """Return what a process of that limit has for the data of a write."""
    return max(int(limit * _USABLE) - _BASE_NBYTES, limit // 8)


def _workers(scheduler: Any) -> Workers:
    try:
        get = dask.base.get_scheduler(scheduler=scheduler) or dask.threaded.get
    except RuntimeError:
        # dask refuses a client that belongs to an event loop, in which nothing may wait for it.
        return _asynchronous(scheduler if is_client(scheduler) else distributed().default_client())
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"scheduler={scheduler!r} is none of dask's; use 'threads', 'processes', 'synchronous' or a Client"
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
    """Return what a client has heard of its cluster, as nothing here may wait for more."""
    return replace(_of_workers(client._scheduler_identity.get("workers", {}).values(), None), is_asynchronous=True)


def _of_workers(workers: Iterable[Mapping[str, Any]], client: Any) -> Workers:
    threads = [int(worker["nthreads"]) for worker in workers] or [1]
    limits = [int(worker["memory_limit"]) for worker in workers if worker["memory_limit"]]
    limit = min(limits, default=memory_limit())
    return Workers("distributed", sum(threads), max(threads), _usable(limit), client)


def _wait_for_a_worker(client: Any) -> None:
    """Have a task wait for a worker: an adaptive cluster begins none before it has one."""
    seconds, address = settings().worker_seconds, client.scheduler.address
    logger.info("the cluster at %s has no workers yet; waiting for one, at most %g s", address, seconds)
    future = client.submit(int, pure=False)
    try:
        future.result(timeout=seconds)
    except TimeoutError as error:
        future.cancel()
        raise WorkerError(
            f"the cluster at {address} has had no workers for {seconds:g} s, so that nothing is known of their memory; "
            f"start some, or wait longer with dask.config.set({{'chunkio.worker-timeout': '1h'}})"
        ) from error


def _require_package(client: Any) -> None:
    """Refuse workers that cannot run the tasks: dask would try again and again to send these."""
    # By functions of Python's own: one of this package could not be sent there either.
    found = client.run(eval, f"__import__('importlib.util').util.find_spec({_PACKAGE!r}) is not None")
    if missing := sorted(address for address, has_package in found.items() if has_package is False):
        raise WorkerError(
            f"{len(missing)} of {len(found)} workers, the one at {missing[0]} among them, cannot import {_PACKAGE}; "
            f"install it in the environment of every worker"
        )


def _local_memory(processes: int) -> int:
    free = int(psutil.virtual_memory().available * _FREE)
    # A limit on this process (a cgroup's, a batch job's) is what distributed finds; what is in use counts too.
    limit = memory_limit()
    is_limited = psutil.virtual_memory().total > limit
    return min(free, _usable(limit)) // processes if is_limited else free // processes


def require_picklable(value: Any, where: str) -> None:
    """Make sure that `value` can be sent to another process.

    Raises
    ------
    PicklingError
        Naming the dataset and what cannot be sent.
    """
    try:
        # Some can be pickled and not unpickled: hdmf's streams recurse without end.
        cloudpickle.loads(cloudpickle.dumps(value))
    except PicklingError:
        raise
    except Exception as error:
        raise PicklingError(
            f"{where}: the source cannot be sent to worker processes ({type(error).__name__}: {error}). Keep what "
            f"cannot be pickled out of it (open files in _get_data, or define _to_dict and _from_dict), "
            f"or use scheduler='threads'"
        ) from error


def refuse_import_by_spawn() -> None:
    """Refuse to write while a spawned process is importing the user's script.

    Raises
    ------
    WorkerError
        Saying how to guard the script.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise WorkerError(
            "a worker process that is starting has run this script again up to its write; put the script's work under "
            "'if __name__ == \"__main__\":', as Python's multiprocessing needs, or use scheduler='threads'"
        )
