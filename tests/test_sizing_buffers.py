import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dask_chunkio.filters.deflate import deflate
from dask_chunkio.filters.fletcher32 import append_fletcher32
from dask_chunkio.geometry.grid import BufferGrid, ChunkGrid
from dask_chunkio.geometry.sizing import (
    buffer_budget,
    buffer_within,
    projected_nbytes,
    readable_chunk_shape,
    split_buffer,
)
from tests.support.strategies import buffer_grids, chunk_grids

MIB = 1 << 20
lengths = st.one_of(st.integers(0, 50), st.integers(1, 10**6), st.integers(1, 10**12))
shapes = st.lists(lengths, max_size=5).map(tuple)
itemsizes = st.one_of(st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 3000))
# Numbers with a divisor near half of any of their divisors.
smooth = st.tuples(st.integers(0, 12), st.integers(0, 4), st.integers(0, 3)).map(
    lambda p: 2 ** p[0] * 3 ** p[1] * 5 ** p[2]
)


def nbytes(shape: tuple[int, ...], itemsize: int) -> int:
    return math.prod(shape) * itemsize


# Chunks


@given(shapes, itemsizes)
@settings(deadline=None)
def test_a_chunk_is_at_most_a_mebibyte_and_not_much_less(shape: tuple[int, ...], itemsize: int) -> None:
    chunk = readable_chunk_shape(shape, itemsize)
    lengths = [max(length, 1) for length in shape]
    assert all(1 <= c <= n for c, n in zip(chunk, lengths, strict=True))
    assert nbytes(chunk, itemsize) <= MIB
    assert list(chunk) == lengths or nbytes(chunk, itemsize) >= MIB // 2


def test_an_element_that_is_larger_than_that_is_a_chunk() -> None:
    assert readable_chunk_shape((5, 6), 2 * MIB) == (1, 1)
    assert readable_chunk_shape((), 2 * MIB) == ()


@given(st.lists(smooth, min_size=1, max_size=4).map(tuple), st.sampled_from([1, 2, 4, 8]), st.integers(1, 5))
@settings(deadline=None)
def test_chunks_divide_the_blocks_so_that_no_block_is_read_twice(
    block: tuple[int, ...], itemsize: int, times: int
) -> None:
    chunk = readable_chunk_shape(tuple(times * length for length in block), itemsize, block)
    assert all(length % c == 0 for length, c in zip(block, chunk, strict=True))
    assert nbytes(chunk, itemsize) <= MIB


@given(st.data(), shapes, itemsizes)
@settings(deadline=None)
def test_chunks_stay_inside_the_blocks(data: st.DataObject, shape: tuple[int, ...], itemsize: int) -> None:
    block = tuple(data.draw(st.integers(1, max(length, 1) + 3)) for length in shape)
    chunk = readable_chunk_shape(shape, itemsize, block)
    assert all(1 <= c <= min(b, max(n, 1)) for c, b, n in zip(chunk, block, shape, strict=True))
    assert nbytes(chunk, itemsize) <= MIB


