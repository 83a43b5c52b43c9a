"""Chunks that readers can see already: replaced inside a transaction, completely or not at all.

HDF5 reuses freed space at once: the space of a new payload may be that of an old one.  So a
payload is placed before the commit only if it lies behind the end of the last
commit; everything before that end goes through the log.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import h5py

from dask_chunkio.errors import TargetChangedError, TargetError
from dask_chunkio.filters.chunk_format import Payload
from dask_chunkio.filters.chunking import filled
from dask_chunkio.filters.conversion import assign
from dask_chunkio.geometry.grid import Array, Selection, Shape, selection_shape
from dask_chunkio.storage.hdf5.dataset import DatasetLayout, describe
from dask_chunkio.storage.journal.checksum import checksum
from dask_chunkio.storage.open_transaction import OpenTransaction
from dask_chunkio.storage.transaction import Transactions

__all__ = ["Change", "Part", "extend_dataset", "needs_no_space", "place_visible", "require_as_planned"]
__all__ += ["reserve_over", "truncate_dataset"]

Row = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Part:
    """New elements for a part of a chunk.

    Parameters
    ----------
    chunk : int
        Number of the chunk.
    data : numpy.ndarray
        The elements.
    selection : tuple of slice
        Where the elements go, in the window of the region.
    """

    chunk: int
    data: Array
    selection: Selection


@dataclass(frozen=True, slots=True)
class Change:
    """The new content of the chunks that a buffer touches.

    Parameters
    ----------
    payloads : sequence of (int, Payload)
        Complete chunks, by their numbers.
    parts : sequence of Part
        Chunks that keep some of their elements: they are read, merged and encoded in the transaction.
    encode : callable
        Makes the payload of a chunk.
    """

    payloads: Sequence[tuple[int, Payload]]
    parts: Sequence[Part]
    encode: Callable[[Array], Payload]


def extend_dataset(file: h5py.File, layout: DatasetLayout) -> DatasetLayout:
    """Make sure that a dataset is as it was planned, and extend it for an append, or to the shape that it gets.

    Raises
    ------
    TargetChangedError
        If another write or program has changed it.
    TargetError
        If HDF5 cannot extend it.
    """
    require_as_planned(file, layout)
    dataset = file[layout.name]
    before, extent = dataset.shape, layout.shape if layout.region is None else layout.region.extent
    if extent != before:
        try:
            dataset.resize(extent)
        except (OSError, RuntimeError, ValueError) as error:
            raise TargetError(
                f"{layout.name}: HDF5 cannot extend the dataset from {before} to {extent} ({error}); "
                f"nothing was written.  Copy it to a new dataset, and append to that"
            ) from error
    return layout


def require_as_planned(file: h5py.File, layout: DatasetLayout) -> None:
    """Make sure that a dataset is as it was when a write into it was planned.

    Raises
    ------
    TargetChangedError
        If another write or program has changed it.
    """
    found, region = file.get(layout.name), layout.region
    is_there = isinstance(found, h5py.Dataset) and (region is None or found.shape == region.before)
    if not is_there or replace(describe(found).form, chunk_shape=layout.form.chunk_shape) != layout.form:
        raise TargetChangedError(
            f"{layout.name} was changed or removed by another program meanwhile; run the write again"
        )


def truncate_dataset(file: h5py.File, name: str, before: Shape, extent: Shape) -> None:
    """Undo an append, unless another program has changed the shape since."""
    found = file.get(name)
    if isinstance(found, h5py.Dataset) and found.shape == extent != before:
        found.resize(before)


def place_visible(
    transactions: Transactions, state: OpenTransaction, layout: DatasetLayout, change: Change
) -> list[Row]:
    """Reserve space for payloads inside a transaction, and write them there or stage them.

    Parameters
    ----------
    transactions : Transactions
        The transactions of the write.
    state : OpenTransaction
        The open file.
    layout : DatasetLayout
        The dataset, with its region.
    change : Change
        The new content of its chunks.

    Returns
    -------
    list of tuple
        Chunk, offset, length, checksum and mask of each, for the journal.
    """
    dataset = state.dataset(layout.name)
    merged = [(part.chunk, change.encode(_merged(dataset, layout, part))) for part in change.parts]
    # Also stage what lies between HDF5's end and the file's: a failed transaction may have left data there.
    end = os.fstat(transactions.files.file).st_size
    rows, behind = [], []
    for chunk, payload in (*change.payloads, *merged):
        offset = reserve_over(state, dataset.id, layout.origin(chunk), (payload.nbytes, payload.mask))
        if offset >= end:
            behind.append((offset, payload.data))
        else:
            state.staged.stage(offset, payload.data)
        rows.append((chunk, offset, payload.nbytes, checksum(payload.data), payload.mask))
    transactions.payloads.place(behind)
    return rows


def _merged(dataset: h5py.Dataset, layout: DatasetLayout, part: Part) -> Array:
    region, form = layout.region, layout.form
    if region is None:
        raise ValueError("not a part of a dataset")
    chunk = layout.chunks[part.chunk]
    origin = tuple(axis.start for axis in chunk)
    there = tuple(
        slice(axis.start, min(axis.start + length, extent - first))
        for axis, length, extent, first in zip(chunk, form.chunk_shape, region.extent, region.origin, strict=True)
    )
    full = filled(form)
    old = dataset[region.of_dataset(there)]
    assign(full[tuple(map(slice, selection_shape(there)))], old)
    inside = tuple(
        slice(axis.start - first, axis.stop - first) for axis, first in zip(part.selection, origin, strict=True)
    )
    assign(full[inside], part.data)
    return full


def reserve_over(
    state: OpenTransaction, dataset: h5py.h5d.DatasetID, origin: tuple[int, ...], payload: tuple[int, int]
) -> int:
    """Reserve space for a chunk that may have a payload already, and return its offset.

    Another length is reserved in between if HDF5 would otherwise keep the old mask.

    Parameters
    ----------
    state : OpenTransaction
        The open file.
    dataset : h5py.h5d.DatasetID
        The dataset.
    origin : tuple of int
        The first element of the chunk.
    payload : tuple of int
        Length and mask of the new payload.
    """
    nbytes, mask = payload
    there = state.staged.locate(dataset, origin, nbytes)
    if there is not None and there[1] == nbytes and there[2] != mask:
        state.staged.reserve(dataset, origin, nbytes + 1, mask)
    return state.staged.reserve(dataset, origin, nbytes, mask)


def needs_no_space(
    state: OpenTransaction,
    dataset: h5py.h5d.DatasetID,
    layout: DatasetLayout,
    origin: tuple[int, ...],
    payload: Payload,
) -> bool:
    """Return whether a chunk reads as its payload without being stored.

    Parameters
    ----------
    state : OpenTransaction
        The open file.
    dataset : h5py.h5d.DatasetID
        The dataset.
    layout : DatasetLayout
        How it was planned.
    origin : tuple of int
        The first element of the chunk.
    payload : Payload
        The payload that the chunk is to have.
    """
    # The index of a new dataset may have to be rebuilt from the journal, which has no rows for such chunks then.
    if not payload.is_fill or not layout.is_filled:
        return False
    plist = dataset.get_create_plist()
    is_read = (
        plist.get_fill_time() != h5py.h5d.FILL_TIME_NEVER
        and plist.fill_value_defined() != h5py.h5d.FILL_VALUE_UNDEFINED
    )
    return is_read and state.staged.locate(dataset, origin, layout.form.most_payload_nbytes) is None
