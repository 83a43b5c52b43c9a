"""How a write ends before its time: in words that say what is left and how to go on."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from types import FrameType

from distributed import CancelledError, KilledWorker

from dask_chunkio.errors import (
    ArgumentError,
    ArgumentTypeError,
    CastError,
    ChunkIOError,
    SourceError,
    TargetError,
    WorkerError,
)
from dask_chunkio.storage.target import Target
from dask_chunkio.storage.writers import interrupt, wait_for_others

__all__ = ["errors_of_arrays", "errors_of_workers", "interrupts_stop", "kept_is_named"]


@contextlib.contextmanager
def kept_is_named(target: Target) -> Iterator[None]:
    """Say with what ends a write in its midst what it leaves behind, and how to go on."""
    try:
        yield
    except (ArgumentError, ArgumentTypeError, TargetError) as error:
        if isinstance(error, CastError) or (isinstance(error, TargetError) and os.path.isdir(target.folder)):
            error.add_note(_kept(target))
        raise
    except (ChunkIOError, KeyboardInterrupt) as error:
        error.add_note(_kept(target))
        raise


def _kept(target: Target) -> str:
    return (
        f"{target.path} was not written. What was committed is kept in {target.folder}: go on with it by the same "
        f"call with resume=True, or remove it with dask_chunkio.discard({target.path!r})."
    )


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
    except KilledWorker as error:
        raise WorkerError(
            f"workers died again and again on the same buffer: {error}. They may have run out of memory: look at "
            f"plan(...), and give a smaller buffer_shape or a larger memory_limit"
        ) from error
    except CancelledError as error:
        raise WorkerError(f"the cluster dropped the write before it was done: {error}") from error


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
    except (ChunkIOError, KilledWorker, CancelledError, BrokenProcessPool):
        raise
    except Exception as error:
        if not names:
            raise
        raise SourceError(f"{names}: a task of the dask array raised {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def interrupts_stop(target: Target) -> Iterator[None]:
    """Have Ctrl-C stop the tasks in other processes before dask waits for them, and wait for those that run."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        interrupt(target)
        # Pressed again, it leaves at once.
        signal.signal(signal.SIGINT, before)
        before(number, frame)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    except KeyboardInterrupt:
        logging.getLogger("asyncio").addFilter(_is_not_of_gather)
        wait_for_others(target)
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _is_not_of_gather(record: logging.LogRecord) -> bool:
    """Drop what asyncio says of the waits that distributed's `gather` abandons when it is interrupted."""
    error = record.exc_info[1] if record.exc_info else None
    return type(error).__name__ != "AllExit"
