"""The metadata of a file besides its content: owner, mode, extended attributes and names."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil

__all__ = ["copy_metadata", "keeps_metadata"]

_HAS_ATTRIBUTES = hasattr(os, "listxattr")
# These include access control lists.  All other attributes belong to the system, which labels files by itself.
_OURS = ("user.", "system.posix_acl_")
_LABEL = "security.selinux"
_NONE = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENODATA}


def keeps_metadata(path: str) -> bool:
    """Return whether a new file that replaces this one can have all of its metadata."""
    found = os.stat(path)
    if found.st_nlink != 1:
        return False
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        groups = {os.getegid(), *os.getgroups()}
        if found.st_uid != os.geteuid() or found.st_gid not in groups:
            return False
    return all(name.startswith(_OURS) or name == _LABEL for name in _attributes(path))


def copy_metadata(source: str, target: str) -> None:
    """Copy the owner, the mode and the extended attributes of one file to another."""
    found = os.stat(source)
    if hasattr(os, "chown"):
        made = os.stat(target)
        if (made.st_uid, made.st_gid) != (found.st_uid, found.st_gid):
            os.chown(target, found.st_uid, found.st_gid)
    shutil.copymode(source, target)
    for name in _attributes(source):
        value = os.getxattr(source, name)
        with contextlib.suppress(OSError) if name == _LABEL else contextlib.nullcontext():
            os.setxattr(target, name, value)


def _attributes(path: str) -> list[str]:
    if not _HAS_ATTRIBUTES:
        return []
    try:
        return os.listxattr(path)
    except OSError as error:
        if error.errno not in _NONE:
            raise
        return []
