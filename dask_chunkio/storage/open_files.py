"""The open files of a write in one process: descriptors, the activity lock, and how many tasks use them."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator

from dask_chunkio.errors import ChunkIOError, TargetError
from dask_chunkio.storage.activity.activity_lock import ActivityLock
from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.io import is_at, open_side_file
from dask_chunkio.storage.filesystem.side_folder import Folder
from dask_chunkio.storage.hdf5.superblock import require_closed
from dask_chunkio.storage.target import Target

__all__ = ["OpenFiles"]


class OpenFiles:
    """The descriptors of one write, which stay open while any task uses them.

    A scheduler may abandon a write while other threads still place payloads.  If their descriptor were closed, its
    number could stand for another file when they use it.

    Parameters
    ----------
    target : Target
        The write, with its mode.
    exclusive : bool
        Whether this process is the only one that writes: then it shares the activity lock from beginning to end.
    holds_activity_lock : bool
        Whether the caller holds the activity lock exclusively.

    Attributes
    ----------
    folder : Folder
        The side folder.
    file, journal, log, applying : int
        Descriptors of the HDF5 file, the journal, the redo log and its mark.
    activity_lock : ActivityLock
        Shared inside `used`.

    Raises
    ------
    FileNotFoundError
        If the side folder does not exist.
    """

    def __init__(self, target: Target, exclusive: bool, holds_activity_lock: bool) -> None:
        self._target = target
        self._shares_by_use = not exclusive and not holds_activity_lock
        self._counting = threading.Condition()
        self._users = self._keepers = 0
        self._ended = False
        self._process = os.getpid()
        self._descriptors: list[int] = []
        try:
            self._open(exclusive)
        except BaseException:
            self._close()
            raise

    def _open(self, exclusive: bool) -> None:
        target = self._target
        self.folder = Folder(target.folder)
        self._descriptors += [] if self.folder.descriptor is None else [self.folder.descriptor]
        if self.folder.is_empty:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), target.folder)
        # NFS clients extend a write to the whole page, and so overwrite what other hosts have written in that page
        # meanwhile, unless the file is open for synchronous writes.
        exactly = getattr(os, "O_DSYNC", 0) if target.spans_hosts else 0
        # A job that joins a write creates nothing: another job may have finished it, and be removing the folder.
        creates = not target.has_joined
        self.file = self._descriptor(target.file, creates and target.mode == "new", exactly)
        self.journal = self._descriptor(target.journal, creates)
        self.log = self._descriptor(target.log, creates)
        self.applying = self._descriptor(target.applying, creates)
        self.activity_lock = ActivityLock(target.lock, creates)
        self._descriptors.append(self.activity_lock.descriptor)
        if exclusive:
            self.activity_lock.share()

    def _descriptor(self, path: str, create: bool, flags: int = 0) -> int:
        descriptor = open_side_file(path, create, flags=flags)
        self._descriptors.append(descriptor)
        return descriptor

    def _close(self) -> None:
        while self._descriptors:
            close_descriptor(self._descriptors.pop())

    def end(self) -> None:
        """Let no more tasks use the files, and close them when the last task has left them."""
        with self._counting:
            self._ended = True
            is_free = self._is_free()
        if is_free:
            self._close()

    def end_if_unused(self) -> bool:
        """Let no more tasks use the files if none uses them now, and return whether that is so; the caller closes."""
        # A thread that holds this lock begins to use the files, and may wait for another process.
        if not self._counting.acquire(blocking=False):
            return False
        try:
            self._ended = self._ended or self._users == 0
            return self._ended
        finally:
            self._counting.release()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Share the activity lock and keep the descriptors open; convert an `OSError` to a `TargetError`.

        Raises
        ------
        TargetError
            If the write has ended in this process, or the file system refuses an operation.
        """
        with self._counting:
            if self._ended:
                raise TargetError(f"the write of {self._target.path} has ended; nothing more is committed to it")
            if self._users == 0 and self._shares_by_use:
                self.activity_lock.share()
            self._users += 1
        try:
            yield
        except ChunkIOError:
            raise
        except OSError as error:
            raise self._target.refused(error) from error
        finally:
            if os.getpid() == self._process:
                self._unuse()

    def _unuse(self) -> None:
        with self._counting:
            self._users -= 1
            self._counting.notify_all()
            is_last = self._ended and self._is_free()
            if self._users == 0 and self._shares_by_use and not is_last:
                self.activity_lock.release()
        if is_last:
            self._close()

    def _is_free(self) -> bool:
        return self._users == 0 and self._keepers == 0

    @contextlib.contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keep the descriptors open to read from them; unlike a task, do not hold the activity lock.

        Raises
        ------
        TargetError
            If they are closed already.
        """
        with self._counting:
            if not self._descriptors:
                raise TargetError(f"the files of the write of {self._target.path} are closed in this process")
            self._keepers += 1
        try:
            yield
        finally:
            with self._counting:
                self._keepers -= 1
                is_last = self._ended and self._is_free()
            if is_last:
                self._close()

    @property
    def is_used(self) -> bool:
        """Whether a task of this process uses the write; never waits for a lock."""
        return self._users > 0

    def wait_unused(self) -> None:
        """Wait until no task of this process uses the write."""
        with self._counting:
            self._counting.wait_for(lambda: self._users == 0)

    def see_other_hosts(self) -> None:
        """Make the next read return what other hosts have written to the side files that no lock protects.

        NFS clients use the length and the content that they have cached for up to a minute; but they ask the server
        when a file is opened or locked.
        """
        if self._target.spans_hosts:
            for path in (self._target.journal, self._target.applying):
                close_descriptor(open_side_file(path, create=False))

    def require_in_place(self) -> None:
        """Make sure that the paths still name the files of the write.

        Raises
        ------
        TargetError
            If the write has ended, or the file was moved away.
        TargetBusyError
            If another program has the file open.
        """
        if not self.folder.is_there or not is_at(self.log, self._target.log):
            raise TargetError(f"the write of {self._target.path} was finished or discarded meanwhile")
        if self._target.mode != "existing":
            return
        if not is_at(self.file, self._target.path):
            raise TargetError(
                f"{self._target.path} was moved away or replaced during the write; put it back and go on with "
                f"resume=True, or discard the write"
            )
        require_closed(self._target.path)
