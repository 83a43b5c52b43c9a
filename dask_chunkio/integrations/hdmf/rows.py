"""hdmf's `DataChunkIterator` as a stream without gaps."""

from __future__ import annotations

import collections
from typing import Any

import h5py
import numpy as np
from hdmf.data_utils import DataChunkIterator

from dask_chunkio.data_chunk import DataChunk

__all__ = ["Rows"]

# Fill values are handed out in pieces of about this size.
_PIECE_NBYTES = 1 << 24


class Rows:
    """The rows of a `DataChunkIterator` for a dataset, from the first to the last one.

    A `DataChunkIterator` skips the rows for which its data have None, and may end before the dataset does.  hdmf leaves
    fill values there; this stream returns them.

    Parameters
    ----------
    iterator : hdmf.data_utils.DataChunkIterator
        It iterates over the first axis.
    dataset : h5py.Dataset
        The dataset as hdmf made it for this iterator.

    Attributes
    ----------
    maxshape : tuple of int or None
        The first length is None if it is unknown.
    dtype : numpy.dtype
        The dtype of the iterator.
    """

    def __init__(self, iterator: DataChunkIterator, dataset: h5py.Dataset) -> None:
        self._iterator = iterator
        self._length, self._row, self._fill = dataset.shape[0], 0, dataset.fillvalue
        self._held: collections.deque[Any] = collections.deque()
        self._has_ended = False
        is_known = iterator.maxshape[0] is not None
        self.maxshape = (self._length if is_known else None, *dataset.shape[1:])
        self.dtype: np.dtype[Any] = np.dtype(iterator.dtype)

    def hold(self, nbytes: int) -> bool:
        """Read until `nbytes` are in memory, and return whether the iterator has ended before that."""
        held = 0
        while held < nbytes:
            try:
                self._held.append(next(self._iterator))
            except StopIteration:
                self._has_ended = True
                return True
            held += self._held[-1].data.nbytes
        return False

    def write(self, dataset: h5py.Dataset) -> None:
        """Write what is in memory to the dataset, as hdmf does."""
        for chunk in self._held:
            dataset.id.extend(chunk.get_min_bounds())
            dataset[chunk.selection] = chunk.data
        self._held.clear()

    def __iter__(self) -> Rows:
        return self

    def __next__(self) -> DataChunk:
        if not self._held and not self._has_ended:
            self.hold(1)
        start = self._held[0].selection[0].start if self._held else self._length
        if start > self._row:
            return self._chunk(self._filled(start - self._row))
        if not self._held:
            raise StopIteration
        return self._chunk(self._held.popleft().data)

    def _chunk(self, data: np.ndarray[Any, Any]) -> DataChunk:
        if data.dtype != self.dtype and np.can_cast(data.dtype, self.dtype):
            data = data.astype(self.dtype)
        start, self._row = self._row, self._row + len(data)
        return DataChunk(data, slice(start, self._row))

    def _filled(self, count: int) -> np.ndarray[Any, Any]:
        row_nbytes = max(1, self.dtype.itemsize * int(np.prod(self.maxshape[1:], dtype="i8")))
        shape = min(count, max(1, _PIECE_NBYTES // row_nbytes)), *self.maxshape[1:]
        return np.full(shape, self._fill, self.dtype)
