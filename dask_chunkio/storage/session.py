"""The writers of this process: one for each write, found by the tasks that need it.

They are the only state of the package that outlives a call.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Iterator

from dask_chunkio.errors import ChunkIOError, TargetError
from dask_chunkio.storage.activity.activity_lock import ActivityLock
from dask_chunkio.storage.activity.keepalive import attend, let_go, look
from dask_chunkio.storage.filesystem.descriptors import in_child
from dask_chunkio.storage.filesystem.io import read_small_file, write_whole_file
from dask_chunkio.storage.filesystem.process_exit import leave
from dask_chunkio.storage.filesystem.side_folder import is_left
from dask_chunkio.storage.target import Target
from dask_chunkio.storage.writer import Writer

__all__ = ["cancel", "end", "in_use", "interrupt", "release", "release_unused", "require_going"]
__all__ += ["is_finished", "used_writer", "wait_for_others", "writer_for"]

_writers: dict[str, Writer] = {}
_inherited: list[Writer] = []
# Writes that have ended, in insertion order, so that the oldest, which have no tasks left, can be removed first.
_ended: dict[str, None] = {}
_MOST_ENDED = 10_000
# Writes that another process has finished, as their journal said that was open here, in insertion order.
_finished: dict[str, None] = {}
# Calls that were interrupted.  No lock protects this set, because a signal handler adds to it.
_cancelled: set[str] = set()
# When a task checked last whether another process has interrupted its call, and the interval in seconds.
_looked: dict[str, float] = {}
_LOOK = 0.5
# Held only for a moment.  While it is held, no file is opened or closed and no lock is waited for: otherwise one
# write that has to wait would make all others of this process wait.
_registry = threading.Lock()
# The writes whose files are being opened, so that each is opened once.
_opening: dict[str, threading.Lock] = {}


def writer_for(target: Target, exclusive: bool = False) -> Writer:
    """Return this process's writer of a write; open it the first time.

    Raises
    ------
    TargetError
        If the write was finished or discarded meanwhile.
    """
    write_id = target.write_id
    with _registry:
        if (writer := _writers.get(write_id)) is not None:
            return writer
        opening = _opening.setdefault(write_id, threading.Lock())
    with opening:
        with _registry:
            if (writer := _writers.get(write_id)) is not None:
                return writer
            _require_open(target)
        _forget_stale()
        writer = _opened(target, exclusive)
        with _registry:
            _opening.pop(write_id, None)
            is_open = write_id not in _ended
            if is_open:
                _writers[write_id] = writer
    if not is_open:
        writer.close()
        _require_open(target)
    return writer


def _opened(target: Target, exclusive: bool) -> Writer:
    try:
        return Writer(target, exclusive)
    except OSError as error:
        if isinstance(error, TargetError):
            raise
        if is_left(target.folder):
            raise target.refused(error, error.filename) from error
        raise TargetError(
            f"{target.folder} cannot be used ({error.strerror}): the write was finished or discarded "
            f"meanwhile, or this machine does not see that folder"
        ) from error


@contextlib.contextmanager
def in_use(target: Target, exclusive: bool) -> Iterator[Writer]:
    """Share the activity lock of a write while a task of it runs.

    Raises
    ------
    TargetError
        If the write has ended in this process, or was interrupted.
    """
    with contextlib.ExitStack() as stack:
        writer = used_writer(target, exclusive, stack)
        look(target.write_id)
        _require_not_stopped(target)
        with _registry:
            _require_open(target)
        yield writer


def used_writer(target: Target, exclusive: bool, stack: contextlib.ExitStack) -> Writer:
    """Return the writer, with its activity lock shared until `stack` is closed.

    The keepalive thread may close a writer that no task uses before this call has the lock: then it is opened again.
    """
    while True:
        writer = writer_for(target, exclusive)
        try:
            stack.enter_context(writer.transactions.files.used())
        except TargetError:
            with _registry:
                _require_open(target)
                if _writers.get(target.write_id) is writer:
                    raise
        else:
            return writer


def cancel(write_id: str) -> None:
    """Stop the tasks of a write in this process between two chunks; takes no lock, for signal handlers."""
    _cancelled.add(write_id)


def require_going(target: Target) -> None:
    """Stop a task between two chunks if its call was interrupted.

    Raises
    ------
    TargetError
        If it was.
    """
    if target.write_id in _cancelled:
        raise _interrupted(target)
    # Checked only now and then, because it means to read a file, which another process writes.
    now = time.monotonic()
    if now - _looked.get(target.write_id, 0.0) > _LOOK:
        _looked[target.write_id] = now
        _require_not_stopped(target)


def _require_not_stopped(target: Target) -> None:
    if read_small_file(target.stop, 64) == target.write_id.encode():
        raise _interrupted(target)


def _interrupted(target: Target) -> TargetError:
    return TargetError(f"the write of {target.path} was interrupted; go on with resume=True")


def _require_open(target: Target) -> None:
    if target.write_id in _cancelled:
        raise _interrupted(target)
    if target.write_id in _ended:
        raise TargetError(f"the write of {target.path} has ended; nothing more is committed to it")


def end(write_id: str) -> None:
    """End a write in this process for good.

    Tasks that come late are refused; running tasks are waited for, and may commit.
    """
    with _registry:
        _ended[write_id] = None
        if len(_ended) > _MOST_ENDED:
            del _ended[next(iter(_ended))]
        writer = _writers.get(write_id)
    if writer is not None:
        writer.transactions.files.wait_unused()
    release(write_id)
    let_go(write_id)
    # From here on, the write is known to have ended.
    _cancelled.discard(write_id)


def release(write_id: str) -> None:
    """Close a write in this process; what is not committed is abandoned."""
    with _registry:
        writer = _writers.pop(write_id, None)
        _looked.pop(write_id, None)
    if writer is not None:
        _close(writer)


def release_unused(write_id: str) -> None:
    """Close a write in this process unless a task of it runs, whose work must not be abandoned."""
    with _registry:
        writer = _writers.get(write_id)
        if writer is None or not writer.transactions.files.end_if_unused():
            return
        del _writers[write_id]
        _looked.pop(write_id, None)
    _close(writer)


def _close(writer: Writer) -> None:
    """Close a writer; keep in mind whether its write is finished, which nothing else tells when its folder is gone."""
    is_finished(writer.target, writer)
    writer.close()


def is_finished(target: Target, writer: Writer | None = None) -> bool:
    """Return whether another process is known to have finished this very write, and to have removed its folder.

    Parameters
    ----------
    target : Target
        The target of the write.
    writer : Writer, optional
        Its writer; by default that of this process, if it has one.
    """
    write_id = target.write_id
    if is_left(target.folder):
        return False
    with _registry:
        if write_id in _finished:
            return True
        writer = writer or _writers.get(write_id)
    if writer is None:
        return False
    with contextlib.suppress(OSError, ChunkIOError), writer.transactions.files.kept_open():
        if writer.transactions.is_finished_by_this():
            with _registry:
                _finished[write_id] = None
                if len(_finished) > _MOST_ENDED:
                    del _finished[next(iter(_finished))]
            return True
    return False


def _forget_stale() -> None:
    with _registry:
        found = list(_writers.items())
    for write_id, writer in found:
        # Closing waits for a transaction, which may wait for another process.
        if not is_left(writer.target.folder):
            release_unused(write_id)


def _is_used(write_id: str) -> bool:
    with _registry:
        writer = _writers.get(write_id)
    return writer is not None and writer.transactions.files.is_used


attend(_is_used, release_unused)


def interrupt(target: Target) -> None:
    """Let no more tasks of a write begin in any process, if this machine sees its folder."""
    with contextlib.suppress(OSError):
        target = target.located()
        # A folder that is left of a finished write must keep stating that it is finished.
        if os.path.isfile(target.lock) and not target.is_finished:
            write_whole_file(target.stop, target.write_id.encode())


def wait_for_others(target: Target) -> None:
    """Wait until no process works on a write of this file, if this machine sees its folder."""
    if is_left(target.folder):
        with (
            contextlib.suppress(FileNotFoundError),
            contextlib.closing(ActivityLock(target.lock, create=False)) as activity_lock,
        ):
            activity_lock.wait_alone(lambda: not is_left(target.folder))


@atexit.register
def _close_all() -> None:
    leave()
    # In a forked child, HDF5 would close the files of the parent after the end of the interpreter, and call Python.
    for writer in [*_writers.values(), *_inherited]:
        writer.transactions.close_at_exit()


def _forget() -> None:
    """Forget the writers of the parent in a forked child, where their files are closed."""
    global _registry  # noqa: PLW0603
    _registry = threading.Lock()
    _ended.update(dict.fromkeys(_writers))
    # Keep the objects: if they were closed here, HDF5 would process the state of the parent.
    _inherited.extend(_writers.values())
    _writers.clear()
    _opening.clear()


in_child(_forget)
