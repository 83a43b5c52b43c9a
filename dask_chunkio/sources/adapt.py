"""Finds the adapter for what a user brings."""

from __future__ import annotations

from typing import Any

import numpy as np

from dask_chunkio.errors import ArgumentTypeError
from dask_chunkio.sources.array import ArraySource, is_array_like
from dask_chunkio.sources.iterator import IteratorSource, is_iterator
from dask_chunkio.sources.lazy import LazySource, lazy_array
from dask_chunkio.sources.source import Source
from dask_chunkio.sources.stream import StreamSource, is_stream

__all__ = ["as_source"]


def as_source(value: Any, dataset: str) -> Source:
    """Return the adapter for `value`.

    Parameters
    ----------
    value : object
        An iterator with hdmf's methods, a dask array, anything with ``shape``, ``dtype`` and
        ``__getitem__``, a number, or a nested list of numbers.
    dataset : str
        For messages.

    Raises
    ------
    ArgumentTypeError
        If it is none of these.

    Examples
    --------
    >>> as_source([[1, 2], [3, 4]], "/x").shape
    (2, 2)
    """
    if (array := lazy_array(value)) is not None:
        return LazySource(array)
    if is_iterator(value):
        return IteratorSource(value)
    if is_stream(value):
        return StreamSource(value)
    if is_array_like(value):
        return ArraySource(value)
    return ArraySource(_from_python(value, dataset))


def _from_python(value: Any, dataset: str) -> np.ndarray[Any, np.dtype[Any]]:
    if isinstance(value, (bool, int, float, complex, np.generic, list, tuple)):
        try:
            array = np.asarray(value)
        except ValueError:
            array = np.asarray(None)
        if array.dtype.kind in "biufcS":
            return array
    raise ArgumentTypeError(
        f"{dataset}: cannot write a {type(value).__name__}; give a GenericDataChunkIterator, a dask array, or anything "
        f"with shape, dtype and __getitem__"
    )
