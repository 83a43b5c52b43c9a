"""How a write ends before its time: in words that say what is left and how to go on."""

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

# Seconds that the end of a call takes at most to tell a cluster of it.
_PATIENCE = 5.0


class KeptNote(str):
    """The note on an error that says what the write has left, and where.

    Parameters
    ----------
    path : str
        The file that was to be written.
    folder : str
        The folder of its side files.
    """

    __slots__ = ("folder", "path")

    path: str
    folder: str

    def __new__(cls, path: str, folder: str) -> Self:
        """Return the note in words."""
        note = super().__new__(
            cls,
            printable(
                f"{path} was not written. What was committed is kept in {folder}: go on with it by the same call with "
                f"resume=True, or remove it with dask_chunkio.discard({path!r})."
            ),
        )
        note.path, note.folder = path, folder
        return note


@contextlib.contextmanager
def add_resume_note(target: Target) -> Iterator[None]:
    """Say with what ends a write in its midst what it leaves behind, and how to go on."""
    try:
        yield
    except (ChunkIOError, KeyboardInterrupt) as error:
        if _keeps_something(target, error):
            error.add_note(KeptNote(target.path, target.folder))
        raise


def _keeps_something(target: Target, error: BaseException) -> bool:
    """Say whether there is a folder of this very call; where this machine cannot see it, what is likely."""
    if not os.path.isdir(os.path.dirname(target.path)):
        is_refusal = isinstance(error, (ArgumentError, ArgumentTypeError, TargetError))
        return isinstance(error, CastError) or not is_refusal
    return is_own(target)


@contextlib.contextmanager
def errors_of_workers() -> Iterator[None]:
    """Say what ended the workers, where dask only says that they ended."""
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
            f"workers died again and again on the same buffer: {error}. They may have run out of memory: look at "
            f"plan(...), and give a smaller buffer_shape or a larger memory_limit"
        ) from error


@contextlib.contextmanager
def errors_of_arrays(names: str) -> Iterator[None]:
    """Say that a task of a dask array failed, where it is not one that commits its block.

    Parameters
    ----------
    names : str
        The datasets that dask arrays are written to.
    """
    try:
        yield
    except Exception as error:
        if not names or isinstance(error, (ChunkIOError, BrokenProcessPool, *cluster_errors())):
            raise
        raise SourceError(f"{names}: a task of the dask array raised {type(error).__name__}: {error}") from error


def withdraw(write: PreparedWrite) -> None:
    """Remove the leases of a call that has ended: those of workers that died with it would be believed in for a while.

    Where this machine does not see them, a worker does it, if there is one.
    """
    with contextlib.suppress(Exception):
        target = write.target.located()
        if os.path.isdir(target.folder):
            # Worker processes may have tasks of it before them.
            if not write.workers.share_process:
                interrupt(target)
            remove_leases(target.folder, target.write_id)
        elif write.workers.client is not None:
            asked = write.workers.client.submit(remove_leases, target.folder, target.write_id, pure=False)
            asked.result(timeout=_PATIENCE)
