"""Payloads in the file, compared with what the journal says of them."""

from __future__ import annotations

import os
from typing import Any

from dask_chunkio.storage.filesystem.io import pread_into
from dask_chunkio.storage.journal.records import checksum

__all__ = ["is_placed", "read_payload"]


def read_payload(descriptor: int, row: Any) -> memoryview | None:
    """Return a payload as it stands in its place; None where that is not what was committed.

    Parameters
    ----------
    descriptor : int
        Of the file.
    row : numpy.void
        Of the journal's table.
    """
    nbytes = int(row["nbytes"])
    if nbytes > os.fstat(descriptor).st_size:
        return None
    data = memoryview(bytearray(nbytes))
    is_whole = pread_into(descriptor, data, int(row["offset"])) == nbytes
    return data if not nbytes or (is_whole and checksum(data) == int(row["checksum"])) else None


def is_placed(descriptor: int, row: Any) -> bool:
    """Say whether a payload stands in its place as it was committed."""
    return read_payload(descriptor, row) is not None
