"""The file system that holds a path: what it is, and whether other hosts may write to it too."""

from __future__ import annotations

import os

import psutil

__all__ = ["file_system_of", "is_local"]

# Of one host alone.  Whatever is not known counts as one that other hosts may have.
_LOCAL = {
    "apfs", "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "fuseblk", "hfs", "jfs", "msdos", "nilfs2",
    "ntfs", "ntfs3", "overlay", "ramfs", "reiserfs", "rootfs", "tmpfs", "udf", "ufs", "vfat", "xfs", "zfs",
}  # fmt: skip


def file_system_of(path: str) -> str:
    """Return the type of the file system that holds a path, as the system calls it; empty if that is not known.

    Parameters
    ----------
    path : str
        Of a file or folder that is there.
    """
    real = os.path.realpath(path)
    try:
        mounts = psutil.disk_partitions(all=True)
    except (OSError, psutil.Error):
        return ""
    found = [(len(one.mountpoint), n, one.fstype) for n, one in enumerate(mounts) if _holds(one.mountpoint, real)]
    # Of two that are mounted at one place, the later hides the earlier.
    return max(found)[2].lower() if found else ""


def is_local(path: str) -> bool:
    """Say whether no other host can write to the file system that holds a path."""
    return file_system_of(path) in _LOCAL


def _holds(mount: str, path: str) -> bool:
    return path == mount or path.startswith(os.path.join(mount, ""))
