"""A zarr store that is made in a folder beside its name, and appears at once."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from dask_chunkio.errors import TargetBusyError, TargetError, TargetExistsError
from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.io import is_at, open_side_file, sync_folder
from dask_chunkio.storage.filesystem.locks import try_exclusive
from dask_chunkio.storage.journal.draft_manifest import DraftPurpose, read_purpose

__all__ = [
    "StoreFolder",
    "UnfinishedStore",
    "find_unfinished_store",
    "find_unfinished_store_folder",
    "remove_unfinished_store",
]

# A file that says that a folder is a zarr store, of format 2 or 3.
_MARKS = ("zarr.json", ".zgroup", ".zarray")
_ATTEMPTS = 100
_LOCK, _PURPOSE = "lock", "conversion.json"


@dataclass(frozen=True, slots=True)
class UnfinishedStore:
    """A conversion to a zarr store that runs, or was cut off.

    Parameters
    ----------
    folder : str
        Absolute path of its folder.
    purpose : DraftPurpose or None
        What is converted; None if it was cut off before it had said so.
    is_running : bool
        Whether a process works on it.
    """

    folder: str
    purpose: DraftPurpose | None
    is_running: bool


def find_unfinished_store_folder(target: str) -> str | None:
    """Return the folder of an unfinished conversion to a store; None if there is none."""
    folder = _folder_of(target)
    return None if os.path.islink(folder) or not os.path.isdir(folder) else folder


def find_unfinished_store(target: str) -> UnfinishedStore | None:
    """Return the unfinished conversion to a store; None if there is none.

    Raises
    ------
    IntegrityError
        If what it says of itself is damaged.
    """
    if (folder := find_unfinished_store_folder(target)) is None:
        return None
    return UnfinishedStore(folder, read_purpose(os.path.join(folder, _PURPOSE)), _is_locked(folder))


def remove_unfinished_store(target: str) -> None:
    """Remove what an interrupted conversion has left; a store that it was just replacing gets its name back.

    Raises
    ------
    TargetBusyError
        If a process works on it.
    TargetError
        If it cannot be removed.
    """
    folder = StoreFolder(target)
    try:
        folder.clean()
    except OSError as error:
        if isinstance(error, TargetError):
            raise
        raise TargetError(f"cannot remove {_folder_of(target)}: {error.strerror or error}") from error


def _folder_of(target: str) -> str:
    return f"{target}.converting"


def _is_locked(folder: str) -> bool:
    path = os.path.join(folder, _LOCK)
    try:
        descriptor = open_side_file(path, create=False)
    except OSError:
        return False
    try:
        return not try_exclusive(descriptor, path)
    finally:
        close_descriptor(descriptor)


class StoreFolder:
    """The folder ``<target>.converting``: nobody else makes the same store meanwhile.

    Its end without an error gives the store its name.  After an error, nothing is left.  A process that is killed
    leaves the folder, which the next conversion to the same name removes; a store that was just being replaced gets
    its name back.

    Parameters
    ----------
    target : str
        Absolute path of the store.
    overwrite : bool
        Whether to replace a store of this name.
    is_durable : bool
        Whether the store is on the disk before it has its name.
    source : str
        What is converted.

    Raises
    ------
    TargetExistsError
        If the name is taken, by anything but a store that may be replaced.
    TargetBusyError
        If another process makes the same store.
    TargetError
        If the folder cannot be made.
    """

    def __init__(self, target: str, *, overwrite: bool = False, is_durable: bool = False, source: str = "") -> None:
        self.target, self._overwrite, self._is_durable = target, overwrite, is_durable
        self._folder, self._source = _folder_of(target), source
        self._lock: int | None = None

    @property
    def store(self) -> str:
        """Absolute path of the store while it is made."""
        return os.path.join(self._folder, "store")

    @property
    def _old(self) -> str:
        return os.path.join(self._folder, "old")

    def __enter__(self) -> Self:
        try:
            self._lock = self._locked()
            self._clean()
            self._require_free()
            os.mkdir(self.store)
            DraftPurpose("conversion", self._source, time.time()).save(os.path.join(self._folder, _PURPOSE))
        except OSError as error:
            self._leave()
            if isinstance(error, TargetError):
                raise
            raise TargetError(f"cannot write {self.target}: {error.strerror or error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._publish()
        finally:
            self._leave()

    def clean(self) -> None:
        """Remove the folder that a killed process has left."""
        self._lock = self._locked()
        try:
            self._clean()
        finally:
            self._leave()

    def _locked(self) -> int:
        path = os.path.join(self._folder, _LOCK)
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._folder)
            try:
                descriptor = open_side_file(path)
            except FileNotFoundError:
                # Another process has just removed the folder.
                continue
            if not try_exclusive(descriptor, path):
                close_descriptor(descriptor)
                raise TargetBusyError(f"another process is writing {self.target}; wait for it, or stop it")
            if is_at(descriptor, path):
                return descriptor
            close_descriptor(descriptor)
        raise TargetBusyError(f"other processes write {self.target} all the time")

    def _clean(self) -> None:
        """Remove what a killed process has left, and give a store its name back that it was replacing."""
        if os.path.lexists(self._old) and not os.path.lexists(self.target):
            os.rename(self._old, self.target)
        for path in (self.store, self._old):
            if os.path.lexists(path):
                shutil.rmtree(path)

    def _require_free(self) -> None:
        if not os.path.lexists(self.target):
            return
        if not self._overwrite:
            raise TargetExistsError(f"{self.target} exists already; give overwrite=True to replace it")
        is_store = os.path.isdir(self.target) and not os.path.islink(self.target)
        if not is_store or not any(os.path.isfile(os.path.join(self.target, mark)) for mark in _MARKS):
            raise TargetExistsError(f"{self.target} is not the folder of a zarr store, and is not replaced; remove it")

    def _publish(self) -> None:
        self._require_free()
        if self._is_durable:
            os.sync()
        try:
            if os.path.lexists(self.target):
                os.rename(self.target, self._old)
            os.rename(self.store, self.target)
            sync_folder(os.path.dirname(self.target))
        except OSError as error:
            self._clean()
            raise TargetError(f"cannot give {self.target} its name: {error.strerror}") from error

    def _leave(self) -> None:
        if self._lock is None:
            return
        descriptor, self._lock = self._lock, None
        # A store that could not get its name back stays.
        if not os.path.lexists(self._old) or os.path.lexists(self.target):
            # The name is removed while it is locked: whoever has opened the file meanwhile finds that it has none.
            shutil.rmtree(self._folder, ignore_errors=True)
        close_descriptor(descriptor)
