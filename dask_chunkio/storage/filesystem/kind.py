"""The file system that holds a path: its type, and whether other hosts may write to it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

__all__ = ["FileSystem", "file_system_of"]

# Types that only one host can mount.  An unknown type counts as one that other hosts may mount.
_LOCAL = {
    "apfs", "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "hfs", "jfs", "msdos", "nilfs2",
    "ntfs", "ntfs3", "overlay", "ramfs", "reiserfs", "rootfs", "tmpfs", "udf", "ufs", "vfat", "xfs", "zfs",
}  # fmt: skip
# With one of these options, `flock` works only between processes of the same host.
_LOCAL_LOCKS = {"nolock", "local_lock=all", "local_lock=flock", "localflock", "nobrl"}


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A mounted file system.

    Parameters
    ----------
    type : str
        Type, as the system calls it; empty if unknown.
    options : tuple of str
        Mount options.
    """

    type: str = ""
    options: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether no other host can write to it."""
        return self.type in _LOCAL

    @property
    def is_memory(self) -> bool:
        """Whether its content is lost when the machine loses power."""
        return self.type in ("ramfs", "rootfs", "tmpfs")

    @property
    def has_local_locks(self) -> bool:
        """Whether its locks are known not to work between hosts."""
        return not _LOCAL_LOCKS.isdisjoint(self.options)


def file_system_of(path: str) -> FileSystem:
    """Return the file system that holds a path.

    Parameters
    ----------
    path : str
        Path of an existing file or folder.
    """
    real = os.path.realpath(path)
    try:
        mounts = psutil.disk_partitions(all=True)
    except (OSError, psutil.Error):
        return FileSystem()
    found = [(len(one.mountpoint), number) for number, one in enumerate(mounts) if _holds(one.mountpoint, real)]
    if not found:
        return FileSystem()
    # If two file systems are mounted at the same path, the later hides the earlier.
    mount = mounts[max(found)[1]]
    return FileSystem(mount.fstype.lower(), tuple(mount.opts.split(",")))


def _holds(mount: str, path: str) -> bool:
    return path == mount or path.startswith(os.path.join(mount, ""))
