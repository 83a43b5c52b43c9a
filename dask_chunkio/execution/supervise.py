"""Errors that interrupt a write: their messages say what was kept and how to resume."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Self

from dask_chunkio.dask_compat import cluster_errors, killed_task
from dask_chunkio.errors import (
    ArgumentError,
    ArgumentTypeError,
    CastError,
    ChunkIOError,
    SourceError,
    TargetError,
    WorkerError,
)
from dask_chunkio.planning.planner import PreparedWrite
from dask_chunkio.printable import printable
from dask_chunkio.storage.activity.keepalive import remove_leases
from dask_chunkio.storage.inspection.status import is_own
from dask_chunkio.storage.session import interrupt
from dask_chunkio.storage.target import Target

__all__ = ["KeptNote", "add_resume_note", "errors_of_arrays", "errors_of_workers", "withdraw"]

# Maximum time that the end of a call waits for a cluster to remove leases, in seconds.
_PATIENCE = 5.0


class KeptNote(str):
    """The note on an error that says which committed data the write has kept, and where.

    Parameters
    ----------
    target : Target
        The file that was to be written.
    """

    __slots__ = ("folder", "is_part", "path")

    path: str
    folder: str
    is_part: bool

    def __new__(cls, target: Target) -> Self:
        """Return the note, with its text."""
        is_part = target.share is not None
        again = "make the same call again" if is_part else "resume the write by the same call with resume=True"
        data = "the data of all jobs" if is_part else "the data"
        note = super().__new__(
            cls,
            printable(
                f"{target.path} was not written. The committed data are kept in {target.folder}: {again}, or remove "
                f"{data} with dask_chunkio.discard({target.path!r})."
            ),
        )
        note.path, note.folder, note.is_part = target.path, target.folder, is_part
        return note


@contextlib.contextmanager
def add_resume_note(target: Target) -> Iterator[None]:
    """Add resume instructions to the error that interrupted a write."""
    try:
        yield
    except (ChunkIOError, KeyboardInterrupt) as error:
        # A draft says itself how to go on.
        if not target.fills and _keeps_something(target, error):
            error.add_note(KeptNote(target))
        raise


def _keeps_something(target: Target, error: BaseException) -> bool:
    """Return whether there is a folder of this call; guess from the error if this machine cannot access the folder."""
    if not os.path.isdir(os.path.dirname(target.path)):
        is_refusal = isinstance(error, (ArgumentError, ArgumentTypeError, TargetError))
        return isinstance(error, CastError) or not is_refusal
    return is_own(target)


@contextlib.contextmanager
def errors_of_workers() -> Iterator[None]:
    """Replace errors of dask about lost workers by errors that name likely causes.

    Raises
    ------
    WorkerError
        If a process pool or a cluster raised such an error.
    """
    try:
        yield
    except BrokenProcessPool as error:
        raise WorkerError(
            "the worker processes ended before the write did. If this is a script, put its work under "
            "'if __name__ == \"__main__\":', as Python's multiprocessing needs; else they may have run out of memory"
        ) from error
    except cluster_errors() as error:
        if killed_task(error) is None:
            raise WorkerError(f"the cluster dropped the write before it was done: {error}") from error
        raise WorkerError(
            f"several workers died while they wrote the same buffer: {error}. They may have run out of memory: look at "
            f"plan(...), and give a smaller buffer_shape or a larger memory_limit"
        ) from error


@contextlib.contextmanager
def errors_of_arrays(names: str) -> Iterator[None]:
    """Replace an error of a task of a dask array by an error that names the datasets.

    Parameters
    ----------
    names : str
        Names of the datasets whose sources are dask arrays.

    Raises
    ------
    SourceError
        If a task raised an error that is not one of this package or of a lost worker.
    """
    try:
        yield
    except Exception as error:
        if not names or isinstance(error, (ChunkIOError, BrokenProcessPool, *cluster_errors())):
            raise
        raise SourceError(f"{names}: a task of the dask array raised {type(error).__name__}: {error}") from error


def withdraw(write: PreparedWrite) -> None:
    """Remove the leases of a call that has ended: leases of dead workers would otherwise count as valid for a while.

    If this machine cannot access the leases, a worker of the cluster removes them, if there is one.
    """
    with contextlib.suppress(Exception):
        target = write.target.located()
        if os.path.isdir(target.folder):
            # Worker processes may still have tasks of the call in their queues.
            if not write.workers.share_process:
                interrupt(target)
            remove_leases(target.folder, target.write_id)
        elif write.workers.client is not None:
            asked = write.workers.client.submit(remove_leases, target.folder, target.write_id, pure=False)
            asked.result(timeout=_PATIENCE)
