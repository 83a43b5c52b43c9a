from typing import Any

import dask.array as da
import numpy as np
import pytest
from hdmf.data_utils import DataChunkIterator

from dask_chunkio.errors import ArgumentError, ArgumentTypeError
from dask_chunkio.sources.adapt import as_source
from dask_chunkio.sources.array import ArraySource
from dask_chunkio.sources.base import check_read_mode
from dask_chunkio.sources.dask_array import DaskArraySource
from dask_chunkio.sources.iterator import IteratorSource
from dask_chunkio.sources.stream import StreamSource
from tests.support.iterators import quarters

NUMBERS = np.arange(6).reshape(2, 3)


class Wrapper:
    """A named array, as xarray has it: dask's collection protocol, and the array inside."""

    def __init__(self, data: Any) -> None:
        self.data, self.shape, self.dtype = data, data.shape, data.dtype

    def __dask_graph__(self) -> Any:
        return self.data.__dask_graph__() if isinstance(self.data, da.Array) else None

    def __getitem__(self, selection: Any) -> Any:
        return self.data[selection]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (NUMBERS, ArraySource),
        (da.from_array(NUMBERS), DaskArraySource),
        (Wrapper(da.from_array(NUMBERS)), DaskArraySource),
        (Wrapper(NUMBERS), ArraySource),
        (quarters(), IteratorSource),
        (DataChunkIterator(NUMBERS, maxshape=(2, 3), dtype=NUMBERS.dtype), StreamSource),
        (5, ArraySource),
        (2.5j, ArraySource),
        (True, ArraySource),
        (np.float32(1), ArraySource),
        ([[1, 2], [3, 4]], ArraySource),
        ((1.5, 2), ArraySource),
        ([b"ab", b"c"], ArraySource),
        ([], ArraySource),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_the_adapter_that_fits(value: Any, kind: Any) -> None:
    assert type(as_source(value, "/x")) is kind


@pytest.mark.parametrize(
    "value",
    [None, {"a": 1}, {1, 2}, [[1], [2, 3]], ["a", 1, None], ["a", b"b"], [None], object(), lambda: 1],
)
def test_anything_else_is_refused_with_its_type_and_what_to_give(value: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=f"^/x: cannot write a {type(value).__name__}; give a Generic"):
        as_source(value, "/x")


def test_modes_of_reading() -> None:
    for mode in (None, "concurrent", "serial", "ordered"):
        check_read_mode(mode, "/x")
    wrong: Any
    for wrong in ("Serial", "", 1, "parallel"):
        with pytest.raises(ArgumentError, match=r"^/x: read=.* is not one of 'concurrent', 'serial', 'ordered'"):
            check_read_mode(wrong, "/x")


def test_a_dask_array_of_unknown_length() -> None:
    array = da.from_array(np.arange(6), chunks=3)
    with pytest.raises(ArgumentError, match="compute_chunk_sizes"):
        as_source(array[array > 2], "/x")


def test_a_dask_array_in_words() -> None:
    array = da.from_array(np.arange(60).reshape(6, 10), chunks=((1, 3, 2), (4, 6)))
    source = as_source(array, "/x")
    assert (source.shape, source.dtype, source.read_mode) == ((6, 10), np.dtype("int64"), "concurrent")
    assert source.shapes.block == (3, 6)
    np.testing.assert_array_equal(source.read((slice(1, 3), slice(0, 5))), np.arange(60).reshape(6, 10)[1:3, :5])
    assert as_source(da.zeros((0, 3)), "/x").shapes.block == (1, 3)
