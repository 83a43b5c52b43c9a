"""Where the chunks of a dataset are: one row for each chunk that has space in the file, found by its number."""

from __future__ import annotations

from dataclasses import dataclass

import h5py
import numpy as np

from dask_chunkio.errors import IntegrityError
from dask_chunkio.geometry.grid import Array, ChunkGrid
from dask_chunkio.storage.chunk_index import StoredChunks, count_stored, list_stored

__all__ = ["ChunkTable", "Place", "chunk_table", "read_chunk_table"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a payload is, and which filters it skips.

    Parameters
    ----------
    offset, nbytes : int
        Its first byte in the file, and how many there are.
    mask : int
        As `Payload.mask`.
    """

    offset: int
    nbytes: int
    mask: int


@dataclass(frozen=True, slots=True, eq=False)
class ChunkTable:
    """The places of all stored chunks of a dataset.

    Parameters
    ----------
    numbers : numpy.ndarray
        Numbers of the chunks in C order of the grid, ascending.
    offsets, nbytes, masks : numpy.ndarray
        One row for each of them.
    """

    numbers: Array
    offsets: Array
    nbytes: Array
    masks: Array

    def __len__(self) -> int:
        return len(self.numbers)

    def find(self, number: int) -> Place | None:
        """Return the place of a chunk; None if it was never written."""
        row = int(np.searchsorted(self.numbers, number))
        if row == len(self.numbers) or self.numbers[row] != number:
            return None
        return Place(int(self.offsets[row]), int(self.nbytes[row]), int(self.masks[row]))


def read_chunk_table(dataset: h5py.Dataset, file_nbytes: int) -> ChunkTable | None:
    """Ask HDF5 for the places of all chunks of a dataset.

    Parameters
    ----------
    dataset : h5py.Dataset
        A chunked dataset.
    file_nbytes : int
        Size of its file.

    Returns
    -------
    ChunkTable or None
        None if this build of HDF5 does not tell where chunks are.

    Raises
    ------
    IntegrityError
        If the places are impossible.
    """
    if (count := count_stored(dataset)) > file_nbytes:
        raise IntegrityError(f"its index lists {count} chunks, and the whole file has {file_nbytes} bytes")
    return chunk_table(list_stored(dataset), ChunkGrid(dataset.shape, dataset.chunks), file_nbytes)


def chunk_table(stored: StoredChunks, grid: ChunkGrid, file_nbytes: int) -> ChunkTable | None:
    """Return the table of the chunks that HDF5 has listed; arguments, result and errors as of `read_chunk_table`."""
    places = stored.places
    if len(stored) and not places["nbytes"].any():
        return None
    cells, rests = np.divmod(stored.origins, np.array(grid.chunk_shape, np.int64))
    if rests.any() or not ((cells >= 0) & (cells < np.array(grid.cells, np.int64))).all():
        raise IntegrityError("its index lists chunks that its grid does not have")
    numbers = np.ravel_multi_index(tuple(cells.T), grid.cells) if len(stored) else np.zeros(0, np.int64)
    order = np.argsort(numbers, kind="stable")
    numbers = numbers[order]
    if (numbers[1:] == numbers[:-1]).any():
        raise IntegrityError("its index lists a chunk twice")
    offsets, nbytes = places["offset"][order], places["nbytes"][order]
    if len(stored) and (nbytes > file_nbytes).any():
        raise IntegrityError(f"its index lists chunks that are larger than the whole file of {file_nbytes} bytes")
    if (offsets > np.uint64(file_nbytes) - nbytes).any():
        raise IntegrityError(f"its index lists chunks beyond the end of the file, which has {file_nbytes} bytes")
    return ChunkTable(numbers, offsets, nbytes.astype(np.uint32), places["mask"][order].astype(np.uint32))
