"""Reading and writing at an offset of a file; short reads and writes are continued."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator, Sequence

from dask_chunkio.storage.filesystem.descriptors import close_descriptor, open_descriptor

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "copy_whole_file",
    "flush",
    "is_at",
    "memory_nbytes",
    "open_side_file",
    "open_to_read",
    "pread_into",
    "pwrite_all",
    "pwrite_each",
    "read_small_file",
    "rewrite_file",
    "sync_file",
    "sync_folder",
    "write_whole_file",
]

# Linux moves at most this many bytes in one call.
_MOST = 0x7FFFF000
# The most that one call writes: the system admits one writer to a file at a time, and other threads wait for it.
_MOST_AT_ONCE = 8 << 20
# The command of macOS that empties the cache of the drive, and how a file system says that it does not have it.
_FULL_FLUSH: int | None = getattr(fcntl, "F_FULLFSYNC", None)
_NO_FULL_FLUSH = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY}
# The number of buffers that one call accepts on every current system (IOV_MAX of Linux and macOS).
_MOST_PIECES = 1024


def pwrite_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`."""
    view = memoryview(data)
    while view:
        count = _pwrite(descriptor, view[:_MOST], offset)
        view, offset = view[count:], offset + count


def flush(descriptor: int) -> None:
    """Wait until a file is on the disk.

    On macOS ``fsync`` leaves data in the cache of the drive, which loses them in a power failure; ``F_FULLFSYNC`` does
    not (manual page fsync(2) of macOS).  Some file systems do not have it.
    """
    if _FULL_FLUSH is not None:
        try:
            fcntl.fcntl(descriptor, _FULL_FLUSH)
        except OSError as error:
            # A real failure must not be hidden by a second flush, which may succeed without the data.
            if error.errno not in _NO_FULL_FLUSH:
                raise
        else:
            return
    os.fsync(descriptor)


def pwrite_each(descriptor: int, pieces: Sequence[tuple[int, bytes | memoryview]]) -> None:
    """Write every (offset, data), neighbours in one call: the system admits one writer to a file at a time."""
    group: list[memoryview] = []
    start = end = 0
    for offset, data in pieces:
        if group and (offset != end or len(group) == _MOST_PIECES or end - start + len(data) > _MOST_AT_ONCE):
            _pwrite_group(descriptor, group, start)
            group = []
        if not group:
            start = end = offset
        group.append(memoryview(data))
        end += len(data)
    if group:
        _pwrite_group(descriptor, group, start)


def _pwrite_group(descriptor: int, group: list[memoryview], offset: int) -> None:
    done = _pwritev(descriptor, group, offset) if len(group) > 1 else 0
    for view in group:
        skipped = min(done, len(view))
        pwrite_all(descriptor, view[skipped:], offset + skipped)
        done, offset = done - skipped, offset + len(view)


def pread_into(descriptor: int, view: memoryview, offset: int) -> int:
    """Fill `view` from `offset` on, and return how many bytes the file had."""
    done = 0
    while done < len(view):
        count = _pread_into(descriptor, view[done : done + _MOST], offset + done)
        if count == 0:
            break
        done += count
    return done


def open_side_file(path: str, create: bool = True, write: bool = True, flags: int = 0) -> int:
    """Open a file beside the target, with the user's umask; `flags` are additional flags of `os.open`.

    Raises
    ------
    OSError
        If it is a symbolic link, or not a regular file: a pipe would hang, and a device could do anything.
    """
    flags |= (os.O_RDWR if write else os.O_RDONLY) | (os.O_CREAT if create and write else 0)
    for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK"):
        flags |= getattr(os, name, 0)
    descriptor = open_descriptor(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        close_descriptor(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


def is_at(descriptor: int, path: str) -> bool:
    """Return whether a path still names an open file."""
    try:
        mine, found = os.fstat(descriptor), os.stat(path)
    except OSError:  # the path names nothing; or, on a network file system, the open file no longer exists
        return False
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)


def open_to_read(path: str) -> int:
    """Open a file for reading."""
    return open_descriptor(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))


