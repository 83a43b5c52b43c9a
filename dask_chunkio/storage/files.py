"""Reading and writing a file at an offset, completely or not at all."""

from __future__ import annotations

import os

__all__ = ["pread_into", "pwrite_all", "write_whole_file"]

# Linux moves at most this many bytes in one call.
_MOST = 0x7FFFF000


def pwrite_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`."""
    view = memoryview(data)
    while view:
        count = _pwrite(descriptor, view[:_MOST], offset)
        view, offset = view[count:], offset + count


def pread_into(descriptor: int, view: memoryview, offset: int) -> int:
    """Fill `view` from `offset` on, and return how many bytes the file had."""
    done = 0
    while done < len(view):
        count = _pread_into(descriptor, view[done : done + _MOST], offset + done)
        if count == 0:
            break
        done += count
    return done


def write_whole_file(path: str, data: bytes) -> None:
    """Make `path` hold `data`: readers see the old content or the new."""
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(data)
    os.replace(temporary, path)


if hasattr(os, "pwrite"):

    def _pwrite(descriptor: int, view: memoryview, offset: int) -> int:
        return os.pwrite(descriptor, view, offset)

    def _pread_into(descriptor: int, view: memoryview, offset: int) -> int:
        return os.preadv(descriptor, [view], offset)

else:  # Windows: the position is shared, so seek and transfer take a lock.
    import threading

    _seeking = threading.Lock()

    def _pwrite(descriptor: int, view: memoryview, offset: int) -> int:
        with _seeking:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.write(descriptor, view)

    def _pread_into(descriptor: int, view: memoryview, offset: int) -> int:
        with _seeking:
            os.lseek(descriptor, offset, os.SEEK_SET)
            data = os.read(descriptor, len(view))
        view[: len(data)] = data
        return len(data)
