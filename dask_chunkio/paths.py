"""Checks of the paths that users give."""

from __future__ import annotations

import os
import re
from typing import Any

from dask_chunkio.errors import ArgumentError, ArgumentTypeError

__all__ = ["is_url", "local_path"]

# pathlib replaces two slashes by one.  With one slash, only names that are unlikely as names of folders count.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|(s3a?|gs|gcs|az|abfss?|hdfs|https?|s?ftp|ssh|file|memory):/")


def is_url(path: str) -> bool:
    """Return whether `path` is a URL and not the path of a local file.

    Examples
    --------
    >>> is_url("s3://bucket/x.h5"), is_url("C:/data/x.h5")
    (True, False)
    """
    return _URL.match(path) is not None


def local_path(name: str, path: Any) -> str:
    """Return the path of a local file, with ``~`` replaced by the user's home folder.

    Parameters
    ----------
    name : str
        Name of the argument, for messages.
    path : str or path-like
        The path that the user gave.

    Raises
    ------
    ArgumentTypeError
        If `path` is not a path.
    ArgumentError
        If `path` is empty, names a folder, or is a URL.

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