@pytest.mark.parametrize(
    ("shape", "block", "expected"),
    [
        ((1000, 1000), (100, 100), (100, 100)),
        ((30000 * 3600, 384), (30000, 384), (750, 384)),
        ((4096, 4096), (4096, 4096), (512, 1024)),
        ((10**6,), (999983,), (499992,)),  # a prime has no divisors
    ],
)
def test_chunks_of_blocks(shape: tuple[int, ...], block: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert readable_chunk_shape(shape, 2, block) == expected


@pytest.mark.timeout(20)
def test_a_block_without_divisors_is_soon_found_to_have_none() -> None:
    """A dask array in one block can have any length; a search through all numbers below it would take days."""
    prime = 10**12 + 39
    (chunk,) = readable_chunk_shape((prime,), 2, (prime,))
    assert MIB // 4 < 2 * chunk <= MIB


# Buffers


@given(chunk_grids(), st.integers(1, 16), st.integers(0, 5000))
@settings(deadline=None)
def test_a_buffer_is_whole_chunks_within_the_budget_read_in_the_longest_pieces(
    chunks: ChunkGrid, itemsize: int, budget: int
) -> None:
    buffer = buffer_within(chunks.shape, chunks.chunk_shape, itemsize, budget)
    grid = BufferGrid(chunks, buffer)
    cells = [b // c for b, c in zip(buffer, chunks.chunk_shape, strict=True)]
    assert all(b % c == 0 for b, c in zip(buffer, chunks.chunk_shape, strict=True))
    assert nbytes(buffer, itemsize) <= budget or set(cells) <= {1}
    split = [axis for axis, (count, needed) in enumerate(zip(cells, chunks.cells, strict=True)) if count < needed]
    if split:
        # Behind the axis that was cut all are whole; one chunk more along it would be too much; before it there is one.
        axis = split[-1]
        larger = (*buffer[:axis], buffer[axis] + chunks.chunk_shape[axis], *buffer[axis + 1 :])
        assert nbytes(larger, itemsize) > budget
        assert all(count == 1 for count in cells[:axis])
    else:
        assert len(grid) <= 1


@given(buffer_grids(), st.integers(1, 16), st.integers(0, 20_000), st.integers(1, 40))
@example(BufferGrid(ChunkGrid((2, 4), (1, 1)), (2, 3)), 1, 4, 1)
@settings(deadline=None)
def test_a_buffer_is_split_into_whole_chunks_until_all_have_work_and_it_fits(
    buffers: BufferGrid, itemsize: int, budget: int, count: int
) -> None:
    chunks = buffers.chunks
    split = split_buffer(chunks.shape, chunks.chunk_shape, buffers.buffer_shape, itemsize, nbytes=budget, count=count)
    grid = BufferGrid(chunks, split)
    cells = [b // c for b, c in zip(split, chunks.chunk_shape, strict=True)]
    before = [
        -(-min(b, max(n, 1)) // c)
        for b, c, n in zip(buffers.buffer_shape, chunks.chunk_shape, chunks.shape, strict=True)
    ]
    assert all(b % c == 0 for b, c in zip(split, chunks.chunk_shape, strict=True))
    assert all(1 <= now <= then for now, then in zip(cells, before, strict=True))
    does_suffice = nbytes(split, itemsize) <= budget and len(grid) >= count
    assert does_suffice or set(cells) <= {1}
    # As many buffers along each axis as before, but as equal as whole chunks allow: that is not yet a split.
    lengths = [-(-max(n, 1) // c) for c, n in zip(chunks.chunk_shape, chunks.shape, strict=True)]
    equal = [-(-n // -(-n // cell)) for n, cell in zip(lengths, before, strict=True)]
    changed = [axis for axis in range(len(cells)) if cells[axis] < equal[axis]]
    if changed:  # the first axes first, so that pieces stay contiguous
        assert all(cells[axis] == 1 for axis in range(changed[-1]))


@given(buffer_grids(), st.integers(1, 16))
@settings(deadline=None)
def test_a_buffer_that_suffices_is_not_split(buffers: BufferGrid, itemsize: int) -> None:
    chunks = buffers.chunks
    kept = split_buffer(chunks.shape, chunks.chunk_shape, buffers.buffer_shape, itemsize, nbytes=10**9, count=1)
    if len(chunks):
        assert BufferGrid(chunks, kept).cells == buffers.cells


def test_splitting_a_huge_array_takes_no_time() -> None:
    shape = 10**15, 384
    split = split_buffer(shape, (1000, 384), (10**12, 384), 2, nbytes=64 << 20, count=64)
    assert nbytes(split, 2) <= 64 << 20
    assert BufferGrid(ChunkGrid(shape, (1000, 384)), split)


# Memory


@given(st.integers(0, 10**13), st.integers(1, 256))
@settings(deadline=None)
def test_what_all_threads_hold_fits_into_half_of_the_memory(memory: int, threads: int) -> None:
    budget = buffer_budget(memory, threads)
    assert budget >= 1
    assert budget == 1 or threads * 2 * budget <= memory / 2


@pytest.mark.parametrize("chunk", [64, 4096, 1 << 20])
@pytest.mark.parametrize("level", [None, 0, 1, 4])
def test_payloads_of_incompressible_data_are_within_the_projection(chunk: int, level: int | None) -> None:
    count = max(1, (1 << 20) // chunk // (64 if chunk < 4096 else 1))
    data = np.random.default_rng(0).bytes(chunk)
    payload = append_fletcher32(data if level is None else deflate(data, level))
    held = count * (chunk + len(payload)) + 2 * chunk
    assert held <= projected_nbytes(count * chunk, chunk, 1)
    assert 3 * projected_nbytes(count * chunk, chunk, 1) == projected_nbytes(count * chunk, chunk, 3)
