"""The HDF5 file as payloads are placed in it: outside HDF5, and durable where that is promised."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from dask_chunkio.storage.filesystem.disk import Disk
from dask_chunkio.storage.filesystem.io import pwrite_each, sync_folder
from dask_chunkio.storage.open_files import OpenFiles
from dask_chunkio.storage.target import Target

__all__ = ["PayloadFile"]


class PayloadFile:
    """Places payloads, and waits for the disk.

    Parameters
    ----------
    target : Target
        The write.
    files : OpenFiles
        Its open files.

    Attributes
    ----------
    disk : Disk
        Under the file.
    """

    def __init__(self, target: Target, files: OpenFiles) -> None:
        self._target, self._files = target, files
        self.disk = Disk(files.file, target.unsynced)
        self._in_file = threading.Lock()

    @property
    def is_durable(self) -> bool:
        """Whether a commit waits for the disk.

        Where several hosts write, it does in any case: `finish` flushes the page cache of its own host alone, and other
        hosts see the journal and the log only as far as they are flushed.
        """
        return self._target.durability == "power" or self._target.spans_hosts

    def place(self, pieces: Sequence[tuple[int, bytes | memoryview]]) -> None:
        """Put payloads in their places; wait for the disk where a commit is to survive a power failure."""
        while True:
            begun = self.disk.begin()
            # The system lets one writer at a time into a file; threads that wait here sleep, there they spin.
            with self._in_file:
                pwrite_each(self._files.file, pieces)
            if not self.is_durable or self.disk.is_synced(begun):
                return

    def sync(self) -> None:
        """Wait until all that was placed is on the disk."""
        self.disk.sync(self.disk.begin())

    def settle(self) -> None:
        """Write everything again that an ``fsync`` that failed has dropped, in a transaction in which nobody places."""
        self.disk.settle(self._files.journal)

    def trim(self, size: int) -> None:
        """Cut what is behind HDF5's end of the file, after the last commit, and wait for the disk."""
        if os.fstat(self._files.file).st_size > size:
            os.ftruncate(self._files.file, size)
        self.sync()

    def sync_all(self) -> None:
        """Have everything that an earlier call committed reach the disk, where this one promises it.

        Inside a transaction, while nobody else is at work on the write.
        """
        if not self.is_durable:
            return
        self.settle()
        self.sync()
        try:
            os.fsync(self._files.journal)
        except OSError:
            self.disk.doubt()
            raise
        sync_folder(self._target.folder)
        sync_folder(os.path.dirname(self._target.path))
