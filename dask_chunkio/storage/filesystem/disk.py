"""Flushing to the disk: what a successful ``fsync`` proves, and what it does not.

When an ``fsync`` fails, Linux marks the pages that it could not write as clean: the next ``fsync`` succeeds, although
these pages are not on the disk.  So bytes that were written before are written again before an ``fsync`` that counts.
Linux reports the failure once for each open file, to only one of the threads that wrote to it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading

from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.io import flush, open_side_file, rewrite_file

__all__ = ["Disk"]


class Disk:
    """One file of a write, synced for all threads of a process.

    Parameters
    ----------
    descriptor : int
        Descriptor of the file.
    mark : str
        Path of a file that is created when an ``fsync`` fails, to inform other processes.

    Attributes
    ----------
    descriptor : int
        Descriptor of the file.
    """

    def __init__(self, descriptor: int, mark: str) -> None:
        self.descriptor = descriptor
        self._mark = mark
        self._syncing = threading.Lock()
        self._clock = itertools.count(1)
        self._failed = self._covered = 0
        self._doubts = False

    @property
    def is_doubted(self) -> bool:
        """Whether an ``fsync`` has failed: bytes that are in the page cache may not be on the disk."""
        # (After a restart of the machine, its cache holds only bytes that are on the disk.)
        return self._doubts or os.path.lexists(self._mark)

    def begin(self) -> int:
        """Return the logical time, for `sync`, at which a thread begins to write bytes."""
        return next(self._clock)

    def is_synced(self, begun: int) -> bool:
        """Wait until all bytes written since `begun` are on the disk; return False if they must be written again.

        Raises
        ------
        OSError
            If the ``fsync`` fails.
        """
        ended = next(self._clock)
        with self._syncing:
            if self._failed > begun:
                return False
            # One fsync is enough for all threads that wrote before it began.
            if self._covered <= ended:
                start = next(self._clock)
                self._fsync()
                self._covered = start
            return True

    def sync(self, begun: int) -> None:
        """Wait until all bytes written since `begun` are on the disk, for a caller that does not write them again.

        Raises
        ------
        OSError
            If the ``fsync`` fails, or failed in another thread since `begun`.
        """
        if not self.is_synced(begun):
            raise OSError(errno.EIO, "the disk refused what another thread wrote at the same time")

    def settle(self, *others: int) -> None:
        """Write again all bytes of this file and of others that may not be on the disk, and wait for the disk.

        No other thread or process may write to these files meanwhile.
        """
        if not self.is_doubted:
            return
        for descriptor in (self.descriptor, *others):
            rewrite_file(descriptor)
        for descriptor in others:
            flush(descriptor)
        self.sync(self.begin())
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._mark)
        self._doubts = False

    def _fsync(self) -> None:
        try:
            flush(self.descriptor)
        except OSError:
            self.doubt()
            raise

    def doubt(self) -> None:
        """Record that an ``fsync`` has failed."""
        self._doubts, self._failed = True, next(self._clock)
        with contextlib.suppress(OSError):
            close_descriptor(open_side_file(self._mark))
