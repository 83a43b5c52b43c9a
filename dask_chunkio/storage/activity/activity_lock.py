"""The activity lock on a write: a shared lock that says somebody is at work on it.

Every process holds it while it runs a task of the write (or, where it is the only one, from
beginning to end).  Whoever wants to resume, recover or discard the write needs it alone.
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

# Processes that take transactions hold the activity lock task by task: only who finds it free again and again is alone.
LOOKS, _PAUSE = 5, 0.1


class ActivityLock:
    """The lock file of a write.

    Parameters
    ----------
    path : str
        The file.
    create : bool
        Whether to make it if it is not there.

    Attributes
    ----------
    descriptor : int
        Of the open file; whoever closes it lets go of the activity lock.
    """

    def __init__(self, path: str, create: bool = True) -> None:
        self._path = path
        self.descriptor = open_side_file(path, create)

    def share(self) -> None:
        """Say that this process is at work."""
        share(self.descriptor, self._path)

    def try_share(self) -> bool:
        """Say so, unless another process has the activity lock alone."""
        return try_share(self.descriptor, self._path)

    def release(self) -> None:
        """Say that it is not."""
        unlock(self.descriptor)

    def take_alone(self, looks: int = LOOKS) -> bool:
        """Take the activity lock if nobody is at work on the write.

        Parameters
        ----------
        looks : int
            How often to look, over half a second: 1 where its owner never lets go.

        Returns
        -------
        bool
            Whether this process has it now, alone.
        """
        for look in range(looks):
            if not try_exclusive(self.descriptor, self._path):
                return False
            if look + 1 < looks:
                unlock(self.descriptor)
                time.sleep(_PAUSE)
        return True

    def wait_alone(self, is_over: Callable[[], bool]) -> None:
        """Wait until nobody is at work, or `is_over` says so."""
        while not is_over() and not self.take_alone():
            time.sleep(_PAUSE)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            close_descriptor(descriptor)


@contextlib.contextmanager
def opened_activity_lock(path: str) -> Iterator[ActivityLock]:
    """Open a lock file for a moment.

    Raises
    ------
    TargetError
        If that cannot be done.
    """
    try:
        activity_lock = ActivityLock(path)
    except OSError as error:
        raise TargetError(f"cannot use {path}: {error.strerror or error}") from error
    try:
        yield activity_lock
    finally:
        activity_lock.close()
