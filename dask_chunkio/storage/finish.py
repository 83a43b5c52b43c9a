"""What ends a write, inside its last turn."""

from __future__ import annotations

from collections.abc import Sequence

import h5py

from dask_chunkio.errors import IntegrityError
from dask_chunkio.storage.chunk_index import index_differs
from dask_chunkio.storage.hdf5.dataset import DatasetLayout, DatasetSpec
from dask_chunkio.storage.index_repair import rebuild_dataset
from dask_chunkio.storage.journal.records import FINISHED, pack_record
from dask_chunkio.storage.open_transaction import OpenFile
from dask_chunkio.storage.preconditions import require_replaceable
from dask_chunkio.storage.tokens import add_token
from dask_chunkio.storage.transaction import Turns

__all__ = ["end", "mend", "require_all"]


def require_all(turns: Turns, layouts: Sequence[DatasetLayout]) -> None:
    """Refuse to end what is not whole.

    Raises
    ------
    IntegrityError
        If chunks are missing.
    """
    for number, layout in enumerate(layouts):
        if missing := turns.journal.missing(number):
            total = len(turns.journal.table(number))
            raise IntegrityError(
                f"{layout.name}: {total - missing} of {total} chunks are committed; go on with resume=True"
            )


def mend(turns: Turns, layouts: Sequence[DatasetLayout], specs: Sequence[DatasetSpec]) -> list[str]:
    """Compare HDF5's indices with the journal; where one differs, make it anew from the journal.

    Parameters
    ----------
    turns : Turns
        In a turn.
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
        difference = _difference(turns, number, layout)
        if difference is not None and layout.region is not None:
            # Readers see it, and other programs may change it between two turns.
            notes.append(f"{difference}: another program has changed it since")
        elif difference is not None:
            rebuild_dataset(turns, number, layout, specs[number])
            if (left := _difference(turns, number, layout)) is not None:
                raise IntegrityError(f"{left}, also after it was rebuilt; discard the write and start it again")
            notes.append(f"{difference}: the index was rebuilt from the journal")
    return notes


def _difference(turns: Turns, number: int, layout: DatasetLayout) -> str | None:
    # What HDF5 keeps in memory does not show what readers will find.  Everything is committed.
    turns.abandon()
    with turns.opened() as state:
        dataset = state.dataset(turns.path_of(number))
        return index_differs(state.staged, dataset, layout, turns.journal.table(number))


def end(turns: Turns, layouts: Sequence[DatasetLayout]) -> None:
    """Commit the last turn, and make sure that plain HDF5 reads the file."""
    with turns.opened() as state:
        _name_datasets(turns, state)
        _note_token(turns, state)
        turns.commit(state, pack_record(FINISHED, b""), close=True, durable=True)
        turns.trim(state.staged.size)
    # Our own lock would refuse HDF5's; nobody else can have this file open for writing.
    with h5py.File(turns.target.file, "r", locking=False) as plain:
        for layout in layouts:
            plain[layout.name].id.get_space_status()


def _note_token(turns: Turns, state: OpenFile) -> None:
    """Keep the token with the datasets, in the very commit that finishes the write."""
    created = turns.journal.created
    if created is not None and created.token is not None:
        for made in created.datasets:
            add_token(state.dataset(made.name), created.token)


def _name_datasets(turns: Turns, state: OpenFile) -> None:
    created = turns.journal.created
    if created is None or not created.group:
        return
    for number, made in enumerate(created.datasets):
        if made.region:
            continue
        require_replaceable(state.h5, made.name, turns.target)
        if made.name in state.h5:
            del state.h5[made.name]
        state.h5.move(created.path(number), made.name)
    del state.h5[created.group]
