"""Locks on open files, which the system releases when their holder dies."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator

from dask_chunkio.errors import TargetBusyError, TargetError
from dask_chunkio.storage.filesystem.descriptors import close_descriptor, open_descriptor
from dask_chunkio.storage.filesystem.lock_holders import close_it

__all__ = ["HAS_LOCKS", "WAITS", "has_writer", "locked", "share", "try_exclusive", "try_share", "unlock"]

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_POLL = 0.02

try:
    import fcntl
except ImportError:  # Windows
    # Nothing keeps two processes apart: only the threads of one may write.
    HAS_LOCKS = False

    def _lock(descriptor: int, is_exclusive: bool, waits: bool) -> bool:  # noqa: ARG001
        return True

    def unlock(descriptor: int) -> None:
        """Do nothing: this system has no ``flock``."""

else:
    HAS_LOCKS = True

    def _lock(descriptor: int, is_exclusive: bool, waits: bool) -> bool:
        """Take a lock, and return whether it was free; errors of the system pass through."""
        kind = fcntl.LOCK_EX if is_exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(descriptor, kind if waits else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(descriptor: int) -> None:
        """Release a lock."""
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def share(descriptor: int, name: str) -> None:
    """Take a shared lock; wait for an exclusive holder.

    Raises
    ------
    TargetError
        If the file system has no locks.
    """
    with _named(name):
        _lock(descriptor, is_exclusive=False, waits=True)


def try_share(descriptor: int, name: str) -> bool:
    """Take a shared lock unless there is an exclusive holder; return whether it was taken.

    Raises
    ------
    TargetError
        If the file system has no locks.
    """
    with _named(name):
        return _lock(descriptor, is_exclusive=False, waits=False)


def try_exclusive(descriptor: int, name: str) -> bool:
    """Take an exclusive lock unless there is any other holder; return whether it was taken.

    Raises
    ------
    TargetError
        If the file system has no locks.
    """
    with _named(name):
        return _lock(descriptor, is_exclusive=True, waits=False)


@contextlib.contextmanager
def locked(descriptor: int, name: str, patience: float | None = None) -> Iterator[None]:
    """Hold an exclusive lock.

    Parameters
    ----------
    descriptor : int
        Descriptor of an open file.
    name : str
        Path of the file, for messages.
    patience : float, optional
        Seconds to wait for other holders; no limit by default.

    Raises
    ------
    TargetBusyError
        If others hold the lock for longer than `patience`.
    TargetError
        If the file system has no locks.
    """
    with _named(name):
        if patience is None:
            _lock(descriptor, is_exclusive=True, waits=True)
        else:
            _lock_within(descriptor, name, patience)
    try:
        yield
    finally:
        unlock(descriptor)


def _lock_within(descriptor: int, name: str, patience: float) -> None:
    end = time.monotonic() + patience
    while not _lock(descriptor, is_exclusive=True, waits=False):
        if time.monotonic() > end:
            raise TargetBusyError(f"{name} is in use: {close_it(name)}, and run the write again")
        time.sleep(_POLL)


def has_writer(path: str) -> bool:
    """Return whether a process, which may be this one, has the file open for writing through HDF5."""
    descriptor = open_descriptor(path, os.O_RDONLY)
    try:
        return not _lock(descriptor, is_exclusive=False, waits=False)
    except OSError:  # a file system without locks
        return False
    finally:
        close_descriptor(descriptor)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except TargetError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise TargetError(
            f"the file system of {name} has no file locks (flock: {error.strerror}), without which two programs could "
            f"write one file at once; write to another file system and move the file when it is whole"
        ) from error


# The code of the functions that wait for a lock: an exception that is raised there does no harm.
WAITS = frozenset({_lock.__code__, _lock_within.__code__})
