"""A dataset of an HDF5 file as an array that is read lazily, in parallel, with numpy's indexing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dask_chunkio.filters.chunk_format import ChunkFormat, Payload
from dask_chunkio.geometry.grid import Array, Shape
from dask_chunkio.reading.block_reader import BlockReader
from dask_chunkio.reading.indexing import read_indexed, read_outer
from dask_chunkio.reading.stored_array import StoredArray

__all__ = ["Hdf5Array"]


class Hdf5Array:
    """A dataset that is read with numpy's indexing: ``array[10:20, ..., [3, 5]]``.

    `dask_chunkio.open_array` makes it.  The file is not kept open: other programs can write to it between two reads.
    The array can be pickled, and used by any number of threads and forked processes.

    Parameters
    ----------
    stored : StoredArray
        The dataset, and where its chunks are.
    threads : int, optional
        Number of threads that decode the chunks of one read; by default as many as this process has processors.

    Attributes
    ----------
    shape : tuple of int
        Its shape, in elements.
    dtype : numpy.dtype
        Type of its elements.
    chunks : tuple of int or None
        Shape of the chunks in the file; None if it has none.
    """

    def __init__(self, stored: StoredArray, threads: int | None = None) -> None:
        self._stored, self._reader = stored, BlockReader(stored, threads)
        self.shape: Shape = stored.shape
        self.dtype: np.dtype[Any] = stored.dtype
        self.chunks: Shape | None = stored.chunks

    @property
    def filename(self) -> str:
        """Absolute path of the file."""
        return self._stored.path

    @property
    def name(self) -> str:
        """Path of the dataset in the file."""
        return self._stored.name

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements in memory."""
        return self.size * self.dtype.itemsize

    @property
    def is_direct(self) -> bool:
        """Whether chunks are decoded outside HDF5, several at once; otherwise HDF5 reads one selection at a time."""
        return self._stored.is_direct

    def __repr__(self) -> str:
        how = "" if self.is_direct else ", read by HDF5"
        return f"<Hdf5Array {self.name} of {self.filename}: shape {self.shape}, dtype {self.dtype}{how}>"

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without axes")
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        return read_indexed(index, self.shape, self._stored.grid.chunk_shape, self._reader.read_wanted)

    def payloads(self, form: ChunkFormat, chunks: Sequence[int]) -> tuple[Payload, ...] | None:
        """Return chunks as they are stored, if that is how a format stores them; otherwise None.

        Parameters
        ----------
        form : ChunkFormat
            The format in which they are wanted.
        chunks : sequence of int
            Numbers of the chunks in C order of the grid.
        """
        return self._stored.payloads(chunks) if self._stored.form == form else None

    def read_outer(self, index: tuple[Any, ...]) -> Any:
        """Return the elements at all combinations of the indices along each axis."""
        return read_outer(index, self.shape, self._reader.read_wanted)

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("an array in a file cannot be used without a copy; leave copy=False out")
        found: Array = np.asarray(self[...])
        return found if dtype is None else found.astype(dtype, copy=False)

    def __dask_tokenize__(self) -> Any:
        return type(self).__qualname__, self._stored.path, self._stored.name, dataclasses.astuple(self._stored.state)
