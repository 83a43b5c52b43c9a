import copy
import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_chunkio.errors import AlignmentError, ArgumentError
from dask_chunkio.geometry.grid import BufferGrid, ChunkGrid, selection_shape
from tests.support.strategies import buffer_grids, chunk_grids

grids = st.one_of(chunk_grids(), buffer_grids())


def marked(grid: ChunkGrid | BufferGrid) -> Any:
    """The slow, obvious answer: the number of the cell that each element belongs to."""
    marks = np.full(grid.shape, -1)
    for number, selection in enumerate(grid):
        assert (marks[selection] == -1).all(), "two cells hold the same element"
        marks[selection] = number
    return marks


@given(grids)
@settings(deadline=None)
def test_every_element_is_in_exactly_one_cell(grid: ChunkGrid | BufferGrid) -> None:
    assert (marked(grid) >= 0).all()


@given(grids)
@settings(deadline=None)
def test_cells_are_inside_the_array_and_not_empty(grid: ChunkGrid | BufferGrid) -> None:
    selections = list(grid)
    assert len(selections) == len(grid) == math.prod(grid.cells)
    for selection in selections:
        for axis, length in zip(selection, grid.shape, strict=True):
            assert 0 <= axis.start < axis.stop <= length
            assert axis.step is None


@given(chunk_grids())
@settings(deadline=None)
def test_an_element_is_in_the_chunk_its_index_divides_into(grid: ChunkGrid) -> None:
    marks = marked(grid)
    for element in np.ndindex(grid.shape):
        index = tuple(e // c for e, c in zip(element, grid.chunk_shape, strict=True))
        assert marks[element] == grid.number(index)


@given(chunk_grids())
@settings(deadline=None)
def test_numbers_run_in_c_order(grid: ChunkGrid) -> None:
    positions = list(itertools.product(*map(range, grid.cells)))
    assert [grid.index(number) for number in range(len(grid))] == positions


@given(chunk_grids())
@settings(deadline=None)
def test_number_and_index_are_inverse_and_origin_is_where_the_chunk_begins(grid: ChunkGrid) -> None:
    for number in range(len(grid)):
        assert grid.number(grid.index(number)) == number
        assert grid.origin(number) == tuple(axis.start for axis in grid[number])
    numbers = list(range(len(grid)))
    assert grid.origins(numbers) == [grid.origin(number) for number in numbers]
    with pytest.raises(IndexError, match=f"of a grid of {len(grid)} chunks"):
        grid.origins([len(grid)])


@given(buffer_grids())
@settings(deadline=None)
def test_a_buffer_holds_whole_chunks_and_names_each(grid: BufferGrid) -> None:
    chunks = marked(grid.chunks)
    for number, selection in enumerate(grid):
        inside = np.unique(chunks[selection])
        assert list(grid.chunk_numbers(number)) == inside.tolist()
        assert np.isin(chunks, inside).sum() == math.prod(selection_shape(selection)), "a chunk is cut"


@given(grids)
@settings(deadline=None)
def test_a_grid_can_be_gone_through_again_copied_and_pickled(grid: ChunkGrid | BufferGrid) -> None:
    once = list(grid)
    assert list(grid) == once
    for other in (copy.deepcopy(grid), pickle.loads(pickle.dumps(grid))):
        assert other == grid
        assert hash(other) == hash(grid)
        assert [other[number] for number in range(len(other))] == once


@given(grids, st.integers(0, 3))
@settings(deadline=None)
def test_there_is_no_cell_outside_the_grid(grid: ChunkGrid | BufferGrid, beyond: int) -> None:
    for number in (len(grid) + beyond, -1 - beyond):
        with pytest.raises(IndexError, match=f"chunk {number} of a grid of {len(grid)} chunks"):
            grid[number]


def test_a_scalar_is_one_cell_without_axes() -> None:
    buffers = BufferGrid(ChunkGrid((), ()), ())
    assert list(buffers) == list(buffers.chunks) == [()]
    assert list(buffers.chunk_numbers(0)) == [0]


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, 0)])
def test_an_axis_of_length_zero_has_no_cells(shape: tuple[int, ...]) -> None:
    ones = (1,) * len(shape)
    buffers = BufferGrid(ChunkGrid(shape, ones), ones)
    assert list(buffers) == list(buffers.chunks) == []


def test_a_huge_grid_costs_nothing() -> None:
    grid = ChunkGrid((10**12, 10**3), (10, 10))
    assert len(grid) == 10**13
    assert grid[10**13 - 1] == (slice(10**12 - 10, 10**12), slice(990, 1000))


@pytest.mark.parametrize(
    ("shape", "chunk", "buffer", "message"),
    [
        ((4, 4), (2,), (2, 2), r"chunk shape \(2,\) has 1 axes, .* \(4, 4\) has 2"),
        ((4, 4), (2, 2), (2, 2, 2), r"buffer shape \(2, 2, 2\) has 3 axes, .* \(4, 4\) has 2"),
        ((4, 4), (2, 0), (2, 2), r"chunk shape \(2, 0\) is 0 along axis 1"),
        ((4, 4), (2, 2), (-2, 2), r"buffer shape \(-2, 2\) is -2 along axis 0"),
        ((8, 9), (2, 2), (4, 5), r"is 5 along axis 1, .* chunk's 2 .* axis of 9; .* multiple of 2"),
        ((8, 9), (4, 3), (2, 9), r"is 2 along axis 0, .* chunk's 4"),
    ],
)
def test_shapes_that_do_not_fit_name_the_axis(
    shape: tuple[int, ...], chunk: tuple[int, ...], buffer: tuple[int, ...], message: str
) -> None:
    with pytest.raises(AlignmentError, match=message) as caught:
        BufferGrid(ChunkGrid(shape, chunk), buffer)
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, ValueError)


def test_a_negative_length_names_the_axis() -> None:
    with pytest.raises(ArgumentError, match=r"shape \(4, -1\) is -1 along axis 1"):
        ChunkGrid((4, -1), (1, 1))


@given(chunk_grids().filter(len), st.data())
@settings(deadline=None)
def test_a_buffer_is_refused_exactly_when_it_would_cut_a_chunk(chunks: ChunkGrid, data: st.DataObject) -> None:
    buffer = tuple(data.draw(st.integers(1, length + 3)) for length in chunks.shape)
    marks = marked(chunks)
    naive = ChunkGrid(chunks.shape, buffer)
    holders = [0] * len(chunks)
    for selection in naive:
        for number in np.unique(marks[selection]):
            holders[number] += 1
    if max(holders) > 1:
        with pytest.raises(AlignmentError, match="chunks would be cut"):
            BufferGrid(chunks, buffer)
    else:
        assert list(BufferGrid(chunks, buffer)) == list(naive)
