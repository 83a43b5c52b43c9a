"""A source that costs nothing: what is measured is what the package does with it."""

from __future__ import annotations

from typing import Any

import numpy as np

import dask_chunkio

__all__ = ["ELEMENTS", "Zeros"]

ELEMENTS = 2048


class Zeros(dask_chunkio.GenericDataChunkIterator):
    """Zeros, in chunks of 4 kB.

    Parameters
    ----------
    chunks : int
        Number of chunks.
    fails_at : int, optional
        Number of the first chunk whose buffer cannot be read: the write ends there, unfinished.
    **options
        As for `dask_chunkio.GenericDataChunkIterator`.
    """

    def __init__(self, chunks: int, fails_at: int | None = None, **options: Any) -> None:
        self._chunks, self._fails_at = chunks, fails_at
        super().__init__(chunk_shape=(ELEMENTS,), **options)

    def _get_data(self, selection: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        (part,) = selection
        if self._fails_at is not None and part.stop > self._fails_at * ELEMENTS:
            raise OSError("this is where the write is to end")
        return np.zeros(part.stop - part.start, np.int16)

    def _get_maxshape(self) -> tuple[int, ...]:
        return (self._chunks * ELEMENTS,)

    def _get_dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int16)
