"""The HDF5 file into which payloads are placed: outside HDF5, and durable where that is promised."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from dask_chunkio.storage.filesystem.disk import Disk
from dask_chunkio.storage.filesystem.io import flush, pwrite_each, sync_folder
from dask_chunkio.storage.open_files import OpenFiles
from dask_chunkio.storage.target import Target

__all__ = ["PayloadFile"]


class PayloadFile:
    """Places payloads in the file, and waits for the disk.

    Parameters
    ----------
    target : Target
        The write.
    files : OpenFiles
        Its open files.

    Attributes
    ----------
    disk : Disk
        Flushes the file.
    """

    def __init__(self, target: Target, files: OpenFiles) -> None:
        self._target, self._files = target, files
        self.disk = Disk(files.file, target.unsynced)
        self._in_file = threading.Lock()

    @property
    def is_durable(self) -> bool:
        """Whether a commit waits for the disk.

        It always does if several hosts write: `finish` flushes only the page cache of its own host, and other
        hosts see only as much of the journal and the log as is flushed.
        """
        return self._target.durability == "power" or self._target.spans_hosts

    def place(self, pieces: Sequence[tuple[int, bytes | memoryview]]) -> None:
        """Write payloads to their locations; wait for the disk if a commit must survive a power failure."""
        while True:
            begun = self.disk.begin()
            # The system admits one writer to a file at a time.  Threads that wait here sleep; in the system they spin.
            with self._in_file:
                pwrite_each(self._files.file, pieces)
            if not self.is_durable or self.disk.is_synced(begun):
                return

    def sync(self) -> None:
        """Wait until all payloads that were placed are on the disk."""
        self.disk.sync(self.disk.begin())

    def settle(self) -> None:
        """Write again everything that a failed ``fsync`` has dropped, in a transaction while no payload is placed."""
        self.disk.settle(self._files.journal)

    def trim(self, size: int) -> None:
        """Truncate the file to HDF5's end of the file, after the last commit, and wait for the disk."""
        if os.fstat(self._files.file).st_size > size:
            os.ftruncate(self._files.file, size)
        self.sync()

    def sync_all(self) -> None:
        """Flush everything that an earlier call has committed, if this call promises durability.

        To be called inside a transaction, while no other process works on the write.
        """
        if not self.is_durable:
            return
        self.settle()
        self.sync()
        try:
            flush(self._files.journal)
        except OSError:
            self.disk.doubt()
            raise
        sync_folder(self._target.folder)
        sync_folder(os.path.dirname(self._target.path))
