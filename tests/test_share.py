"""The parts into which independent jobs divide an array."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_chunkio.errors import AlignmentError, ArgumentError
from dask_chunkio.geometry.grid import BufferGrid, ChunkGrid
from dask_chunkio.geometry.share import Share
from tests.support.strategies import chunk_grids


@given(chunk_grids(), st.integers(1, 12))
@settings(deadline=None)
def test_each_chunk_is_in_exactly_one_part(grid: ChunkGrid, count: int) -> None:
    found: list[int] = []
    for number in range(count):
        box = Share(number, count).box(grid)
        if grid.shape or number == 0:
            found += grid.numbers_in(box).tolist()
        for (start, stop), chunk, end in zip(box, grid.chunk_shape, grid.shape, strict=True):
            assert start % chunk == 0 or start == end
            assert stop % chunk == 0 or stop == end
    assert sorted(found) == list(range(len(grid)))


@given(st.integers(1, 300), st.integers(1, 40))
def test_the_parts_of_one_axis_are_as_equal_as_whole_chunks_allow(cells: int, count: int) -> None:
    boxes = [Share(number, count).box(ChunkGrid((cells * 7,), (7,))) for number in range(count)]
    sizes = [(stop - start) // 7 for ((start, stop),) in boxes]
    # Each halving rounds once.
    assert max(sizes) - min(sizes) <= 1 + math.ceil(math.log2(count))
    assert max(sizes) <= math.ceil(cells / count) + math.ceil(math.log2(count))


@given(chunk_grids(), st.integers(1, 5), st.data())
@settings(deadline=None)
def test_the_buffers_of_a_part_cover_it(grid: ChunkGrid, count: int, data: Any) -> None:
    box = Share(data.draw(st.integers(0, count - 1)), count).box(grid)
    shape = tuple(chunk * data.draw(st.integers(1, 3)) for chunk in grid.chunk_shape)
    buffers = BufferGrid(grid, shape, box)
    marks = np.zeros(grid.shape, int)
    chunks: list[int] = []
    for number, selection in enumerate(buffers):
        marks[selection] += 1
        chunks += buffers.chunk_numbers(number)
    expected = np.zeros(grid.shape, int)
    expected[tuple(slice(*axis) for axis in box)] = 1
    np.testing.assert_array_equal(marks, expected)
    assert sorted(chunks) == (grid.numbers_in(box).tolist() if len(buffers) else [])


def test_a_buffer_may_be_as_long_as_its_part() -> None:
    grid = ChunkGrid((100,), (10,))
    assert len(BufferGrid(grid, (25,), ((90, 100),))) == 1
    with pytest.raises(AlignmentError, match="chunks would be cut"):
        BufferGrid(grid, (25,), ((50, 100),))


@pytest.mark.parametrize(("number", "count"), [(3, 3), (-1, 3), (0, 0), (0, 10**7)])
def test_there_is_no_such_part(number: int, count: int) -> None:
    with pytest.raises(ArgumentError, match="part="):
        Share(number, count)
