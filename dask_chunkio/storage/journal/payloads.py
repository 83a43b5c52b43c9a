"""Payloads in the file, compared with their rows in the journal."""

from __future__ import annotations

import os
from typing import Any

from dask_chunkio.storage.filesystem.io import pread_into
from dask_chunkio.storage.journal.checksum import checksum

__all__ = ["is_placed", "read_payload"]


def read_payload(descriptor: int, row: Any) -> memoryview | None:
    """Read a payload from its location; return None if it is not what was committed.

    Parameters
    ----------
    descriptor : int
        Descriptor of the file.
    row : numpy.void
        Row of the journal's table.
    """
    nbytes = int(row["nbytes"])
    if nbytes > os.fstat(descriptor).st_size:
        return None
    data = memoryview(bytearray(nbytes))
    is_whole = pread_into(descriptor, data, int(row["offset"])) == nbytes
    return data if not nbytes or (is_whole and checksum(data) == int(row["checksum"])) else None


def is_placed(descriptor: int, row: Any) -> bool:
    """Return whether the payload at its location is what was committed."""
    return read_payload(descriptor, row) is not None
