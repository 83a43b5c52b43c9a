"""The paths of files, as users write them."""

from __future__ import annotations

import os
import re
from typing import Any

from dask_chunkio.errors import ArgumentError, ArgumentTypeError

__all__ = ["is_url", "local_path"]

# pathlib makes one slash of two; without the second one, only names that nobody gives a folder.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|(s3a?|gs|gcs|az|abfss?|hdfs|https?|s?ftp|ssh|file|memory):/")


def is_url(path: str) -> bool:
    """Say whether `path` is the address of something that is no file of this machine.

    Examples
    --------
    >>> is_url("s3://bucket/x.h5"), is_url("C:/data/x.h5")
    (True, False)
    """
    return _URL.match(path) is not None


def local_path(name: str, path: Any) -> str:
    """Return the path of a file of this machine, with ``~`` replaced by the user's folder.

    Parameters
    ----------
    name : str
        Of the argument, for messages.
    path : str or path-like
        As the user gives it.

    Raises
    ------
    ArgumentTypeError
        If it is no path.
    ArgumentError
        If it is empty, or the address of something else.

    Examples
    --------
    >>> local_path("filename", "out.h5")
    'out.h5'
    """
    if isinstance(path, bytes) or not isinstance(path, (str, os.PathLike)):
        hint = "; pass its .filename, and close it first" if hasattr(path, "filename") else ""
        raise ArgumentTypeError(f"{name} is a {type(path).__name__}, not a path{hint}")
    found = os.fspath(path)
    if not isinstance(found, str):
        raise ArgumentTypeError(f"{name} is a path of {type(found).__name__}, not of str; use os.fsdecode")
    if not found or "\0" in found:
        raise ArgumentError(f"{name} is {found!r}, which names no file")
    if found.endswith(("/", os.sep)):
        raise ArgumentError(f"{name} is {found!r}, which names a folder; give the name of a file")
    if is_url(found):
        raise ArgumentError(
            f"{found} is a URL, but HDF5 files are written on file systems only; write to the path of a file, and copy "
            f"that there when it is whole"
        )
    return os.path.expanduser(found)
