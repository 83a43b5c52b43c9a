from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dask_chunkio.reading.indexing import Wanted, read_indexed

SHAPE, CHUNKS = (7, 5, 4), (3, 5, 1)
DATA = np.arange(140).reshape(SHAPE)


def read(index: Any, data: Any = DATA, chunks: Any = CHUNKS) -> Any:
    def block(wanted: Wanted) -> Any:
        for axis, one in enumerate(wanted):
            data_of_axis = np.arange(data.shape[axis])[one] if isinstance(one, slice) else one
            assert list(data_of_axis) == sorted(set(data_of_axis.tolist())), "ascending, each once"
        found = data
        for axis, one in enumerate(wanted):
            found = found[(slice(None),) * axis + (one,)]
        return found

    return read_indexed(index, data.shape, chunks, block)


def require_alike(index: Any, data: Any = DATA) -> None:
    wanted, found = data[index], read(index, data, CHUNKS[: data.ndim])
    assert type(found) is type(wanted)
    assert np.shape(found) == np.shape(wanted)
    assert np.array_equal(found, wanted)


@given(npst.basic_indices(SHAPE, allow_newaxis=True, allow_ellipsis=True, max_dims=6))
def test_basic_indices(index: Any) -> None:
    require_alike(index)


@given(npst.integer_array_indices(SHAPE, dtype=np.dtype("i8")))
def test_arrays_of_integers(index: Any) -> None:
    require_alike(index)


@given(npst.arrays(bool, st.sampled_from([SHAPE[:1], SHAPE[:2], SHAPE])))
def test_masks(mask: Any) -> None:
    require_alike(mask)


@given(st.data())
def test_mixed_indices(data: st.DataObject) -> None:
    """Numbers beside arrays count as arrays; where they stand decides the axes of the result."""
    items: list[Any] = []
    for length in SHAPE[: data.draw(st.integers(1, 3))]:
        integers = st.integers(-length, length - 1)
        arrays = st.lists(integers, min_size=2, max_size=2).map(np.array)
        items.append(data.draw(integers | arrays | arrays.map(lambda one: one[:, None]) | st.slices(length)))
    if data.draw(st.booleans()):
        items.insert(data.draw(st.integers(0, len(items))), None)
    if len(items) < 3 and data.draw(st.booleans()):
        items.append(Ellipsis)
    require_alike(tuple(items))


def test_scattered_points_are_read_chunk_by_chunk() -> None:
    data = np.arange(10_000).reshape(100, 100)
    sizes = []

    def block(wanted: Wanted) -> Any:
        found = data[np.ix_(*(np.arange(100)[one] if isinstance(one, slice) else one for one in wanted))]
        sizes.append(found.size)
        return found

    rows, columns = np.arange(0, 100, 2), np.arange(99, 0, -2)
    assert np.array_equal(read_indexed((rows, columns), data.shape, (10, 10), block), data[rows, columns])
    assert max(sizes) <= 25
    assert sum(sizes) < 300, "not all rows with all columns"


@pytest.mark.parametrize("middle", [slice(None), slice(1, 4), 3])
def test_scattered_points_beside_other_axes(middle: Any) -> None:
    """Arrays that stand apart come first in the result."""
    data = np.arange(40 * 5 * 40).reshape(40, 5, 40)
    points = np.arange(0, 40, 3)
    for index in ((points, middle, points[::-1]), (points, points % 5, middle), (middle, ..., points % 5, points)):
        found = read_indexed(index, data.shape, (5, 5, 5), lambda wanted: data[np.ix_(*map(along, wanted, data.shape))])
        assert np.array_equal(found, data[index])


def along(wanted: Any, length: int) -> Any:
    return np.arange(length)[wanted]


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (7, "index 7 is out of bounds for axis 0 with size 7"),
        (([0, -8],), "index -8 is out of bounds for axis 0"),
        ((0, 0, 0, 0), "too many indices: the array has 3 axes, and 4"),
        ((..., ...), "single ellipsis"),
        (1.5, "1.5 is no index"),
        ("x", "'x' is no index"),
        ([1.5], "must be of integer"),
        (True, "a single boolean"),
        (np.ones(6, bool), r"boolean index of the shape \(6,\)"),
        (([0, 1], [0, 1, 2]), "could not be broadcast"),
    ],
)
def test_what_numpy_refuses_is_refused(index: Any, words: str) -> None:
    with pytest.raises(IndexError, match=words):
        read(index)
