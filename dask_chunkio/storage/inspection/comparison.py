"""The payloads of an unfinished write, compared with the checksums in its journal."""

from __future__ import annotations

import numpy as np

from dask_chunkio.geometry.grid import ChunkGrid
from dask_chunkio.printable import printable
from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.io import open_side_file
from dask_chunkio.storage.journal.journal import Journal
from dask_chunkio.storage.journal.payloads import read_payload
from dask_chunkio.storage.target import Target

__all__ = ["compare_payloads"]


def compare_payloads(target: Target) -> tuple[int, list[str]]:
    """Compare every payload of an unfinished write with its checksum.

    Parameters
    ----------
    target : Target
        The write, as `Target.found` returns it.

    Returns
    -------
    int, list of str
        How many were compared, and one line for each that is not what was committed.

    Raises
    ------
    OSError
        If a file cannot be read.
    IntegrityError
        If the journal is damaged.
    """
    problems, checked = [], 0
    file = open_side_file(target.file, write=False)
    try:
        journal = _journal(target)
        for number, made in enumerate(journal.created.datasets if journal.created else ()):
            grid = ChunkGrid(made.shape, made.chunks)
            table = journal.table(number)
            for chunk in np.flatnonzero(table["state"]):
                checked += 1
                if read_payload(file, table[chunk]) is None:
                    where = f"the chunk at {grid.origin(int(chunk))}" if made.is_chunked else "the data"
                    problems.append(printable(f"{made.name}: {where} is not what was committed"))
    finally:
        close_descriptor(file)
    return checked, problems


def _journal(target: Target) -> Journal:
    try:
        descriptor = open_side_file(target.journal, write=False)
    except FileNotFoundError:
        return Journal(-1, target.journal)
    try:
        journal = Journal(descriptor, target.journal)
        journal.refresh()
    finally:
        close_descriptor(descriptor)
    return journal
