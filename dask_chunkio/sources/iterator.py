"""Iterators with hdmf's methods as sources: ours, hdmf's, and their subclasses."""

from __future__ import annotations

from typing import Any

import numpy as np

from dask_chunkio.errors import ArgumentError
from dask_chunkio.geometry.grid import Array, Selection, Shape
from dask_chunkio.iterator import GenericDataChunkIterator
from dask_chunkio.sources.base import Reader, ReadMode, Shapes

__all__ = ["IteratorSource", "is_iterator"]

# Classes whose `_get_data` ignores the selection and always reads the next element.
_IN_ORDER = {("neuroconv", "VideoDataChunkIterator")}


def is_iterator(value: Any) -> bool:
    """Return whether `value` has the methods of hdmf's `GenericDataChunkIterator`."""
    return callable(getattr(value, "_get_data", None)) and all(
        hasattr(value, name) for name in ("maxshape", "dtype", "chunk_shape", "buffer_shape")
    )


class IteratorSource:
    """Adapter for iterators that read a selection with `_get_data`.

    Parameters
    ----------
    iterator : GenericDataChunkIterator
        Our iterator, or any object with hdmf's methods.

    Raises
    ------
    ArgumentError
        If its shape is not known.
    """

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator
        if any(length is None for length in iterator.maxshape):
            raise ArgumentError(
                f"{type(iterator).__name__} has maxshape {iterator.maxshape}; an axis of unknown length cannot be "
                f"written yet: return a length for each axis from _get_maxshape"
            )
        self._shape = tuple(int(length) for length in iterator.maxshape)

    @property
    def shape(self) -> Shape:
        """Its shape, in elements."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its elements."""
        found: np.dtype[Any] = np.dtype(self._iterator.dtype)
        return found

    @property
    def shapes(self) -> Shapes:
        """Its chunk and buffer shapes."""
        chunk = tuple(map(int, self._iterator.chunk_shape))
        buffer = tuple(map(int, self._iterator.buffer_shape))
        return Shapes(chunk, buffer, self._has_chosen_buffer(buffer))

    @property
    def read_mode(self) -> ReadMode:
        """Concurrent for our iterator, which requires it of subclasses; ordered for some classes; serial for others."""
        if any((base.__module__.partition(".")[0], base.__name__) in _IN_ORDER for base in type(self._iterator).mro()):
            return "ordered"
        return "concurrent" if isinstance(self._iterator, GenericDataChunkIterator) else "serial"

    @property
    def display_progress(self) -> bool:
        """Whether the user of the iterator asked for a progress bar."""
        return bool(getattr(self._iterator, "display_progress", False))

    def read(self, selection: Selection) -> Array:
        """Return the result of the user's `_get_data`."""
        data: Array = self._iterator._get_data(selection=selection)
        return data

    def part(self, selection: Selection) -> Reader | None:  # noqa: ARG002
        """Return None: the whole iterator is sent."""
        return None

    def _has_chosen_buffer(self, buffer: Shape) -> bool:
        if isinstance(self._iterator, GenericDataChunkIterator):
            return self._iterator.buffer_shape_is_explicit
        default = getattr(self._iterator, "_get_default_buffer_shape", None)
        # hdmf's iterator does not record this: a buffer of its default of 1 GB counts as inferred, others as chosen.
        return default is None or not self.shape or tuple(default(buffer_gb=1.0)) != buffer
