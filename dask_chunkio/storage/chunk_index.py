"""Where HDF5 has the chunks of a dataset.  No other module asks HDF5 about chunks.

A reader finds a chunk by its coordinates, and so does everything here that decides what is written.
HDF5's own answers about chunks all come from a walk over the index: they do not show that a search for a
chunk goes astray in a damaged index, each takes as long as the index is, and the coordinates are wrong for an
extensible array whose unlimited axis is not the first (HDF5 1.10 to 2.0: it counts them as if the axes had
not been put in another order).
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from dask_chunkio.grid import Array, ChunkGrid, Shape
from dask_chunkio.storage.dataset import DatasetLayout
from dask_chunkio.storage.h5py_compat import EXTENSIBLE_ARRAY, chunk_index_type
from dask_chunkio.storage.hdf5_file import StagedFile
from dask_chunkio.storage.journal import ROW, Entries

__all__ = ["UNREADABLE", "StoredChunks", "count_stored", "index_differs", "list_stored", "misfiled"]

# What h5py raises where HDF5 cannot make sense of its own metadata.
UNREADABLE = (OSError, RuntimeError, ValueError, KeyError)
_counter = itertools.count()
_AT_ONCE = 10_000
# HDF5 numbers no more chunks of an extensible array than this.
_MOST_CHUNKS = 1 << 32


@dataclass(frozen=True, slots=True)
class StoredChunks:
    """The chunks that have a place in the file.

    Parameters
    ----------
    origins : numpy.ndarray
        The first element of each, one row a chunk.
    places : numpy.ndarray
        ``offset``, ``nbytes`` and ``mask`` of each; ``offset`` and ``nbytes`` are 0 where HDF5 does not tell.
    """

    origins: Array
    places: Entries

    def __len__(self) -> int:
        return len(self.origins)


def count_stored(dataset: h5py.Dataset) -> int:
    """Return how many chunks of a dataset have a place."""
    return int(dataset.id.get_num_chunks())


def index_differs(file: StagedFile, dataset: h5py.Dataset, layout: DatasetLayout, table: Entries) -> str | None:
    """Find each chunk by its coordinates, and compare its place with the journal's.

    Parameters
    ----------
    file : StagedFile
        The file that holds the dataset.
    dataset : h5py.Dataset
        The dataset.
    layout : DatasetLayout
        As it was made.
    table : numpy.ndarray
        What the journal says of every chunk: ``offset``, ``nbytes``, ``mask``, ``state``.

    Returns
    -------
    str or None
        The first difference, in words.
    """
    if not layout.is_chunked or not len(layout.chunks):
        return None
    held = np.flatnonzero(table["state"])
    for start in range(0, len(held), _AT_ONCE):
        chunks = held[start : start + _AT_ONCE]
        rows = zip(*(table[name][chunks].tolist() for name in ("offset", "nbytes", "mask")), strict=True)
        for origin, row in zip(layout.origins(chunks.tolist()), rows, strict=True):
            if file.locate(dataset.id, origin, row[1]) != row:
                return f"{layout.name}: HDF5's index and the journal disagree on the chunk at {origin}"
    try:
        outside = layout.region is None and count_stored(dataset) != len(held)
    except UNREADABLE:
        file.check()
        outside = True
    return f"{layout.name}: HDF5's index has chunks that the journal does not know" if outside else None


def misfiled(file: StagedFile, dataset: h5py.Dataset, stored: StoredChunks) -> list[Shape]:
    """Return the chunks that HDF5 lists, and does not find by their coordinates."""
    rows = zip(*(stored.places[name].tolist() for name in ("offset", "nbytes", "mask")), strict=True)
    origins = map(tuple, stored.origins.tolist())
    return [
        origin
        for origin, row in zip(origins, rows, strict=True)
        if row[1] and file.locate(dataset.id, origin, row[1]) != row
    ]


def list_stored(dataset: h5py.Dataset) -> StoredChunks:
    """List the chunks of a dataset that have a place, in no particular order.

    Parameters
    ----------
    dataset : h5py.Dataset
        A chunked dataset, of any file.
    """
    axis = _unlimited_axis(dataset)
    if axis is None or (is_swizzled := _lists_swizzled()) is False:
        return _listed(dataset)
    if is_swizzled is None or axis < 0:
        return _found_one_by_one(dataset)
    listed = _listed(dataset)
    lengths = np.array(dataset.chunks, np.int64)
    most = [math.ceil(end / length) if end else 0 for end, length in zip(dataset.maxshape, dataset.chunks, strict=True)]
    return StoredChunks(_unswizzled(listed.origins // lengths, most, axis) * lengths, listed.places)


def _unlimited_axis(dataset: h5py.Dataset) -> int | None:
    """Return the unlimited axis of an extensible array if that is not the first; -1 if HDF5 does not tell."""
    unlimited = [axis for axis, end in enumerate(dataset.maxshape) if end is None]
    if len(unlimited) != 1 or unlimited == [0]:
        return None
    kind = chunk_index_type(dataset.id)
    if kind is None:
        return -1
    return unlimited[0] if kind == EXTENSIBLE_ARRAY else None


def _listed(dataset: h5py.Dataset) -> StoredChunks:
    """Return what HDF5 lists, as it says it."""
    infos: list[Any] = []
    found: list[tuple[Array, Entries]] = []
    rank = len(dataset.chunks)

    def enter() -> None:
        origins = np.array([info.chunk_offset for info in infos], np.int64).reshape(-1, rank)
        places = [(info.byte_offset, info.size, 0, info.filter_mask, 1) for info in infos]
        found.append((origins, np.array(places, ROW)))
        infos.clear()

    def take(info: Any) -> None:
        infos.append(info)
        # One such object takes ten times the memory of its row.
        if len(infos) == _AT_ONCE:
            enter()

    dataset.id.chunk_iter(take)
    enter()
    return StoredChunks(np.concatenate([one for one, _ in found]), np.concatenate([rows for _, rows in found]))


def _found_one_by_one(dataset: h5py.Dataset) -> StoredChunks:
    grid = ChunkGrid(dataset.shape, dataset.chunks)
    # HDF5 leaves the length undefined where no chunk at all has a place.
    chunks = range(len(grid)) if count_stored(dataset) else range(0)
    origins = [origin for chunk in chunks if _has_place(dataset.id, origin := grid.origin(chunk))]
    return StoredChunks(np.array(origins, np.int64).reshape(-1, len(grid.shape)), np.zeros(len(origins), ROW))


def _has_place(dataset: h5py.h5d.DatasetID, origin: Shape) -> bool:
    try:
        dataset.read_direct_chunk(origin, out=bytearray())
    except ValueError:  # "out buffer is only 0 bytes"
        return True
    except (OSError, RuntimeError):
        return False
    return True


@functools.cache
def _lists_swizzled() -> bool | None:
    """Say whether this HDF5 lists an extensible array by the coordinates of its inner order; None if by others."""
    shape, axis = (2, 2, 3), 1
    name = f"dask_chunkio-index-{next(_counter)}"
    with h5py.File(name, "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        options = {"chunks": (1, 1, 1), "maxshape": (2, None, 3), "compression": "gzip"}
        dataset = file.create_dataset("x", shape, "u1", **options)
        expected = list(np.ndindex(*shape))
        # A chunk is known again by its length.
        for number, origin in enumerate(expected):
            dataset.id.write_direct_chunk(origin, bytes(number + 1))
        listed = _listed(dataset)
    in_order = np.argsort(listed.places["nbytes"])
    if np.array_equal(listed.origins[in_order], expected):
        return False
    return True if np.array_equal(_unswizzled(listed.origins, [2, 0, 3], axis)[in_order], expected) else None


def _unswizzled(cells: Array, most: list[int], axis: int) -> Array:
    """Return the cells of chunks from those that HDF5 lists.

    An extensible array numbers chunks with the unlimited axis as the slowest, the others in their order; the
    list takes these numbers apart as if all axes stood in their order.

    Parameters
    ----------
    cells : numpy.ndarray
        As listed, one row a chunk.
    most : list of int
        How many chunks there can be along each axis; of the unlimited one, anything.
    axis : int
        The unlimited axis.
    """
    numbers = cells[:, axis].copy()
    for n in range(axis + 1, len(most)):
        numbers = numbers * min(most[n], _MOST_CHUNKS) + cells[:, n]
    found = np.empty_like(cells)
    for n in reversed([n for n in range(len(most)) if n != axis]):
        numbers, found[:, n] = np.divmod(numbers, most[n])
    found[:, axis] = numbers
    return found
