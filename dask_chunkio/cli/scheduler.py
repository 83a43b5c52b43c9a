"""The scheduler of a command, which ends together with the command."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
from collections.abc import Iterator
from typing import Any

import click
import dask
from dask.system import CPU_COUNT

from dask_chunkio.dask_compat import distributed
from dask_chunkio.errors import WorkerError

__all__ = ["LOCAL", "describe", "running_scheduler", "thread_count"]

_CONNECT_SECONDS = 10
LOCAL = ("threads", "processes", "synchronous")
_DEFAULT = LOCAL[0]


@contextlib.contextmanager
def running_scheduler(name: str, workers: int | None, threads: int | None, file: str | None = None) -> Iterator[Any]:
    """Provide the scheduler of a command as a value of ``scheduler=``, while the context is open.

    Parameters
    ----------
    name : str
        ``"threads"``, ``"processes"``, ``"synchronous"``, or the address of a dask scheduler.
    workers : int or None
        Number of threads or processes; None for one per core.
    threads : int or None
        Threads of each process; with ``"threads"``, the same as `workers`.
    file : str or None
        The file in which a running scheduler has written its address, instead of `name`.

    Raises
    ------
    click.UsageError
        If the numbers do not apply to the scheduler, or both `name` and `file` are given.
    WorkerError
        If there is no scheduler at that address, it has no workers, or `file` cannot be read.
    """
    if file is not None:
        name = _address_in(file, name)
    _check(name, workers, threads)
    if name == "threads":
        with dask.config.set(num_workers=workers or threads or CPU_COUNT):
            yield name
    elif name == "synchronous":
        yield name
    elif name == "processes":
        with _local_cluster(workers or CPU_COUNT, threads or 1) as cluster, _client(cluster) as client:
            client.run(_leave_interrupts_to_the_client)
            yield client
    else:
        with _connected(name) as client:
            yield client


def _address_in(file: str, name: str) -> str:
    if name != _DEFAULT:
        raise click.UsageError(f"--scheduler {name} and --scheduler-file name two schedulers; give one of them")
    try:
        with open(file, encoding="utf-8") as opened:
            address = json.load(opened)["address"]
    except OSError as error:
        raise WorkerError(f"cannot read {file}, where the scheduler's address should be: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise WorkerError(f"{file} is not what 'dask scheduler --scheduler-file' writes") from error
    return str(address)


def thread_count(name: str, workers: int | None, threads: int | None) -> int:
    """Return the number of threads of a local scheduler, in all its processes together."""
    if name == "processes":
        return (workers or CPU_COUNT) * (threads or 1)
    return 1 if name == "synchronous" else workers or threads or CPU_COUNT


def describe(name: str, workers: int | None, threads: int | None) -> str:
    """Return a description of the workers of a local scheduler.

    Examples
    --------
    >>> describe("processes", 4, None), describe("threads", 1, None)
    ('4 processes of 1 thread', '1 thread')
    """
    if name == "processes":
        count = workers or CPU_COUNT
        return f"{count} process{'es' if count > 1 else ''} of {_threads(threads or 1)}"
    return _threads(thread_count(name, workers, threads))


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _check(name: str, workers: int | None, threads: int | None) -> None:
    if name not in LOCAL and "://" not in name:
        raise click.UsageError(
            f"--scheduler {name}: give one of {', '.join(LOCAL)}, or an address such as tcp://host:8786"
        )
    numbers = workers is not None or threads is not None
    if "://" in name and numbers:
        raise click.UsageError(
            f"--workers and --threads do not apply to the cluster at {name}, which has its own workers"
        )
    if name == "synchronous" and numbers:
        raise click.UsageError("--workers and --threads do not apply to --scheduler synchronous, which is one thread")
    if name == "threads" and workers is not None and threads is not None:
        raise click.UsageError(
            "--workers and --threads mean the same with --scheduler threads; give only one of the two"
        )


def _local_cluster(workers: int, threads: int) -> Any:
    return distributed().LocalCluster(
        n_workers=workers,
        threads_per_worker=threads,
        processes=True,
        host="127.0.0.1",
        # With dashboard_address=None, distributed would still take port 8787, and warn if it is not free.
        dashboard_address=None,
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        silence_logs=logging.CRITICAL,
    )


@contextlib.contextmanager
def _client(address: Any) -> Iterator[Any]:
    log = logging.getLogger("asyncio")
    level = log.level
    try:
        with distributed().Client(address, set_as_default=False, timeout=_CONNECT_SECONDS) as client:
            # asyncio would log each coroutine of the client that Ctrl-C interrupts, some before our own handler runs.
            log.setLevel(logging.CRITICAL)
            yield client
    finally:
        log.setLevel(level)


def _leave_interrupts_to_the_client() -> None:
    # A terminal sends Ctrl-C to the workers too: they must ignore it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(_client(address))
        except (OSError, ValueError) as error:
            raise WorkerError(f"cannot reach a dask scheduler at {address}: {error}") from error
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise WorkerError(f"the dask scheduler at {address} has no workers; start some, and run this again")
        yield client
