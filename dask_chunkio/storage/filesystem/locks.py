"""Locks on open files that the system releases when their holder dies."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator

from dask_chunkio.errors import TargetBusyError, TargetError
from dask_chunkio.storage.filesystem.descriptors import close_descriptor, open_descriptor
from dask_chunkio.storage.filesystem.lock_holders import close_it

__all__ = ["has_writer", "locked", "share", "try_exclusive", "try_share", "unlock"]

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_POLL = 0.02

try:
    import fcntl
except ImportError:  # Windows: threads of one process only

    def _lock(descriptor: int, is_exclusive: bool, waits: bool) -> bool:  # noqa: ARG001
        return True

    def unlock(descriptor: int) -> None:
        """Do nothing: this system has no ``flock``."""

else:

    def _lock(descriptor: int, is_exclusive: bool, waits: bool) -> bool:
        """Take a lock, and say whether it was free; errors are the system's."""
        kind = fcntl.LOCK_EX if is_exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(descriptor, kind if waits else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(descriptor: int) -> None:
        """Let go of a lock."""
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def share(descriptor: int, name: str) -> None:
    """Take a lock that others may share; waits for an exclusive holder.

    Raises
    ------
    TargetError
        If the file system has no locks.
    """
    with _named(name):
        _lock(descriptor, is_exclusive=False, waits=True)


def try_share(descriptor: int, name: str) -> bool:
    """Take a lock that others may share, if nobody holds it alone.

    Raises
    ------
    TargetError
        If the file system has no locks.
    """
    with _named(name):
        return _lock(descriptor, is_exclusive=False, waits=False)


def try_exclusive(descriptor: int, name: str) -> bool:
    """Take a lock that nobody shares, if nobody has any.

    Raises
    ------
    TargetError
        If the file system has no locks.
    """
    with _named(name):
        return _lock(descriptor, is_exclusive=True, waits=False)


@contextlib.contextmanager
def locked(descriptor: int, name: str, patience: float | None = None) -> Iterator[None]:
    """Hold a lock that nobody shares.

    Parameters
    ----------
    descriptor : int
        Of an open file.
    name : str
        Its path, for messages.
    patience : float, optional
        Seconds to wait for other holders; without end by default.

    Raises
    ------
    TargetBusyError
        If others hold it for longer than that.
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
    """Say whether somebody, in this process too, has the file open for writing through HDF5."""
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
