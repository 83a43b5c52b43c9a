"""The activity lock of a write: a lock that a process shares while it works on the write.

A process shares it while it runs a task of the write; a process that is the only writer shares it from the
beginning to the end of the write.  A process that wants to resume, recover or discard the write needs the lock
exclusively.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from dask_chunkio.errors import TargetError
from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.io import open_side_file
from dask_chunkio.storage.filesystem.locks import share, try_exclusive, try_share, unlock

__all__ = ["LOOKS", "ActivityLock", "opened_activity_lock"]

# Processes may share the activity lock only while they run a task.  So a single attempt that finds it free proves
# nothing: several attempts in a row must succeed.
LOOKS, _PAUSE = 5, 0.1


class ActivityLock:
    """The lock file of a write.

    Parameters
    ----------
    path : str
        Path of the lock file.
    create : bool
        Whether to create the file if it does not exist.

    Attributes
    ----------
    descriptor : int
        Descriptor of the open file.  Closing it releases the lock.
    """

    def __init__(self, path: str, create: bool = True) -> None:
        self._path = path
        self.descriptor = open_side_file(path, create)

    def share(self) -> None:
        """Share the lock: this process works on the write."""
        share(self.descriptor, self._path)

    def try_share(self) -> bool:
        """Share the lock unless another process holds it exclusively; return whether it is shared now."""
        return try_share(self.descriptor, self._path)

    def release(self) -> None:
        """Release the lock: this process does not work on the write."""
        unlock(self.descriptor)

    def take_alone(self, looks: int = LOOKS) -> bool:
        """Take the lock exclusively if no other process works on the write.

        Parameters
        ----------
        looks : int
            Number of attempts, 0.1 s apart, all of which must succeed.  1 is enough for an owner that shares the lock
            all the time.

        Returns
        -------
        bool
            Whether this process holds the lock exclusively now.
        """
        for look in range(looks):
            if not try_exclusive(self.descriptor, self._path):
                return False
            if look + 1 < looks:
                unlock(self.descriptor)
                time.sleep(_PAUSE)
        return True

    def wait_alone(self, is_over: Callable[[], bool]) -> None:
        """Wait until the lock can be taken exclusively, and take it; stop waiting when `is_over` returns True."""
        while not is_over() and not self.take_alone():
            time.sleep(_PAUSE)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            close_descriptor(descriptor)


@contextlib.contextmanager
def opened_activity_lock(path: str) -> Iterator[ActivityLock]:
    """Open a lock file, and close it at the end of the context.

    Raises
    ------
    TargetError
        If the file cannot be opened.
    """
    try:
        activity_lock = ActivityLock(path)
    except OSError as error:
        raise TargetError(f"cannot use {path}: {error.strerror or error}") from error
    try:
        yield activity_lock
    finally:
        activity_lock.close()
