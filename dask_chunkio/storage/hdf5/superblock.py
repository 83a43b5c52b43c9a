"""The first bytes of an HDF5 file, which decide whether it may be written.

From the HDF5 File Format Specification 3.0, section II.A: the superblock begins at byte 0,
512, 1024, 2048 and so on; its signature is followed by its version, and from version 2 on
by the sizes of offsets and lengths and the file consistency flags.
"""

from __future__ import annotations

import os

from dask_chunkio.errors import TargetBusyError
from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.io import open_to_read, pread_into
from dask_chunkio.storage.hdf5.staged_pages import Run

__all__ = ["find_superblock", "require_closed", "with_superblock"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_WRITING = 1
# Every version has at least this many bytes; in versions 0 and 1 they include the end-of-file address.
_GUARD = 48


def find_superblock(descriptor: int) -> int | None:
    """Return the offset of the superblock; None if the file has none."""
    size, at = os.fstat(descriptor).st_size, 0
    while at < size:
        if _read(descriptor, at, 8) == _SIGNATURE:
            return at
        at = max(512, at * 2)
    return None


def _keeps_status(descriptor: int) -> bool:
    """Return whether the file records that it is open for writing (superblock version 3)."""
    at = find_superblock(descriptor)
    return at is not None and _read(descriptor, at + 8, 1) >= b"\3"


def require_closed(path: str) -> None:
    """Refuse a file that is marked as open for writing.

    Raises
    ------
    TargetBusyError
        If it is; the message names the remedy.
    """
    descriptor = open_to_read(path)
    try:
        at = find_superblock(descriptor)
        flags = _read(descriptor, at + 11, 1) if at is not None and _keeps_status(descriptor) else b"\0"
    finally:
        close_descriptor(descriptor)
    if flags[0] & _WRITING:
        raise TargetBusyError(
            f"{path} is marked as open for writing: another program (perhaps with SWMR) is writing it, or one died "
            f"while it did. If none is running, clear the mark with HDF5's tool: h5clear -s {path}"
        )


def _read(descriptor: int, offset: int, nbytes: int) -> bytes:
    data = bytearray(nbytes)
    pread_into(descriptor, memoryview(data), offset)
    return bytes(data)


def with_superblock(descriptor: int, runs: list[Run]) -> list[Run]:
    """Add the superblock to the runs of a transaction, so that a replay detects whether others moved the file's end."""
    at = find_superblock(descriptor)
    if at is None or any(offset <= at < offset + len(data) for offset, data in runs):
        return runs
    guard = bytearray(_GUARD)
    pread_into(descriptor, memoryview(guard), at)
    return [(at, bytes(guard)), *runs]
