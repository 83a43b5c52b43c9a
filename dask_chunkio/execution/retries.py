"""Attempts: until the target is free, and while dask gives a write up for lost workers or a lost connection."""

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
    """Make attempts until the target is free, if the call waits for that; nothing is held in between.

    Parameters
    ----------
    attempt : callable
        Looks and acts in one step.
    waits : bool
        Whether there is more than one.
    sleep : callable
        Waits between two of them, so many seconds.

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
    """Compute a write, again and again while workers and connections are lost but more is committed each time.

    The client drops what it waits for when its connection breaks, and connects again.  And dask gives up when
    some task was on the fourth worker that died.  Over a long write on workers that come and go, that says
    little: a task counts whenever it waits on a worker that dies, and those of committed buffers run again for
    their receipts.  A buffer that is not committed and ends two attempts is another matter: it may well be
    what kills the workers.

    Parameters
    ----------
    write : PreparedWrite
        What is written.
    compute : callable
        Runs its tasks.

    Raises
    ------
    KilledWorker, CancelledError
        If an attempt committed nothing, ended with the same unfinished task as one before, or the client
        cannot connect again.
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
    """Return how many chunks are committed, and whether all those of a task's buffer are."""
    place = buffer_of(key, write.target.write_id, write.jobs)
    if place is None:
        return write.workers.call(how_far, write.target, 0, None)
    return write.workers.call(how_far, write.target, place[0], write.jobs[place[0]].chunks_of(place[1]))


def _is_connected_again(write: PreparedWrite, error: Exception) -> bool:
    """Wait for the client, which tries for as long as its own time limit says."""
    client = write.workers.client
    if client is None or not is_connection_lost(error):
        return False
    while client.status == "connecting":
        time.sleep(0.05)
    return bool(client.status == "running")
