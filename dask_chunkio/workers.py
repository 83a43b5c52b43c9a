"""What runs the tasks: the scheduler that dask would choose, its threads and their memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
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

from dask_chunkio.errors import ArgumentError, PicklingError, WorkerError

__all__ = ["Kind", "Workers", "find_workers", "refuse_import_by_spawn", "require_picklable"]

Result = TypeVar("Result")
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
        Where `kind` is ``"distributed"``.
    """

    kind: Kind
    threads: int
    threads_per_worker: int
    memory_nbytes: int
    client: Any = None

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
    """
    found = _workers(scheduler)
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
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    threads = [int(worker["nthreads"]) for worker in workers] or [1]
    limits = [int(worker["memory_limit"]) for worker in workers if worker["memory_limit"]]
    limit = min(limits, default=_local_memory(len(threads)))
    return Workers("distributed", sum(threads), max(threads), _usable(limit), client)


def _local_memory(processes: int) -> int:
    return int(psutil.virtual_memory().available * _FREE) // processes


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
