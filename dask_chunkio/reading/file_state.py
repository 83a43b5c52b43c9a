"""The state of a file that is read without being kept open: whether it is still what was indexed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import h5py

from dask_chunkio.errors import TargetBusyError, TargetError, UnfinishedWriteError
from dask_chunkio.storage.hdf5.h5py_compat import hdf5_lock
from dask_chunkio.storage.target import Target

__all__ = ["FileState", "opened", "refusal", "require_not_written_here"]

# Seconds that a transaction of a write may keep the file locked, and between two attempts.
_PATIENCE, _PAUSE = 3.0, 0.02


@dataclass(frozen=True, slots=True)
class FileState:
    """What changes when a file is written to or replaced.

    Parameters
    ----------
    device, inode : int
        Which file it is.
    nbytes : int
        Its size.
    modified : int
        When its content was last modified, in nanoseconds.
    """

    device: int
    inode: int
    nbytes: int
    modified: int

    @classmethod
    def of(cls, file: str | int) -> Self:
        """Return the state of a file, given by its path or its descriptor."""
        found = os.stat(file)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@contextlib.contextmanager
def opened(path: str, locking: bool | None = None) -> Iterator[h5py.File]:
    """Open a file for reading.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    locking : bool, optional
        Whether HDF5 locks the file while it is open; by default as `h5py.File`.

    Raises
    ------
    TargetBusyError
        If another program has it open for writing.
    UnfinishedWriteError
        If a write was cut off in the middle of a transaction, which `recover` completes.
    TargetError
        If there is no such file, or it is not HDF5, or it cannot be read.
    """
    if not os.path.exists(path):
        raise TargetError(f"there is no file {path}")
    if os.path.isdir(path):
        raise TargetError(f"{path} is a directory, not an HDF5 file")
    with _opened_in_time(path, locking) as file:
        if file.mode != "r":
            # HDF5 shares what this process has open: what is still in its caches would be missed.
            raise TargetBusyError(f"{path} is open for writing in this process; close it there first")
        if locking is not False:
            _require_no_transaction(path)
        yield file


def _opened_in_time(path: str, locking: bool | None) -> h5py.File:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return h5py.File(path, "r", locking=locking)
        except OSError as error:
            if isinstance(error, BlockingIOError) and time.monotonic() < end:
                time.sleep(_PAUSE)
                continue
            raise refusal(path, error, ", or give locking=False if nothing is written to it meanwhile") from error


def require_not_written_here(path: str) -> None:
    """Refuse a file that this process has open for writing, before another process opens it.

    Raises
    ------
    TargetBusyError
        If it has.
    """
    with hdf5_lock():
        is_written = any(map(_is_writing(path), h5py.h5f.get_obj_ids(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)))
    if is_written:
        raise TargetBusyError(f"{path} is open for writing in this process; close it there first")


def _is_writing(path: str) -> Callable[[h5py.h5f.FileID], bool]:
    def compare(file: h5py.h5f.FileID) -> bool:
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # gone, or just closed
            return file.get_intent() != h5py.h5f.ACC_RDONLY and os.path.samestat(os.stat(path), _stat_of(file))
        return False

    return compare


def _stat_of(file: h5py.h5f.FileID) -> os.stat_result:
    """Return the state of an open file; that of another one if it is in memory."""
    access = file.get_access_plist()
    if access.get_driver() == h5py.h5fd.SEC2:
        return os.fstat(file.get_vfd_handle(access))
    return os.stat(os.devnull if access.get_driver() in (h5py.h5fd.CORE, h5py.h5fd.fileobj_driver) else file.name)


def refusal(path: str, error: OSError, remedy: str = "") -> TargetError:
    """Return an error that says why HDF5 cannot open a file for reading, and what to do about one that is busy."""
    if isinstance(error, BlockingIOError) or "already open" in str(error):
        return TargetBusyError(f"{path} is open for writing in another program ({error}); close it there{remedy}")
    return TargetError(f"{path} cannot be opened as an HDF5 file: {error}; it is not one, or cut off or damaged")


def _require_no_transaction(path: str) -> None:
    """Refuse a file in which a transaction was cut off: while it is locked for reading, none is going on."""
    target, is_cut_off = Target(path, ""), False
    with contextlib.suppress(FileNotFoundError, UnfinishedWriteError):
        found = target.found() if os.path.getsize(target.log) else None
        is_cut_off = found is not None and found.mode == "existing"
    if is_cut_off:
        raise UnfinishedWriteError(
            f"a write into {path} was cut off while it changed the file; go on with it (resume=True), or make the "
            f"file readable with dask_chunkio.recover({path!r}) or 'dask-chunkio recover {path}'"
        )
