"""Iterators to test with, and what to compare them by."""

import math

import numpy as np

from dask_chunkio.iterator import GenericDataChunkIterator
from tests.support.notes import note


class FromArray(GenericDataChunkIterator):
    """Sets its attributes before the base class, as hdmf's tutorials do."""

    def __init__(self, array, **keywords):
        self.array = array
        super().__init__(**keywords)

    def _get_data(self, selection):
        return self.array[selection]

    def _get_maxshape(self):
        return self.array.shape

    def _get_dtype(self):
        return self.array.dtype


class Noting(FromArray):
    """Notes which of its buffers are read: a name, and where they start."""

    def __init__(self, array, notes, name, **shapes):
        self.notes, self.name = notes, name
        super().__init__(array, **shapes)

    def _get_data(self, selection):
        note(self.notes, "read", self.name, *(axis.start for axis in selection))
        return super()._get_data(selection)


class Describing(FromArray):
    """Overrides what it announces and returns."""

    def __init__(self, maxshape=(12, 6), dtype="int16", data=None, **keywords):
        self.announced = maxshape, dtype
        self.data = data
        super().__init__(np.arange(72, dtype="int16").reshape(12, 6), **keywords)

    def _get_maxshape(self):
        return self.announced[0]

    def _get_dtype(self):
        return self.announced[1]

    def _get_data(self, selection):
        return self.array[selection] if self.data is None else self.data(selection)


def numbers(shape=(12, 6), dtype="int16"):
    return np.arange(math.prod(shape), dtype=dtype).reshape(shape)


def quarters(**keywords):
    """Four buffers of (3, 6)."""
    return FromArray(numbers(), buffer_shape=(3, 6), chunk_shape=(3, 2), **keywords)


def same(chunks, others):
    chunks, others = list(chunks), list(others)
    assert [c.selection for c in chunks] == [o.selection for o in others]
    for chunk, other in zip(chunks, others, strict=True):
        np.testing.assert_array_equal(chunk.data, other.data)
    return True
