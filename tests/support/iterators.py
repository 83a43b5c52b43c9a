"""Iterators to test with, and what to compare them by."""

import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dask_chunkio.data_chunk import DataChunk
from dask_chunkio.iterator import GenericDataChunkIterator
from tests.support.notes import note


class FromArray(GenericDataChunkIterator):
    """Sets its attributes before the base class, as hdmf's tutorials do."""

    def __init__(self, array: Any, **keywords: Any) -> None:
        self.array = array
        super().__init__(**keywords)

    def _get_data(self, selection: Any) -> Any:
        return self.array[selection]

    def _get_maxshape(self) -> Any:
        return self.array.shape

    def _get_dtype(self) -> Any:
        return self.array.dtype


class Noting(FromArray):
    """Notes which of its buffers are read: a name, and where they start."""

    def __init__(self, array: Any, notes: str | os.PathLike[str], name: str, **shapes: Any) -> None:
        self.notes, self.name = notes, name
        super().__init__(array, **shapes)

    def _get_data(self, selection: Any) -> Any:
        note(self.notes, "read", self.name, *(axis.start for axis in selection))
        return super()._get_data(selection)


class Describing(FromArray):
    """Overrides what it announces and returns."""

    def __init__(
        self, maxshape: tuple[int, ...] = (12, 6), dtype: str = "int16", data: Any = None, **keywords: Any
    ) -> None:
        self.announced = maxshape, dtype
        self.data = data
        super().__init__(np.arange(72, dtype="int16").reshape(12, 6), **keywords)

    def _get_maxshape(self) -> Any:
        return self.announced[0]

    def _get_dtype(self) -> Any:
        return self.announced[1]

    def _get_data(self, selection: Any) -> Any:
        return self.array[selection] if self.data is None else self.data(selection)


def numbers(shape: tuple[int, ...] = (12, 6), dtype: DTypeLike = "int16") -> NDArray[Any]:
    return np.arange(math.prod(shape), dtype=dtype).reshape(shape)


def quarters(**keywords: Any) -> Any:
    """Four buffers of (3, 6)."""
    return FromArray(numbers(), buffer_shape=(3, 6), chunk_shape=(3, 2), **keywords)


def same(chunks: Iterable[DataChunk], others: Iterable[DataChunk]) -> bool:
    chunks, others = list(chunks), list(others)
    assert [c.selection for c in chunks] == [o.selection for o in others]
    for chunk, other in zip(chunks, others, strict=True):
        np.testing.assert_array_equal(chunk.data, other.data)
    return True
