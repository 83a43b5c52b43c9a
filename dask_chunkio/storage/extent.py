"""Datasets whose length is unknown until their source ends."""

from __future__ import annotations

import math
from dataclasses import replace

from dask_chunkio.errors import IntegrityError
from dask_chunkio.geometry.grid import ChunkGrid
from dask_chunkio.storage.hdf5.dataset import DatasetLayout
from dask_chunkio.storage.journal.created import Created, CreatedDataset
from dask_chunkio.storage.journal.journal import Entries
from dask_chunkio.storage.transaction import Lock, Transactions

__all__ = ["extend"]


def extend(
    transactions: Transactions, number: int, layout: DatasetLayout, length: int, lock: Lock, *, ended: bool
) -> DatasetLayout:
    """Change the length of the first axis of a dataset, in a transaction of its own.

    The numbers of its chunks do not depend on this length.

    Parameters
    ----------
    transactions : Transactions
        The transactions of the write.
    number : int
        Number of the dataset.
    layout : DatasetLayout
        The dataset as the caller knows it.
    length : int
        New length in elements; less than before only if `ended`.
    lock : callable
        Returns the scheduler's lock.
    ended : bool
        Whether this is the final length.

    Returns
    -------
    DatasetLayout
        The dataset afterwards; longer than requested if an interrupted call had written more.

    Raises
    ------
    IntegrityError
        If more is committed than fits, or the dataset had ended with another length: the source
        of a resumed write has changed.
    """
    with transactions.transaction(lock):
        created = transactions.journal.created
        if created is None:
            raise IntegrityError(f"{transactions.target.journal} does not record what was created; discard the write")
        made = created.datasets[number]
        is_needed = made.open_ended and (ended or made.shape[0] < length)
        if not made.open_ended and (length > made.shape[0] or (ended and length != made.shape[0])):
            raise _of_another_length(made, length)
        if ended:
            _require_nothing_behind(made, transactions.journal.table(number), length)
        if is_needed:
            shape = (length, *made.shape[1:])
            _resize(transactions, created, number, replace(made, shape=shape, open_ended=not ended))
            return replace(layout, shape=shape)
        return replace(layout, shape=made.shape)


def _resize(transactions: Transactions, created: Created, number: int, made: CreatedDataset) -> None:
    datasets = list(created.datasets)
    datasets[number] = made
    with transactions.opened() as state:
        state.dataset(transactions.journal.path_of(number)).resize(made.shape)
        transactions.commit(state, replace(created, datasets=tuple(datasets)).pack())


def _require_nothing_behind(made: CreatedDataset, table: Entries, length: int) -> None:
    """Refuse to truncate chunks that have space.

    HDF5 would free their space, or write to it again, while a late writer may still place data there.
    """
    grid = ChunkGrid(made.shape, made.chunks)
    if made.shape[0] > length and table["state"][length // made.chunks[0] * math.prod(grid.cells[1:]) :].any():
        raise _of_another_length(made, length)


def _of_another_length(made: CreatedDataset, length: int) -> IntegrityError:
    return IntegrityError(
        f"{made.name}: the stream has {length} rows now, but another number when its write was begun; "
        f"give it the same stream, or discard the write"
    )
