"""The folder beside the target, held open.

While a process is stopped, the path may come to name the folder of a later write.  So a process that continues finds
its files by the open folder, not by the path, when it names or removes them.

Network file systems do not remove a file that a process of the same host has open: they rename it, and remove it when
the last process has closed it.  Until then its folder cannot be removed.  So a folder that holds only such files counts
as removed, and a process that removes a folder closes its own files there first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Callable
from typing import Self

from dask_chunkio.storage.filesystem.descriptors import close_descriptor, duplicate_descriptor, open_descriptor
from dask_chunkio.storage.filesystem.io import is_at

__all__ = ["Folder", "is_held_open", "is_kept_by_open_files", "is_left", "remove_empty_folder"]

# Prefixes of the names that NFS and FUSE give to files that were removed while they were open.
_HELD_OPEN = (".nfs", ".fuse_hidden")
# Seconds that a folder may take to become empty: workers release a write when they find its leases removed.
_PATIENCE, _PAUSE = 2.5, 0.02

# Windows cannot open folders; the path is used there.
_HOLDS = {os.link, os.open, os.rename, os.unlink} <= os.supports_dir_fd and os.listdir in os.supports_fd


class Folder:
    """An open folder.

    Parameters
    ----------
    path : str
        Path of an existing folder.
    descriptor : int, optional
        Descriptor of the open folder; opened by default.
    """

    def __init__(self, path: str, descriptor: int | None = None) -> None:
        self.path = path
        self.descriptor = descriptor
        if _HOLDS and descriptor is None:
            self.descriptor = open_descriptor(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_there(self) -> bool:
        """Whether the path still names this folder."""
        return os.path.isdir(self.path) if self.descriptor is None else is_at(self.descriptor, self.path)

    @property
    def is_empty(self) -> bool:
        """Whether the folder holds only files that were removed while a process had them open."""
        return all(map(is_held_open, self._names()))

    def copy(self) -> Folder:
        """Return the same open folder, with a descriptor that is closed separately."""
        return Folder(self.path, None if self.descriptor is None else duplicate_descriptor(self.descriptor))

    def link(self, name: str, path: str) -> None:
        """Give a file a second name, which must be free."""
        if self.descriptor is None:
            os.link(os.path.join(self.path, name), path)
        else:
            os.link(name, path, src_dir_fd=self.descriptor)

    def move(self, name: str, path: str) -> None:
        """Give a file another name; an existing file of that name is replaced."""
        if self.descriptor is None:
            os.replace(os.path.join(self.path, name), path)
        else:
            os.replace(name, path, src_dir_fd=self.descriptor)

    def remove(self, let_go: Callable[[], object] = lambda: None) -> None:
        """Remove the folder with all its files.

        If other processes have files of it open, wait for them.  If they keep the files open, the folder stays and
        holds nothing else.

        Parameters
        ----------
        let_go : callable
            Closes the files of the folder that the caller has open.

        Raises
        ------
        OSError
            If the folder cannot be removed.
        """
        end = time.monotonic() + _PATIENCE
        self.empty()
        let_go()
        while True:
            try:
                _is_removed_in_time(self)
            except OSError as error:
                # A process that has not seen yet that the write is over has made a file, and may remove it any moment.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or time.monotonic() > end:
                    raise
                self.empty()
            else:
                return

    def empty(self) -> None:
        """Remove all files: the manifest second to last, the journal last.

        The journal states that the write is finished.  If the removal is interrupted, the files that are left state
        it too.  Without the journal, an append would count as never begun, and would be repeated.  If the journal is
        empty, the log is removed first: without the file that it belongs to, its transaction could not be completed.
        """
        last = ("manifest.json", "journal")
        first = () if self._holds("journal") else ("log",)
        names = {name for name in self._names() if not is_held_open(name)}
        for name in (*first, *sorted(names - {*first, *last}), *last):
            with contextlib.suppress(FileNotFoundError):
                self.unlink(name)
        self.remove_again()

    def remove_again(self) -> None:
        """Remove the files that stayed because a process had them open; those of dead hosts stay."""
        for name in filter(is_held_open, self._names()):
            with contextlib.suppress(OSError):
                self.unlink(name)

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.path if self.descriptor is None else self.descriptor)
        except OSError as error:
            if error.errno not in (errno.ESTALE, errno.ENOENT):
                raise
            return []

    def _holds(self, name: str) -> bool:
        with contextlib.suppress(OSError):
            if self.descriptor is None:
                return os.stat(os.path.join(self.path, name)).st_size > 0
            return os.stat(name, dir_fd=self.descriptor).st_size > 0
        return False

    def unlink(self, name: str) -> None:
        """Remove a file."""
        if self.descriptor is None:
            os.unlink(os.path.join(self.path, name))
        else:
            os.unlink(name, dir_fd=self.descriptor)

    def close(self) -> None:
        """Close the folder."""
        if self.descriptor is not None:
            close_descriptor(self.descriptor)
            self.descriptor = None


def is_held_open(name: str) -> bool:
    """Return whether this is the name of a file that was removed while a process had it open."""
    return name.startswith(_HELD_OPEN)


def is_left(path: str) -> bool:
    """Return whether the folder of a write exists and holds any file of it."""
    if not os.path.isdir(path):
        return False
    try:
        return not all(map(is_held_open, os.listdir(path)))
    except FileNotFoundError:
        return False
    except OSError:  # the folder cannot be listed
        return True


def is_kept_by_open_files(path: str) -> bool:
    """Return whether a folder exists only because a process has files of it open."""
    with contextlib.suppress(OSError):
        names = os.listdir(path)
        return bool(names) and all(map(is_held_open, names))
    return False


def remove_empty_folder(path: str) -> None:
    """Remove the folder of a write that has ended, if nothing else of it is left.

    A process that has just created the folder, and has no file in it yet, creates it again.
    """
    if not os.path.isdir(path) or is_left(path):
        return
    with contextlib.suppress(OSError), Folder(path) as folder:
        folder.remove_again()
        if not _is_removed_in_time(folder):
            _set_aside(folder)


def _is_removed_in_time(folder: Folder) -> bool:
    """Wait until processes have closed the files of a folder, and remove it; return whether it was removed."""
    end = time.monotonic() + _PATIENCE
    while not _is_removed(folder):
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE)
    return True


def _is_removed(folder: Folder) -> bool:
    """Remove a folder if it is empty; return whether it is gone."""
    try:
        if folder.is_there:
            os.rmdir(folder.path)
    except OSError as error:
        # Another process removed it, and a later write created a new one.
        if not folder.is_there:
            return True
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not folder.is_empty:
            raise
        return False
    return True


def _set_aside(folder: Folder) -> None:
    """Rename a folder that cannot be removed because processes have files of it open."""
    aside = f"{folder.path}.removed-{uuid.uuid4().hex[:8]}"
    os.rename(folder.path, aside)
    if folder.descriptor is not None and not is_at(folder.descriptor, aside):
        # The path named the folder of a later write by then.
        os.rename(aside, folder.path)
