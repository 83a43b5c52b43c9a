"""The file object that HDF5 uses: it stages metadata, and reserves space for payloads without writing them."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import h5py
import numpy as np

from dask_chunkio.errors import IntegrityError
from dask_chunkio.geometry.grid import Shape
from dask_chunkio.storage.filesystem.descriptors import in_child
from dask_chunkio.storage.filesystem.io import pread_into
from dask_chunkio.storage.hdf5.placeholder import placeholder, target_placeholder
from dask_chunkio.storage.hdf5.staged_pages import StagedPages

__all__ = ["StagedFile"]

Callback = TypeVar("Callback", bound=Callable[..., Any])


# No undamaged file reaches beyond this offset.
_MOST = 1 << 62


def _zero(*_: Any) -> int:
    return 0


def _length(buffer: Any) -> int:
    return len(buffer)


def _fill_zeros(buffer: Any) -> int:
    view = memoryview(buffer).cast("B")
    view[:] = bytes(len(view))
    return len(view)


def _zeros(size: int = -1) -> bytes:
    return bytes(max(size, 0))


def _never_raises(answer: Callable[..., Any]) -> Callable[[Callback], Callback]:
    """Turn any exception in a callback into a dead file, and return `answer` of the arguments.

    HDF5 calls these methods while h5py holds its lock.  An exception there poisons the
    handle, and then the interpreter crashes when it exits.  So a callback takes no lock, calls
    no h5py function and raises nothing, not even KeyboardInterrupt.
    """

    def decorate(method: Callback) -> Callback:
        @wraps(method)
        def guarded(self: StagedFile, *args: Any) -> Any:
            try:
                if self.error is None:
                    return method(self, *args)
            except BaseException as error:
                self.error = error
            return answer(*args)

        return cast(Callback, guarded)

    return decorate


_open_files: weakref.WeakSet[StagedFile] = weakref.WeakSet()


def _abandon_all() -> None:
    """Make every file dead in a forked child: its descriptor is closed there, and may soon belong to another file."""
    for staged in list(_open_files):
        staged.abandon()


in_child(_abandon_all)


class StagedFile:
    """A binary file object for h5py's ``fileobj`` driver.

    Reads return the content of the file with the staged writes on top.  Writes are staged.  A write of the placeholder
    is a reservation: its offset is recorded, and nothing is written.  A read into the placeholder for reads is a
    lookup: its offset is recorded, and nothing is read.

    After any error the file is *dead*: it accepts and discards everything, so that HDF5 can
    close it, and the committed state stays as it is.  `check` raises the error.

    Parameters
    ----------
    descriptor : int
        Descriptor of the file, open for reading (and for writing, if the staged writes are to be applied through it).

    Attributes
    ----------
    size : int
        Size of the file in bytes, as HDF5 sees it.
    staged : StagedPages
        The writes that a commit has to apply.
    error : BaseException or None
        The error that made the file dead.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0
        self._expected: tuple[int, int] | None = None
        self._reserved: list[int] = []
        self._target: int | None = None
        self._found: tuple[int, int] | None = None
        self.size = os.fstat(descriptor).st_size
        self.staged = StagedPages()
        self.error: BaseException | None = None
        _open_files.add(self)

    @property
    def end(self) -> int:
        """End of the bytes that anything was ever stored in; HDF5 may have shortened the file meanwhile."""
        return max(self.size, os.fstat(self._descriptor).st_size)

    # Methods that h5py calls

    @_never_raises(_zero)
    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to `offset` from the start, the current position or the end."""
        self._position = (0, self._position, self.size)[whence] + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    @_never_raises(_fill_zeros)
    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, with zeros beyond the end of the file (h5py ignores short counts)."""
        if self._target is not None and ctypes.addressof(ctypes.c_char.from_buffer(buffer)) == self._target:
            self._found = self._position, len(buffer)
            return len(buffer)
        view = memoryview(buffer).cast("B")
        # Damaged metadata may name offsets that no file has.
        done = pread_into(self._descriptor, view, self._position) if self._position < self.size else 0
        view[done:] = bytes(len(view) - done)
        self.staged.overlay(self._position, view)
        self._position += len(view)
        return len(view)

    @_never_raises(_zeros)
    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes."""
        data = bytearray(self.size - self._position if size < 0 else size)
        self.readinto(data)
        return bytes(data)

    @_never_raises(_length)
    def write(self, buffer: Any) -> int:
        """Stage the buffer, or record the offset of the placeholder."""
        view = memoryview(buffer).cast("B")
        if self._position + len(view) > _MOST:
            raise IntegrityError(
                f"HDF5 writes at byte {self._position}: the file's metadata is damaged; write it again"
            )
        if self._is_hole(view):
            self._reserved.append(self._position)
            self.staged.erase(self._position, len(view))
        else:
            self.staged.write(self._position, view)
        self._position += len(view)
        self.size = max(self.size, self._position)
        return len(view)

    @_never_raises(_zero)
    def truncate(self, size: int | None = None) -> int:
        """Set the size as HDF5 sees it; the file itself is not truncated before `finish`."""
        self.size = self._position if size is None else size
        return self.size

    def flush(self) -> None:
        """Do nothing: a commit decides what becomes durable."""

    # Methods that a transaction calls

    def reserve(self, dataset: h5py.h5d.DatasetID, origin: Shape, nbytes: int, mask: int) -> int:
        """Make HDF5 allocate and index the space for one payload.

        Parameters
        ----------
        dataset : h5py.h5d.DatasetID
            A chunked dataset of this file.
        origin : tuple of int
            First element of the chunk.
        nbytes : int
            Length of the payload.
        mask : int
            Filter mask of the payload.

        Returns
        -------
        int
            Offset of the space in the file.

        Raises
        ------
        IntegrityError
            If HDF5 fails, or does anything but write exactly this placeholder once.
        """
        place = placeholder(nbytes)
        self._expected, self._reserved = (place.__array_interface__["data"][0], nbytes), []
        try:
            dataset.write_direct_chunk(origin, place, mask)
        except (OSError, RuntimeError, ValueError) as error:
            self.check()
            raise IntegrityError(
                f"HDF5 finds no space for the chunk at {origin} ({error}): the file's metadata is damaged; discard the "
                f"write and start it again"
            ) from error
        finally:
            self._expected = None
        self.check()
        if len(self._reserved) != 1:
            raise IntegrityError(
                f"HDF5 wrote the payload of the chunk at {origin} {len(self._reserved)} times instead of once; "
                f"this file cannot be written by reservation"
            )
        return self._reserved[0]

    def locate(self, dataset: h5py.h5d.DatasetID, origin: Shape, nbytes: int) -> tuple[int, int, int] | None:
        """Make HDF5 find a payload by the coordinates of its chunk, as every reader does.

        HDF5 is asked to read the payload, but only metadata is read.

        Parameters
        ----------
        dataset : h5py.h5d.DatasetID
            A chunked dataset of this file.
        origin : tuple of int
            First element of the chunk.
        nbytes : int
            Length of the longest payload to look for.

        Returns
        -------
        tuple of int or None
            Offset, length and filter mask; None if HDF5 does not find the chunk or its payload is longer than `nbytes`.
        """
        target, self._target = target_placeholder(nbytes)
        self._found = None
        try:
            mask, _ = dataset.read_direct_chunk(origin, out=target)
        except (OSError, RuntimeError, ValueError):
            self.check()
            return None
        finally:
            self._target = None
        self.check()
        return None if self._found is None else (*self._found, mask)

    def stage(self, offset: int, data: bytes | memoryview) -> None:
        """Stage a payload at the offset that was reserved for it."""
        self.staged.write(offset, memoryview(data))

    def check(self) -> None:
        """Raise the error of a callback, if there was one."""
        if self.error is not None:
            raise self.error

    def abandon(self) -> None:
        """Make the file dead: nothing staged is ever applied, and HDF5 can close it."""
        self.error = self.error or IntegrityError("this transaction was abandoned")
        self.staged.clear()

    def _is_hole(self, view: memoryview) -> bool:
        if self._expected is None or len(view) != self._expected[1]:
            return False
        address: int = np.frombuffer(view, np.uint8).__array_interface__["data"][0]
        return address == self._expected[0]
