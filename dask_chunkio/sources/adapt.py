"""Selection of the adapter for an object of the user."""

from __future__ import annotations

from typing import Any

import numpy as np

from dask_chunkio.errors import ArgumentError, ArgumentTypeError, ChunkIOError, SourceError
from dask_chunkio.filters.variable import noted_elements
from dask_chunkio.sources.array import ArraySource, is_array_like
from dask_chunkio.sources.base import Source
from dask_chunkio.sources.dask_array import DaskArraySource, lazy_array
from dask_chunkio.sources.iterator import IteratorSource, is_iterator
from dask_chunkio.sources.refused import why_refused
from dask_chunkio.sources.stream import Announced, StreamSource, is_stream

__all__ = ["as_source"]


def as_source(value: Any, dataset: str, announced: Announced | None = None) -> Source:
    """Return the adapter for `value`.

    Parameters
    ----------
    value : object
        An iterator with hdmf's methods, a dask array, anything with ``shape``, ``dtype`` and
        ``__getitem__``, a number, or a nested list of numbers or strings.
    dataset : str
        Name of the dataset, for messages.
    announced : Announced, optional
        Shape and dtype that the user gave for a stream.

    Raises
    ------
    ArgumentTypeError
        If `value` is none of these.
    ArgumentError, SourceError
        If `value` cannot be written.
    FilterError
        If a filter plugin or codec of `value` is missing.

    Examples
    --------
    >>> as_source([[1, 2], [3, 4]], "/x").shape
    (2, 2)
    """
    if (why := why_refused(value)) is not None:
        raise ArgumentTypeError(f"{dataset}: cannot write a {type(value).__name__}: {why}")
    try:
        return _adapted(value, announced)
    except (ArgumentError, ArgumentTypeError, SourceError) as error:
        raise type(error)(f"{dataset}: {error}") from error
    except ChunkIOError:
        raise
    except Exception as error:
        raise SourceError(
            f"{dataset}: a {type(value).__name__} does not say its shape and dtype: {type(error).__name__}: {error}"
        ) from error


def _adapted(value: Any, announced: Announced | None) -> Source:
    if (array := lazy_array(value)) is not None:
        return DaskArraySource(array)
    if is_iterator(value):
        return IteratorSource(value)
    if is_stream(value):
        return StreamSource(value, announced)
    if isinstance(value, np.ndarray):
        return ArraySource(noted_elements(value))
    if is_array_like(value):
        return ArraySource(value)
    return ArraySource(_from_python(value))


def _from_python(value: Any) -> np.ndarray[Any, np.dtype[Any]]:
    if isinstance(value, (bool, int, float, complex, np.generic, list, tuple)):
        try:
            array = np.asarray(value)
        except ValueError:
            array = np.asarray(None)
        if array.dtype.kind == "U" and isinstance(value, (list, tuple)):
            array = noted_elements(np.asarray(value, object))
        if array.dtype.kind in "biufcS" or array.dtype.metadata is not None:
            return array
    raise ArgumentTypeError(
        f"cannot write a {type(value).__name__}; give a GenericDataChunkIterator, a dask array, or anything "
        f"with shape, dtype and __getitem__"
    )
