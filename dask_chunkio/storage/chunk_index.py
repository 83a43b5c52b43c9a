"""The chunks of a dataset, as HDF5 has them.  No other module asks HDF5 about chunks.

A reader finds a chunk by a search for its coordinates, but HDF5 tells the locations of chunks only as it walks over
the whole index.  A walk does not show that a search fails in a damaged index.  It also reports wrong coordinates
for an extensible array whose unlimited axis is not the first (HDF5 1.10 to 2.0: it counts chunks as if the axes had
not been reordered).  So one walk lists the chunks, and then each chunk is searched for by its coordinates:

- A search of a B-tree of version 1 succeeds only at an entry with exactly these coordinates, which the walk has
  visited too.  So a chunk that is listed once, and is found, is at the listed location.  (A weaker check is not
  enough: these trees have no checksum, and a wrong key inside of one does not show in the list.)
- All other indices are numbered arrays, or trees of version 2, and have checksums: HDF5 refuses a damaged
  block, whether it walks or searches, and both read the same element of it.

If the list differs from the journal, or HDF5's library cannot be called, HDF5 is asked to read each chunk,
and the offset at which it would read is recorded.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import h5py
import numpy as np

from dask_chunkio.geometry.grid import Array, ChunkGrid, Shape
from dask_chunkio.storage.hdf5.dataset import DatasetLayout
from dask_chunkio.storage.hdf5.h5py_compat import EXTENSIBLE_ARRAY, can_search, chunk_index_type, search_chunks
from dask_chunkio.storage.hdf5.staged_file import StagedFile
from dask_chunkio.storage.journal.journal import ROW, Entries

__all__ = ["UNREADABLE", "StoredChunks", "count_stored", "index_differs", "list_stored", "misfiled"]

# The errors that h5py raises if HDF5 cannot interpret its own metadata.
UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, KeyError, ArithmeticError, MemoryError, SystemError)
_counter = itertools.count()
_AT_ONCE = 4096
# A list contains all chunks of a dataset; for each chunk it costs a fifth of a separate query.
_MOST_LISTED = 5
# HDF5 numbers no more chunks of an extensible array than this.
_MOST_CHUNKS = 1 << 32


@dataclass(frozen=True, slots=True)
class StoredChunks:
    """The chunks that have space in the file.

    Parameters
    ----------
    origins : numpy.ndarray
        The first element of each chunk, one row per chunk.
    places : numpy.ndarray
        ``offset``, ``nbytes`` and ``mask`` of each; ``offset`` and ``nbytes`` are 0 where HDF5 does not report them.
    """

    origins: Array
    places: Entries

    def __len__(self) -> int:
        return len(self.origins)


def count_stored(dataset: h5py.Dataset) -> int:
    """Return how many chunks of a dataset have space in the file."""
    return int(dataset.id.get_num_chunks())


def index_differs(file: StagedFile, dataset: h5py.Dataset, layout: DatasetLayout, table: Entries) -> str | None:
    """Search for each chunk by its coordinates, and compare its location with the journal's.

    Parameters
    ----------
    file : StagedFile
        The file that holds the dataset.
    dataset : h5py.Dataset
        The dataset.
    layout : DatasetLayout
        The dataset as it was created.
    table : numpy.ndarray
        The journal's rows of all chunks: ``offset``, ``nbytes``, ``mask``, ``state``.

    Returns
    -------
    str or None
        The first difference, in words; None without any.
    """
    if not layout.is_chunked or not len(layout.chunks):
        return None
    # A row without bytes stands for a chunk that is not stored.
    held = np.flatnonzero((table["state"] != 0) & (table["nbytes"] != 0))
    expected = StoredChunks(_origins(layout, held), table if len(held) == len(table) else table[held])
    is_listed = _listed_alike(file, dataset, layout, table)[held]
    for origin in _astray(file, dataset, expected, is_listed):
        return f"{layout.name}: HDF5's index and the journal disagree on the chunk at {origin}"
    try:
        outside = layout.region is None and count_stored(dataset) != len(held)
    except UNREADABLE:
        file.check()
        outside = True
    return f"{layout.name}: HDF5's index has chunks that the journal does not know" if outside else None


def misfiled(file: StagedFile, dataset: h5py.Dataset, stored: StoredChunks) -> list[Shape]:
    """Return the chunks that HDF5 lists, but does not find by their coordinates."""
    told = np.flatnonzero(stored.places["nbytes"])
    listed = StoredChunks(stored.origins[told], stored.places[told])
    return list(_astray(file, dataset, listed, _stands_alone(listed.origins)))


def _astray(file: StagedFile, dataset: h5py.Dataset, expected: StoredChunks, is_listed: Array) -> Iterator[Shape]:
    """Yield the chunks that a search by their coordinates does not find at their locations.

    Parameters
    ----------
    file : StagedFile
        The file that holds the dataset.
    dataset : h5py.Dataset
        The dataset.
    expected : StoredChunks
        The expected location of each chunk.
    is_listed : numpy.ndarray
        For each chunk, whether HDF5 lists its coordinates once, with this location; then it only has to be found.
    """
    for start in range(0, len(expected), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        origins, places = expected.origins[part], expected.places[part]
        nbytes = search_chunks(dataset.id, origins)
        is_sure = is_listed[part] & (nbytes > 0) & (nbytes == places["nbytes"])
        for number in np.flatnonzero(~is_sure).tolist():
            origin = tuple(origins[number].view(np.uint64).tolist())
            row = tuple(int(places[number][name]) for name in ("offset", "nbytes", "mask"))
            if file.locate(dataset.id, origin, row[1]) != row:
                yield origin


def _listed_alike(file: StagedFile, dataset: h5py.Dataset, layout: DatasetLayout, table: Entries) -> Array:
    """Return a mask of the chunks that HDF5 lists once, at the location that the journal records."""
    counts, is_alike = np.zeros(len(table), np.uint32), np.zeros(len(table), bool)
    try:
        if not can_search() or count_stored(dataset) > _MOST_LISTED * np.count_nonzero(table["state"]):
            return is_alike
        stored = list_stored(dataset)
    except UNREADABLE:
        file.check()
        return is_alike
    first = (0,) * len(layout.shape) if layout.region is None else layout.region.origin
    cells, rests = np.divmod(stored.origins - np.array(first, np.int64), np.array(layout.form.chunk_shape, np.int64))
    inside = ((cells >= 0) & (cells < np.array(layout.chunks.cells, np.int64)) & (rests == 0)).all(axis=1)
    chunks = np.ravel_multi_index(tuple(cells[inside].T), layout.chunks.cells)
    places = stored.places if inside.all() else stored.places[inside]
    np.add.at(counts, chunks, 1)
    is_alike[chunks] = np.all([places[name] == table[name][chunks] for name in ("offset", "nbytes", "mask")], axis=0)
    is_alike &= counts == 1
    return is_alike


def _origins(layout: DatasetLayout, chunks: Array) -> Array:
    """Return the first element of each chunk, as HDF5 addresses it, one row per chunk."""
    cells = np.stack(np.unravel_index(chunks, layout.chunks.cells), axis=1)
    first = 0 if layout.region is None else np.array(layout.region.origin, np.int64)
    return first + cells * np.array(layout.form.chunk_shape, np.int64)


def _stands_alone(origins: Array) -> Array:
    """Return a mask of the rows that occur once."""
    order = np.lexsort(origins.T)
    is_repeated = (origins[order[1:]] == origins[order[:-1]]).all(axis=1)
    found = np.ones(len(origins), bool)
    found[order[1:][is_repeated]] = False
    found[order[:-1][is_repeated]] = False
    return found


def list_stored(dataset: h5py.Dataset) -> StoredChunks:
    """List the chunks of a dataset that have space in the file, in no particular order.

    Parameters
    ----------
    dataset : h5py.Dataset
        A chunked dataset of any file.
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
    """Return the unlimited axis of an extensible array if it is not the first, else None; -1 if HDF5 does not tell."""
    unlimited = [axis for axis, end in enumerate(dataset.maxshape) if end is None]
    if len(unlimited) != 1 or unlimited == [0]:
        return None
    kind = chunk_index_type(dataset.id)
    if kind is None:
        return -1
    return unlimited[0] if kind == EXTENSIBLE_ARRAY else None


