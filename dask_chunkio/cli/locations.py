"""Locations on the command line: ``FILE`` or ``FILE:/path/inside``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from dask_chunkio.errors import ArgumentError

__all__ = ["Location", "parse_location"]

# Matches neither the colon of a drive (C:/x.h5) nor that of a URL (s3://bucket/x.zarr).
_SPLIT = re.compile(r"(?<!^[A-Za-z]):/(?!/)")
_FORGOTTEN_SLASH = re.compile(r"(.+\.[A-Za-z0-9]+):([^:/\\]+(?:/[^:\\]*)?)")


@dataclass(frozen=True, slots=True)
class Location:
    """A file and optionally a path in it.

    Parameters
    ----------
    file : str
        The file, or the folder of a zarr store.
    path : str or None
        Absolute path of a dataset or array in it.
    """

    file: str
    path: str | None = None

    def __str__(self) -> str:
        return self.file if self.path is None else f"{self.file}:{self.path}"


def parse_location(text: str) -> Location:
    """Split ``FILE:/path`` at its last ``:/`` that is not part of a drive or a URL.

    Raises
    ------
    ArgumentError
        If the name of the file is empty, or the path has no slash at its beginning.

    Examples
    --------
    >>> parse_location("out.h5:/group/raw")
    Location(file='out.h5', path='/group/raw')
    >>> parse_location("C:/data/out.h5:/raw").file
    'C:/data/out.h5'
    >>> parse_location("C:/data/out.h5").path is None
    True
    """
    splits = list(_SPLIT.finditer(text))
    file, path = (text[: splits[-1].start()], text[splits[-1].start() + 1 :]) if splits else (text, None)
    file = os.path.expanduser(file)
    if not file:
        raise ArgumentError(f"{text!r} names no file; give FILE or FILE:/path")
    if path is None and (found := _FORGOTTEN_SLASH.fullmatch(file)):
        raise ArgumentError(f"{text!r}: the path in a file begins with a slash; did you mean '{found[1]}:/{found[2]}'?")
    return Location(file, path)
