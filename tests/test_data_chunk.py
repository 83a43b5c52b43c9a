import copy
import pickle
from typing import Any

import numpy as np
import pytest

from dask_chunkio.data_chunk import DataChunk
from dask_chunkio.errors import ArgumentTypeError
from tests.support.iterators import numbers, quarters, same


def test_a_chunk_stands_for_its_data() -> None:
    chunk = DataChunk(numbers((2, 3)), (slice(4, 6), slice(0, 3)))
    assert (len(chunk), chunk.shape, chunk.dtype, int(chunk.sum())) == (2, (2, 3), np.dtype("int16"), 15)
    assert chunk.get_min_bounds() == (6, 3)
    np.testing.assert_array_equal(np.asarray(chunk), chunk.data)
    with pytest.raises(AttributeError, match="no_such_attribute"):
        chunk.no_such_attribute  # noqa: B018


@pytest.mark.parametrize(
    ("selection", "bounds"),
    [(3, (4,)), (slice(2, 5), (5,)), (slice(None), (0,)), ((1, slice(0, 4)), (2, 4)), ((), ()), (np.int64(3), (4,))],
)
def test_bounds_are_hdmfs(selection: Any, bounds: tuple[Any, ...]) -> None:
    assert DataChunk(numbers((1,)), selection).get_min_bounds() == bounds


@pytest.mark.parametrize("selection", [None, [1, 2], (slice(0, 1), [1, 2])])
def test_other_selections_have_no_bounds(selection: list[Any] | tuple[Any, ...] | None) -> None:
    with pytest.raises(TypeError, match="has no bounds"):
        DataChunk(numbers((1,)), selection).get_min_bounds()


def test_astype_leaves_the_chunk_and_keeps_the_place() -> None:
    chunk = DataChunk(numbers((2, 3)), (slice(4, 6), slice(0, 3)))
    other = chunk.astype("float64")
    assert (type(other), other.dtype, other.selection) == (DataChunk, np.dtype("float64"), chunk.selection)
    assert chunk.dtype == np.dtype("int16")


def test_a_chunk_may_be_empty() -> None:
    chunk = DataChunk()
    assert (len(chunk), chunk.data, chunk.selection) == (0, None, None)
    with pytest.raises(AttributeError):
        chunk.dtype  # noqa: B018


def test_a_chunk_holds_an_array() -> None:
    with pytest.raises(ArgumentTypeError, match="of type list"):
        DataChunk([1, 2], slice(0, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_chunk_survives_pickling(protocol: int) -> None:
    chunk = quarters()[1]
    other = pickle.loads(pickle.dumps(chunk, protocol))
    assert type(other) is DataChunk
    assert same([other], [chunk])


def test_copies_of_a_chunk_are_chunks() -> None:
    chunk = DataChunk(numbers(), (slice(0, 12), [slice(0, 6)]))
    shallow, deep = copy.copy(chunk), copy.deepcopy(chunk)
    assert type(shallow) is type(deep) is DataChunk
    assert shallow.data is chunk.data
    assert not np.shares_memory(deep.data, chunk.data)
    assert deep.selection == chunk.selection
    assert deep.selection[1] is not chunk.selection[1]


def test_a_chunk_that_is_not_made_yet_has_no_attributes() -> None:
    blank = DataChunk.__new__(DataChunk)
    with pytest.raises(AttributeError):
        blank.shape  # noqa: B018
