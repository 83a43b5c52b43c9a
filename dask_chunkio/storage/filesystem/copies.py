"""Copies of files, which share their blocks on the disk where the file system can do that."""

from __future__ import annotations

import contextlib
import os
import shutil

from dask_chunkio.storage.filesystem.descriptors import close_descriptor, open_descriptor

__all__ = ["copy_file"]

# From linux/fs.h: _IOW(0x94, 9, int).  Btrfs, XFS and others share the blocks of the two files then.
_FICLONE = 0x40049409


def copy_file(source: str, copy: str) -> None:
    """Copy the content and the mode of a file to a new file.

    Raises
    ------
    OSError
        If it cannot be copied; then there is no copy.
    """
    try:
        # Private until the mode is copied, too: the source may be.
        close_descriptor(open_descriptor(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        if not _is_cloned(source, copy):
            shutil.copyfile(source, copy)
        shutil.copymode(source, copy)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(copy)
        raise


def _is_cloned(source: str, copy: str) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    with open(source, "rb") as old, open(copy, "wb") as new:
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        except OSError:
            return False
    return True
