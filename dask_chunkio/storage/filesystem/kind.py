"""The file system that holds a path: what it is, and whether other hosts may write to it too."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

__all__ = ["FileSystem", "file_system_of"]

# Of one host alone.  Whatever is not known counts as one that other hosts may have.
_LOCAL = {
    "apfs", "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "hfs", "jfs", "msdos", "nilfs2",
    "ntfs", "ntfs3", "overlay", "ramfs", "reiserfs", "rootfs", "tmpfs", "udf", "ufs", "vfat", "xfs", "zfs",
}  # fmt: skip
# With one of these options, `flock` holds between the processes of one host alone.
_LOCAL_LOCKS = {"nolock", "local_lock=all", "local_lock=flock", "localflock", "nobrl"}


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A file system that is mounted.

    Parameters
    ----------
    type : str
        As the system calls it; empty if that is not known.
    options : tuple of str
        With which it is mounted.
    """

    type: str = ""
    options: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether no other host can write to it."""
        return self.type in _LOCAL

    @property
    def is_memory(self) -> bool:
        """Whether nothing of it survives the machine's power."""
        return self.type in ("ramfs", "rootfs", "tmpfs")

    @property
    def has_local_locks(self) -> bool:
        """Whether it is known that its locks do not reach from one host to another."""
        return not _LOCAL_LOCKS.isdisjoint(self.options)


def file_system_of(path: str) -> FileSystem:
    """Return the file system that holds a path.

    Parameters
    ----------
    path : str
        Of a file or folder that is there.
    """
    real = os.path.realpath(path)
    try:
        mounts = psutil.disk_partitions(all=True)
    except (OSError, psutil.Error):
        return FileSystem()
    found = [(len(one.mountpoint), number) for number, one in enumerate(mounts) if _holds(one.mountpoint, real)]
    if not found:
        return FileSystem()
    # Of two that are mounted at one place, the later hides the earlier.
    mount = mounts[max(found)[1]]
    return FileSystem(mount.fstype.lower(), tuple(mount.opts.split(",")))


def _holds(mount: str, path: str) -> bool:
    return path == mount or path.startswith(os.path.join(mount, ""))
