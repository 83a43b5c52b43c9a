"""Payloads that overlap in the file: HDF5 gives space away twice if its metadata are damaged."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dask_chunkio.storage.journal.journal import Entries

__all__ = ["find_overlap"]


def find_overlap(tables: Sequence[Entries]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return two payloads that share bytes of the file, each as (dataset, chunk); None if there are none.

    Parameters
    ----------
    tables : sequence of numpy.ndarray
        For each dataset, the journal's rows of all chunks: ``offset``, ``nbytes``, ``state``.

    Examples
    --------
    >>> from dask_chunkio.storage.journal.journal import HELD, ROW
    >>> table = np.array([(100, 8, 0, 0, HELD), (104, 8, 0, 0, HELD), (104, 8, 0, 0, 0)], ROW)
    >>> find_overlap([table])
    ((0, 0), (0, 1))
    >>> find_overlap([table[:1], table[2:]]) is None
    True
    """
    chunks = [np.flatnonzero((table["state"] != 0) & (table["nbytes"] != 0)) for table in tables]
    rows = [table[held] for table, held in zip(tables, chunks, strict=True)]
    starts = np.concatenate([part["offset"] for part in rows]).astype(np.int64)
    ends = starts + np.concatenate([part["nbytes"] for part in rows]).astype(np.int64)
    order = np.argsort(starts, kind="stable")
    # In the order of their starts, one of two neighbours overlaps if any two payloads do.
    shared = np.flatnonzero(ends[order[:-1]] > starts[order[1:]])
    if not len(shared):
        return None
    first, second = (_number(chunks, int(order[at])) for at in (shared[0], shared[0] + 1))
    return first, second


def _number(chunks: Sequence[Entries], at: int) -> tuple[int, int]:
    """Return the dataset and the chunk of a row among the rows of all datasets."""
    ends = np.cumsum([len(held) for held in chunks])
    dataset = int(np.searchsorted(ends, at, side="right"))
    return dataset, int(chunks[dataset][at - int(ends[dataset])])
