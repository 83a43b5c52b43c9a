"""The folder beside the target, held open.

Its path may come to stand for the folder of a later write, while a process of this one was
stopped: what it names and removes after that is found by the open folder, not by the path.
"""

from __future__ import annotations

import contextlib
import os
from typing import Self

from dask_chunkio.storage.descriptors import close_descriptor, open_descriptor
from dask_chunkio.storage.files import is_at

__all__ = ["Folder", "remove_empty_folder"]

# Windows opens no folders: there the path has to do.
_HOLDS = {os.link, os.open, os.rename, os.unlink} <= os.supports_dir_fd and os.listdir in os.supports_fd


class Folder:
    """An open folder.

    Parameters
    ----------
    path : str
        Of a folder that is there.

    Attributes
    ----------
    descriptor : int or None
        Of the open folder.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor: int | None = None
        if _HOLDS:
            self.descriptor = open_descriptor(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_there(self) -> bool:
        """Whether its path still stands for this folder."""
        return os.path.isdir(self.path) if self.descriptor is None else is_at(self.descriptor, self.path)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in it."""
        return not os.listdir(self.path if self.descriptor is None else self.descriptor)

    def link(self, name: str, path: str) -> None:
        """Give a file a second name, if that is free."""
        if self.descriptor is None:
            os.link(os.path.join(self.path, name), path)
        else:
            os.link(name, path, src_dir_fd=self.descriptor)

    def move(self, name: str, path: str) -> None:
        """Give a file another name; what has that is replaced."""
        if self.descriptor is None:
            os.replace(os.path.join(self.path, name), path)
        else:
            os.replace(name, path, src_dir_fd=self.descriptor)

    def remove(self) -> None:
        """Remove it with all files, the manifest and then the journal last.

        The journal says that the write is finished.  Cut off anywhere, what is left says so too: without it an
        append would count as never begun, and be done again.  Where the journal is empty, the log goes first: without
        the file that it is for, nobody could go on with its turn.
        """
        last = ("manifest.json", "journal")
        first = () if self._holds("journal") else ("log",)
        names = os.listdir(self.path if self.descriptor is None else self.descriptor)
        for name in (*first, *sorted(set(names) - {*first, *last}), *last):
            with contextlib.suppress(FileNotFoundError):
                self._unlink(name)
        try:
            if self.is_there:
                os.rmdir(self.path)
        except OSError:
            # Removed by another process, and made anew by a later write.
            if self.is_there:
                raise

    def _holds(self, name: str) -> bool:
        with contextlib.suppress(OSError):
            if self.descriptor is None:
                return os.stat(os.path.join(self.path, name)).st_size > 0
            return os.stat(name, dir_fd=self.descriptor).st_size > 0
        return False

    def _unlink(self, name: str) -> None:
        if self.descriptor is None:
            os.unlink(os.path.join(self.path, name))
        else:
            os.unlink(name, dir_fd=self.descriptor)

    def close(self) -> None:
        """Let go of it."""
        if self.descriptor is not None:
            close_descriptor(self.descriptor)
            self.descriptor = None


def remove_empty_folder(path: str) -> None:
    """Remove the folder of a write that has ended, of which nothing else is left.

    Whoever has made it just now, and has nothing in it yet, makes it again.
    """
    if os.path.isdir(path):
        with contextlib.suppress(OSError):
            os.rmdir(path)
