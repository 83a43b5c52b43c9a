"""The open folder of a draft, with its lock."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from typing import Self

from dask_chunkio.errors import TargetBusyError, TargetError
from dask_chunkio.storage.activity.activity_lock import ActivityLock
from dask_chunkio.storage.draft_paths import DraftPaths
from dask_chunkio.storage.filesystem.io import is_at
from dask_chunkio.storage.filesystem.side_folder import Folder
from dask_chunkio.storage.journal.checksum import checksum
from dask_chunkio.storage.take_over import remove_dead_leases, take_over
from dask_chunkio.storage.target import Target

__all__ = ["DraftFolder", "held_by_another", "sweep"]


class DraftFolder:
    """The folder of a draft and its lock, both open.

    While a process is stopped, the path may come to name the folder of a later draft.

    Parameters
    ----------
    paths : DraftPaths
        The draft.
    makes : bool
        Whether the folder is created if it does not exist.

    Raises
    ------
    TargetBusyError
        If another process removes the folder just now.
    TargetError
        If it cannot be created or opened.
    """

    def __init__(self, paths: DraftPaths, makes: bool = True) -> None:
        self.paths = paths
        self._process = os.getpid()
        sweep(paths)
        try:
            with contextlib.suppress(FileExistsError):
                if makes:
                    os.mkdir(paths.folder)
            self._folder = Folder(paths.folder)
            try:
                self.activity_lock = ActivityLock(paths.lock)
            except BaseException:
                self._folder.close()
                raise
        except OSError as error:
            if makes and not os.path.isdir(paths.folder) and os.path.lexists(paths.folder):
                raise TargetError(f"{paths.folder} is not a folder; remove it, or choose another name") from error
            if isinstance(error, (FileNotFoundError, NotADirectoryError)):
                raise TargetBusyError(held_by_another(paths)) from error
            raise Target(paths.path, "").refused(error, paths.folder) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_here(self) -> bool:
        """Whether the paths still name this folder and this lock, and this process has opened them itself."""
        is_mine = os.getpid() == self._process and self.activity_lock.descriptor >= 0
        return is_mine and self._folder.is_there and is_at(self.activity_lock.descriptor, self.paths.lock)

    def take(self, patience: float | None = None) -> None:
        """Hold the lock exclusively.

        Parameters
        ----------
        patience : float, optional
            As for `take_over`.

        Raises
        ------
        TargetBusyError
            If another process holds the draft, or has removed it.
        """
        # One look is enough: whoever holds a draft shares the lock all the time.
        more = {} if patience is None else {"patience": patience}
        if not take_over(self.paths, self.activity_lock, 1, **more) or not self.is_here:
            raise TargetBusyError(held_by_another(self.paths))
        remove_dead_leases(self.paths)

    def remove(self, let_go: Callable[[], object]) -> None:
        """Remove the folder with all that is in it, and close it.

        It gets another name first, in one step: a process that is killed here leaves no half of a draft, and one that
        begins a draft meanwhile makes a folder of its own.

        Parameters
        ----------
        let_go : callable
            Closes the other files of the folder that this process has open.

        Raises
        ------
        TargetError
            If the folder cannot be removed.
        """
        if os.getpid() != self._process:
            return
        try:
            if not self.is_here:
                return
            aside = _aside(self.paths)
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(self.paths.folder, aside)
            if self._folder.descriptor is not None and not is_at(self._folder.descriptor, aside):
                # The path had come to name the folder of a later draft.
                os.rename(aside, self.paths.folder)
                return
        except OSError as error:
            words = f"cannot remove {self.paths.folder}: {error.strerror or error}; remove it by hand"
            raise TargetError(words) from error
        finally:
            let_go()
            self.close()
        sweep(self.paths)

    def close(self) -> None:
        """Close the folder, and release the lock; a forked child has nothing to close."""
        if os.getpid() == self._process:
            self.activity_lock.close()
            self._folder.close()


def sweep(paths: DraftPaths) -> None:
    """Remove what a process has left that was killed as it removed a draft of this file."""
    if os.path.isdir(_aside(paths)):
        shutil.rmtree(_aside(paths), ignore_errors=True)


def _aside(paths: DraftPaths) -> str:
    parent, name = os.path.split(paths.path)
    return os.path.join(parent, f".dask_chunkio-removed-{checksum(os.fsencode(name)):016x}")


def held_by_another(paths: DraftPaths) -> str:
    """Return the message that somebody else works on a draft."""
    return (
        f"{paths.folder}, a draft of {paths.path}, is held by another process or object; wait until it is closed "
        f"(wait=True), or choose another name"
    )
