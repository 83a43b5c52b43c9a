"""Retries: while the target is busy, and after dask abandons a write because it lost workers or its connection."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from dask_chunkio.dask_compat import cluster_errors, is_connection_lost, killed_task, pauses
from dask_chunkio.errors import TargetBusyError, TargetChangedError
from dask_chunkio.execution.graph import buffer_of
from dask_chunkio.planning.planner import PreparedWrite
from dask_chunkio.printable import printable
from dask_chunkio.storage.inspection.status import how_far

__all__ = ["patiently", "retry_while_progressing"]

Result = TypeVar("Result")
logger = logging.getLogger("dask_chunkio")


def patiently(attempt: Callable[[], Result], waits: bool, sleep: Callable[[float], object] = time.sleep) -> Result:
    """Retry until the target is free, if the call waits for that; hold nothing between two attempts.

    Parameters
    ----------
    attempt : callable
        Checks the target and acts, in one step.
    waits : bool
        Whether to retry if the target is busy.
    sleep : callable
        Waits between two attempts, for a number of seconds.

    Raises
    ------
    TargetBusyError
        If the target is busy, and the call does not wait.
    """
    for pause in pauses():
        try:
            return attempt()
        except (TargetBusyError, TargetChangedError) as error:
            if not waits and isinstance(error, TargetBusyError):
                raise
        sleep(pause)
    raise AssertionError("pauses never end")


def retry_while_progressing(write: PreparedWrite, compute: Callable[[], Result]) -> Result:
    """Compute a write; resubmit it after the loss of workers or connections, as long as each attempt commits more.

    When the connection of a client breaks, the client cancels its futures and connects again.  When four workers
    have died that had the same task, dask abandons the computation.  During a long write on workers that come and go,
    neither is evidence against the task: a task counts even if it only waited on a worker that died, and the tasks of
    committed buffers run again to return their receipts.  But if the same uncommitted buffer ends two attempts, it
    probably kills the workers.

    Parameters
    ----------
    write : PreparedWrite
        The write.
    compute : callable
        Runs its tasks.

    Raises
    ------
    KilledWorker, CancelledError
        If an attempt committed nothing, if it ended with the same uncommitted buffer as an earlier attempt, or if
        the client cannot connect again.
    """
    ended: set[Any] = set()
    ending: Any
    committed = -1
    while True:
        try:
            return compute()
        except cluster_errors() as error:
            ending = killed_task(error)
            if ending is None and not _is_connected_again(write, error):
                raise
            before, (committed, is_held) = committed, _found(write, ending)
            if committed <= before or (ending in ended and not is_held):
                raise
            ended.update(() if ending is None else (ending,))
            words = printable(f"{write.target.path}: {error}")
            logger.warning("%s; going on from %d committed chunks", words, committed)


def _found(write: PreparedWrite, key: Any) -> tuple[int, bool]:
    """Return the number of committed chunks, and whether all chunks of a task's buffer are committed."""
    place = buffer_of(key, write.target.write_id, write.jobs)
    if place is None:
        return write.workers.call(how_far, write.target, 0, None)
    return write.workers.call(how_far, write.target, place[0], write.jobs[place[0]].chunks_of(place[1]))


def _is_connected_again(write: PreparedWrite, error: Exception) -> bool:
    """Wait until the client is connected again, or has reached its own time limit; return whether it is connected."""
    client = write.workers.client
    if client is None or not is_connection_lost(error):
        return False
    while client.status == "connecting":
        time.sleep(0.05)
    return bool(client.status == "running")