def read_small_file(path: str, most: int) -> bytes | None:
    """Return at most `most` bytes of the content of a file; None if the file does not exist."""
    try:
        descriptor = open_side_file(path, write=False)
    except FileNotFoundError:
        return None
    try:
        data = bytearray(min(most, os.fstat(descriptor).st_size))
        return bytes(data[: pread_into(descriptor, memoryview(data), 0)])
    finally:
        close_descriptor(descriptor)


def write_whole_file(path: str, data: bytes) -> None:
    """Make `path` hold `data`: readers see the old content or the new, never a part."""
    temporary = f"{path}.{os.getpid()}"
    descriptor = open_side_file(temporary)
    try:
        os.ftruncate(descriptor, 0)
        pwrite_all(descriptor, data, 0)
        # If the name reached the disk before the bytes, it would name a file without its content.
        flush(descriptor)
    finally:
        close_descriptor(descriptor)
    os.replace(temporary, path)


def copy_whole_file(descriptor: int, folder: str, prefix: str) -> str:
    """Copy an open file to an unused name in `folder`, flush the copy to the disk, and return its path."""
    path = next(path for n in itertools.count(1) if not os.path.lexists(path := os.path.join(folder, f"{prefix}{n}")))
    copy = open_side_file(path)
    try:
        for offset, data in _blocks(descriptor):
            pwrite_all(copy, data, offset)
        os.ftruncate(copy, os.fstat(descriptor).st_size)
        flush(copy)
    finally:
        close_descriptor(copy)
    sync_folder(folder)
    return path


def rewrite_file(descriptor: int) -> None:
    """Write the content of a file to its place again, so that the next ``fsync`` has it to write."""
    for offset, data in _blocks(descriptor):
        pwrite_all(descriptor, data, offset)


def _blocks(descriptor: int) -> Iterator[tuple[int, memoryview]]:
    """Yield (offset, bytes) of the content of a file, without its holes."""
    buffer = bytearray(_MOST_AT_ONCE)
    offset = 0
    while count := pread_into(descriptor, memoryview(buffer), offset):
        # Bytes that a failed fsync has dropped may lie over a hole too.
        if not _is_hole(descriptor, offset, count) or buffer.count(0, 0, count) < count:
            yield offset, memoryview(buffer)[:count]
        offset += count


def _is_hole(descriptor: int, offset: int, nbytes: int) -> bool:
    """Return whether the file system reports that it stores nothing in a range."""
    if not hasattr(os, "SEEK_DATA"):
        return False
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA) >= offset + nbytes
    except OSError as error:
        return error.errno == errno.ENXIO


def memory_nbytes() -> int:
    """Return the size of this machine's memory in bytes; where it is unknown, more than any machine has."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 62


def sync_file(path: str) -> None:
    """Wait until the content of a file is on the disk."""
    descriptor = open_to_read(path)
    try:
        flush(descriptor)
    finally:
        close_descriptor(descriptor)


def sync_folder(path: str) -> None:
    """Flush the names in a folder to the disk."""
    with contextlib.suppress(PermissionError):  # Windows cannot open folders
        descriptor = open_descriptor(path, os.O_RDONLY)
        try:
            flush(descriptor)
        finally:
            close_descriptor(descriptor)


if hasattr(os, "pwrite"):

    def _pwrite(descriptor: int, view: memoryview, offset: int) -> int:
        return os.pwrite(descriptor, view, offset)

    def _pwritev(descriptor: int, views: list[memoryview], offset: int) -> int:
        return os.pwritev(descriptor, views, offset)

    def _pread_into(descriptor: int, view: memoryview, offset: int) -> int:
        return os.preadv(descriptor, [view], offset)

else:  # Windows: the position is shared, so seek and transfer take a lock.
    import threading

    _seeking = threading.Lock()

    def _pwrite(descriptor: int, view: memoryview, offset: int) -> int:
        with _seeking:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.write(descriptor, view)

    def _pwritev(descriptor: int, views: list[memoryview], offset: int) -> int:  # noqa: ARG001
        return 0

    def _pread_into(descriptor: int, view: memoryview, offset: int) -> int:
        with _seeking:
            os.lseek(descriptor, offset, os.SEEK_SET)
            data = os.read(descriptor, len(view))
        view[: len(data)] = data
        return len(data)
