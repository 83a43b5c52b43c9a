"""An HDF5 file that h5py opens under another name than its path."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import h5py

from dask_chunkio.errors import TargetError

__all__ = ["NamedFile"]

# HDF5 looks for so many bytes at the beginning of a file, when it opens it and never again.
_SIGNATURE_LENGTH = 8

Callback = TypeVar("Callback", bound=Callable[..., Any])


def _never_raises(method: Callback) -> Callback:
    """Store any exception of a callback, and go on as if it had succeeded.

    HDF5 calls these methods.  An exception in them leaves HDF5 with a broken handle, and the interpreter may crash.
    """

    @wraps(method)
    def guarded(self: NamedFile, *args: Any) -> Any:
        try:
            return method(self, *args)
        except BaseException as error:
            self.error = self.error or error
            return len(args[0]) if args and hasattr(args[0], "__len__") else 0

    return cast(Callback, guarded)


class NamedFile:
    """A binary file for h5py's driver ``fileobj``, which gives an HDF5 file any name.

    What hdmf and HDF5 derive from the name of a file is then right for its final name: the sources of builders, the
    relative paths of external links, and the folder in which HDF5 looks for the files of external links.  Such links
    can be followed inside `compat.following_links` only; elsewhere they look broken.

    Parameters
    ----------
    raw : io.FileIO
        The file on the disk, open for reading and writing.
    name : str
        The name that HDF5 and h5py see.

    Attributes
    ----------
    was_changed : bool
        Whether anything else was written than was there.
    error : BaseException or None
        The first error of the file system.
    """

    def __init__(self, raw: io.FileIO, name: str) -> None:
        self._raw, self._name = raw, name
        self._position = 0
        self._is_open = False
        self.was_changed = False
        self.error: BaseException | None = None

    def open(self, **options: Any) -> h5py.File:
        """Return the file as h5py opens it for reading and writing; one without any bytes becomes a new HDF5 file."""
        mode = "r+" if os.fstat(self._raw.fileno()).st_size else "w"
        file = h5py.File(self._name, mode, driver="fileobj", fileobj=self, **options)
        self._is_open = True
        return file

    def close(self) -> None:
        """Close the file on the disk, after h5py has closed it.

        Raises
        ------
        TargetError
            If the file system has refused to read or to write anything since the file was opened.
        """
        self._raw.close()
        error, self.error = self.error, None
        if error is not None:
            raise TargetError(
                f"{self._name} is not whole: {type(error).__name__}: {error}; make room or mend the file system, and "
                f"write the file again"
            ) from error

    # Methods that h5py calls

    @_never_raises
    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to `offset` from the start, the current position or the end."""
        end = os.fstat(self._raw.fileno()).st_size if whence == os.SEEK_END else 0
        self._position = (0, self._position, end)[whence] + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    @_never_raises
    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, with zeros beyond the end of the file.

        HDF5 opens the file of an external link with the driver of the file that has the link: with this object.  It
        reads the signature of HDF5 for that, and must not find it here.
        """
        view, done = memoryview(buffer).cast("B"), 0
        if self._is_open and self._position == 0 and len(view) <= _SIGNATURE_LENGTH:
            view[:] = bytes(len(view))
            return len(view)
        self._raw.seek(self._position)
        while done < len(view) and (count := self._raw.readinto(view[done:])):
            done += count
        view[done:] = bytes(len(view) - done)
        self._position += len(view)
        return len(view)

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes."""
        data = bytearray(max(size, 0))
        self.readinto(data)
        return bytes(data)

    @_never_raises
    def write(self, buffer: Any) -> int:
        """Write the whole buffer."""
        view, done = memoryview(buffer).cast("B"), 0
        # HDF5 writes its superblock again, also if nothing has changed.
        self.was_changed = self.was_changed or not self._holds(view)
        self._raw.seek(self._position)
        while done < len(view):
            done += self._raw.write(view[done:])
        self._position += len(view)
        return len(view)

    def _holds(self, view: memoryview) -> bool:
        self._raw.seek(self._position)
        return self._raw.read(len(view)) == view

    @_never_raises
    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file."""
        size = self._position if size is None else size
        if size != os.fstat(self._raw.fileno()).st_size:
            self.was_changed = True
            self._raw.truncate(size)
        return size

    def flush(self) -> None:
        """Do nothing: nothing is buffered here."""
