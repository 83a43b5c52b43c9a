"""Bytes on their way to the disk: what an ``fsync`` says, and what it does not.

When an ``fsync`` fails, Linux marks the pages that it could not write as clean: the next one succeeds, though they
are not on the disk.  So bytes that were written before are written again before the one that is to count.
The failure is told once for each open file: to one thread, of all that wrote.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading

from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.io import open_side_file, rewrite_file

__all__ = ["Disk"]


class Disk:
    """One file of a write, synced for all threads of a process.

    Parameters
    ----------
    descriptor : int
        Of the file.
    mark : str
        Path of a file that is made when an ``fsync`` fails, for other processes.

    Attributes
    ----------
    descriptor : int
        Of the file.
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
        """Whether an ``fsync`` has failed: what reads back from the page cache may not be on the disk."""
        # (Where the machine was restarted, nothing is in its cache that is not on the disk.)
        return self._doubts or os.path.lexists(self._mark)

    def begin(self) -> int:
        """Return the instant, for `sync`, at which bytes begin to be written."""
        return next(self._clock)

    def is_synced(self, begun: int) -> bool:
        """Wait until all bytes written since `begun` are on the disk; False where they have to be written again.

        Raises
        ------
        OSError
            If the disk refuses.
        """
        ended = next(self._clock)
        with self._syncing:
            if self._failed > begun:
                return False
            # One sync is enough for all who wrote before it began.
            if self._covered <= ended:
                start = next(self._clock)
                self._fsync()
                self._covered = start
            return True

    def sync(self, begun: int) -> None:
        """As `is_synced`, for bytes that are not written again here.

        Raises
        ------
        OSError
            If the disk refuses, or refused another thread since `begun`.
        """
        if not self.is_synced(begun):
            raise OSError(errno.EIO, "the disk refused what another thread wrote at the same time")

    def settle(self, *others: int) -> None:
        """Write everything again that may not be on the disk, here and in other files, and wait for it.

        Nobody else may write to them meanwhile.
        """
        if not self.is_doubted:
            return
        for descriptor in (self.descriptor, *others):
            rewrite_file(descriptor)
        for descriptor in others:
            os.fsync(descriptor)
        self.sync(self.begin())
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._mark)
        self._doubts = False

    def _fsync(self) -> None:
        try:
            os.fsync(self.descriptor)
        except OSError:
            self.doubt()
            raise

    def doubt(self) -> None:
        """Note that an ``fsync`` has failed."""
        self._doubts, self._failed = True, next(self._clock)
        with contextlib.suppress(OSError):
            close_descriptor(open_side_file(self._mark))
