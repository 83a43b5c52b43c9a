"""What ends a write, inside its last transaction."""

from __future__ import annotations

from collections.abc import Sequence

import h5py

from dask_chunkio.errors import IntegrityError
from dask_chunkio.storage.chunk_index import index_differs
from dask_chunkio.storage.hdf5.dataset import DatasetLayout, DatasetSpec
from dask_chunkio.storage.index_repair import rebuild_dataset
from dask_chunkio.storage.journal.records import FINISHED, pack_record
from dask_chunkio.storage.open_transaction import OpenTransaction
from dask_chunkio.storage.preconditions import require_replaceable
from dask_chunkio.storage.tokens import add_token
from dask_chunkio.storage.transaction import Transactions

__all__ = ["end", "repair_index", "require_all"]


def require_all(transactions: Transactions, layouts: Sequence[DatasetLayout]) -> None:
    """Refuse to end what is not whole.

    Raises
    ------
    IntegrityError
        If chunks are missing.
    """
    for number, layout in enumerate(layouts):
        if missing := transactions.journal.missing(number):
            total = len(transactions.journal.table(number))
            raise IntegrityError(
                f"{layout.name}: {total - missing} of {total} chunks are committed; go on with resume=True"
            )


def repair_index(
    transactions: Transactions, layouts: Sequence[DatasetLayout], specs: Sequence[DatasetSpec]
) -> list[str]:
    """Compare HDF5's indices with the journal; where one differs, make it anew from the journal.

    Parameters
    ----------
    transactions : Transactions
        In a transaction.
    layouts : sequence of DatasetLayout
        The datasets.
    specs : sequence of DatasetSpec
        What they were made from.

    Returns
    -------
    list of str
        What differed.

    Raises
    ------
    IntegrityError
        If an index cannot be made anew.
    """
    notes = []
    for number, layout in enumerate(layouts):
        difference = _difference(transactions, number, layout)
        if difference is not None and layout.region is not None:
            # Readers see it, and other programs may change it between two transactions.
            notes.append(f"{difference}: another program has changed it since")
        elif difference is not None:
            rebuild_dataset(transactions, number, layout, specs[number])
            if (left := _difference(transactions, number, layout)) is not None:
                raise IntegrityError(f"{left}, also after it was rebuilt; discard the write and start it again")
            notes.append(f"{difference}: the index was rebuilt from the journal")
    return notes


def _difference(transactions: Transactions, number: int, layout: DatasetLayout) -> str | None:
    # What HDF5 keeps in memory does not show what readers will find.  Everything is committed.
    transactions.abandon()
    with transactions.opened() as state:
        dataset = state.dataset(transactions.path_of(number))
        return index_differs(state.staged, dataset, layout, transactions.journal.table(number))


def end(transactions: Transactions, layouts: Sequence[DatasetLayout]) -> None:
    """Commit the last transaction, and make sure that plain HDF5 reads the file."""
    with transactions.opened() as state:
        _name_datasets(transactions, state)
        _note_token(transactions, state)
        transactions.commit(state, pack_record(FINISHED, b""), close=True, durable=True)
        transactions.trim(state.staged.size)
    # Our own lock would refuse HDF5's; nobody else can have this file open for writing.
    with h5py.File(transactions.target.file, "r", locking=False) as plain:
        for layout in layouts:
            plain[layout.name].id.get_space_status()


def _note_token(transactions: Transactions, state: OpenTransaction) -> None:
    """Keep the token with the datasets, in the very commit that finishes the write."""
    created = transactions.journal.created
    if created is not None and created.token is not None:
        for made in created.datasets:
            add_token(state.dataset(made.name), created.token)


def _name_datasets(transactions: Transactions, state: OpenTransaction) -> None:
    created = transactions.journal.created
    if created is None or not created.group:
        return
    for number, made in enumerate(created.datasets):
        if made.region:
            continue
        require_replaceable(state.h5, made.name, transactions.target)
        if made.name in state.h5:
            del state.h5[made.name]
        state.h5.move(created.path(number), made.name)
    del state.h5[created.group]
