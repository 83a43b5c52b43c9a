"""A dask array as an iterator, since hdmf's containers refuse dask arrays."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np

from dask_chunkio.errors import ArgumentTypeError
from dask_chunkio.geometry.grid import Array, Selection, Shape
from dask_chunkio.iterator import GenericDataChunkIterator
from dask_chunkio.validation import typed

__all__ = ["DaskIterator"]


class DaskIterator(GenericDataChunkIterator):
    """A dask array in the form that hdmf's containers and ``H5DataIO`` accept.

    Our ``HDF5IO`` computes the array with its scheduler, each block once.  hdmf's own computes it buffer by buffer.

    Parameters
    ----------
    array : dask.array.Array
        The array.
    **options
        Keywords of `GenericDataChunkIterator`, such as ``chunk_shape``.

    Raises
    ------
    ArgumentTypeError
        If `array` is not a dask array.

    Examples
    --------
    >>> data = DaskIterator(da.arange(100, chunks=10), chunk_shape=(20,), buffer_shape=(40,))
    >>> data.maxshape, int(next(data).data[-1])
    ((100,), 39)
    """

    def __init__(self, array: Any, **options: Any) -> None:
        if not isinstance(array, da.Array):
            raise ArgumentTypeError(f"DaskIterator needs a dask array, not {typed(array)}; give arrays as they are")
        self.array = array
        super().__init__(**options)

    def _get_data(self, selection: Selection) -> Array:
        found: Array = np.asarray(self.array[selection].compute())
        return found

    def _get_maxshape(self) -> Shape:
        return tuple(map(int, self.array.shape))

    def _get_dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.array.dtype
        return dtype