def _listed(dataset: h5py.Dataset) -> StoredChunks:
    """Return the chunks exactly as HDF5 lists them."""
    infos: list[Any] = []
    count, rank, filled = count_stored(dataset), len(dataset.chunks), 0
    origins, places = np.empty((count, rank), np.int64), np.ones(count, ROW)

    def enter() -> None:
        nonlocal filled
        part = slice(filled, filled := filled + len(infos))
        if filled > count:
            raise RuntimeError(f"HDF5 lists more than the {count} chunks that it counts")
        coordinates = itertools.chain.from_iterable(map(attrgetter("chunk_offset"), infos))
        # A damaged index can give any number of 64 bits as a coordinate, and no offset.
        origins[part] = np.fromiter(coordinates, np.uint64, len(infos) * rank).view(np.int64).reshape(-1, rank)
        places["offset"][part] = np.fromiter((info.byte_offset or 0 for info in infos), np.uint64, len(infos))
        places["nbytes"][part] = np.fromiter(map(attrgetter("size"), infos), np.uint64, len(infos))
        places["mask"][part] = np.fromiter(map(attrgetter("filter_mask"), infos), np.uint64, len(infos))
        infos.clear()

    def take(info: Any) -> None:
        infos.append(info)
        # One info object takes ten times the memory of its row.
        if len(infos) == _AT_ONCE:
            enter()

    dataset.id.chunk_iter(take)
    enter()
    return StoredChunks(origins[:filled], places[:filled])


def _found_one_by_one(dataset: h5py.Dataset) -> StoredChunks:
    grid = ChunkGrid(dataset.shape, dataset.chunks)
    # HDF5 leaves the length undefined if no chunk has space.
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
    """Return whether this HDF5 lists an extensible array by the coordinates of its inner order; None if by others."""
    shape, axis = (2, 2, 3), 1
    name = f"dask_chunkio-index-{next(_counter)}"
    with h5py.File(name, "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        options = {"chunks": (1, 1, 1), "maxshape": (2, None, 3), "compression": "gzip"}
        dataset = file.create_dataset("x", shape, "u1", **options)
        expected = list(np.ndindex(*shape))
        # The length of a chunk identifies it.
        for number, origin in enumerate(expected):
            dataset.id.write_direct_chunk(origin, bytes(number + 1))
        listed = _listed(dataset)
    in_order = np.argsort(listed.places["nbytes"])
    if np.array_equal(listed.origins[in_order], expected):
        return False
    return True if np.array_equal(_unswizzled(listed.origins, [2, 0, 3], axis)[in_order], expected) else None


def _unswizzled(cells: Array, most: list[int], axis: int) -> Array:
    """Return the cells of chunks from the cells that HDF5 lists.

    An extensible array numbers chunks with the unlimited axis as the slowest, the others in their order.  The
    list decomposes these numbers as if all axes were in their order.

    Parameters
    ----------
    cells : numpy.ndarray
        Cells as HDF5 lists them, one row per chunk.
    most : list of int
        The largest possible number of chunks along each axis; the value of the unlimited axis is ignored.
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
