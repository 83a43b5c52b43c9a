"""Rebuilding of an index from the journal, if HDF5's own index differs from it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace

import h5py
import numpy as np

from dask_chunkio.errors import ChunkIOError, IntegrityError
from dask_chunkio.geometry.grid import Array
from dask_chunkio.storage.chunk_index import UNREADABLE
from dask_chunkio.storage.filesystem.io import pread_into, pwrite_all
from dask_chunkio.storage.hdf5.dataset import DatasetLayout, DatasetSpec, describe, make_dataset
from dask_chunkio.storage.hdf5.h5py_compat import keep_unlinked
from dask_chunkio.storage.journal.checksum import checksum
from dask_chunkio.storage.journal.journal import HELD, ROW, VOID, Entries, Reservations
from dask_chunkio.storage.journal.records import FILLED, RESERVED
from dask_chunkio.storage.open_transaction import OpenTransaction
from dask_chunkio.storage.transaction import Transactions

__all__ = ["rebuild_dataset"]

# The number of a payload's chunk, the new offset of the payload, and its row in the journal.
_MOVED = np.dtype([("chunk", "<u8"), ("to", "<u8"), *((name, ROW[name]) for name in ROW.names or ())])


def rebuild_dataset(transactions: Transactions, number: int, layout: DatasetLayout, spec: DatasetSpec) -> None:
    """Replace a dataset with one that holds the payloads of the journal, inside a transaction.

    Every payload is read from its location, compared with its checksum, and copied to a new
    location that HDF5 allocates; the old dataset stays as it was until the commit.

    Parameters
    ----------
    transactions : Transactions
        The transactions of the write, inside a transaction.
    number : int
        Number of the dataset.
    layout : DatasetLayout
        The dataset as it was created.
    spec : DatasetSpec
        The specification from which it was created.  (Its property list has been through the filters' ``set_local``,
        which some plugins would apply again.)

    Raises
    ------
    IntegrityError
        If such a dataset cannot be created, a payload is not what was written, or a new location overlaps an old one.
    """
    path = transactions.journal.path_of(number)
    end = os.fstat(transactions.files.file).st_size
    with transactions.opened() as state:
        try:
            moved = _rebuilt(transactions, state, number, layout, (path, spec))
        except ChunkIOError:
            raise
        except UNREADABLE as error:
            state.staged.check()
            raise IntegrityError(
                f"{layout.name}: HDF5's index and the journal disagree, and the dataset cannot be rebuilt ({error}); "
                f"discard the write and start it again"
            ) from error
        # Space below the end of the last commit may still belong to that commit.
        late = _is_late(moved, end)
        _copy(transactions, layout, moved[~late])
        # A chunk counts as committed when its payload is in place: a process that is killed before that must not leave
        # a file that another one finishes.
        committed = moved.copy()
        committed["state"][late] = VOID
        transactions.commit(state, b"".join(_records(transactions, number, committed)), close=True)
    if late.any():
        _copy(transactions, layout, moved[late])
        if transactions.payloads.is_durable:
            transactions.payloads.sync()
        transactions.record(b"".join(_records(transactions, number, moved[late])))


def _is_late(moved: Entries, end: int) -> Array:
    """Return which payloads can be copied only after the commit that gives them their space."""
    return moved["to"] < end


def _rebuilt(
    transactions: Transactions, state: OpenTransaction, number: int, layout: DatasetLayout, how: tuple[str, DatasetSpec]
) -> Entries:
    """Replace the old dataset with an empty one, reserve space in it for every payload, and return the moves."""
    path, spec = how
    table = transactions.journal.table(number)
    chunks = np.flatnonzero(table["state"])
    made = _made_again(state.h5, path, layout, spec)
    _require_alike(made, layout)
    moved = np.zeros(len(chunks), _MOVED)
    moved["chunk"] = chunks
    for name in ROW.names or ():
        moved[name] = table[name][chunks]
    moved["to"] = [
        state.staged.reserve(made.id, origin, int(row["nbytes"]), int(row["mask"]))
        for origin, row in zip(layout.origins(chunks.tolist()), moved, strict=True)
    ]
    _require_apart(transactions, moved, layout.name)
    # The damaged index may name space of other data, which HDF5 would free.
    keep_unlinked(state.h5[path].id)
    del state.h5[path]
    state.h5.move(_twin_path(path), path)
    return moved


def _records(transactions: Transactions, number: int, moved: Entries) -> Iterator[bytes]:
    epoch = transactions.journal.owner.epoch if transactions.journal.owner is not None else 0
    for state, kind in ((HELD, RESERVED), (VOID, FILLED)):
        rows = moved[moved["state"] == state][["chunk", "to", "nbytes", "checksum", "mask"]].tolist()
        if rows:
            yield Reservations.of(number, 0, rows, epoch, time.time_ns()).pack(kind)


def _made_again(file: h5py.File, path: str, layout: DatasetLayout, spec: DatasetSpec) -> h5py.Dataset:
    made = make_dataset(file, replace(spec, name=_twin_path(path)))
    if made.shape != layout.shape:
        made.resize(layout.shape)
    return made


def _require_alike(made: h5py.Dataset, layout: DatasetLayout) -> None:
    """Refuse a dataset that could not read the payloads: some plugins add to their options at every creation."""
    found = replace(describe(made), name=layout.name)
    if found != layout:
        raise IntegrityError(
            f"{layout.name}: HDF5's index and the journal disagree, and the dataset cannot be rebuilt: it was "
            f"{layout.shape} of {layout.form}, and would be {found.shape} of {found.form}; go on with the same call "
            f"and resume=True, or discard the write"
        )


def _twin_path(path: str) -> str:
    return path + ".rebuilt"


def _require_apart(transactions: Transactions, moved: Entries, name: str) -> None:
    """Refuse new locations that overlap payloads in the journal, of any dataset."""
    known = transactions.journal.tables
    lengths = np.concatenate([table["nbytes"] for table in known]).astype(np.int64)
    old = np.concatenate([table["offset"] for table in known]).astype(np.int64)
    new = moved["to"].astype(np.int64)
    order = np.argsort(old)
    starts, ends = old[order], np.maximum.accumulate((old + lengths)[order])
    nearest = np.searchsorted(starts, new + moved["nbytes"].astype(np.int64), side="left") - 1
    if np.any((nearest >= 0) & (ends[np.maximum(nearest, 0)] > new)):
        raise IntegrityError(
            f"{name}: HDF5's index and the journal disagree, and the payloads that the journal knows lie where HDF5 "
            f"sees free space; discard the write and start it again"
        )


def _copy(transactions: Transactions, layout: DatasetLayout, moved: Entries) -> None:
    for row in moved:
        data = bytearray(int(row["nbytes"]))
        count = pread_into(transactions.files.file, memoryview(data), int(row["offset"]))
        if count != len(data) or checksum(data) != int(row["checksum"]):
            raise IntegrityError(
                f"{layout.name}: the payload of the chunk at {layout.origin(int(row['chunk']))} is not what was "
                f"written; go on with resume=True, which reads its source again"
            )
        pwrite_all(transactions.files.file, memoryview(data), int(row["to"]))
