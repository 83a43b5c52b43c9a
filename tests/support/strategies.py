"""Hypothesis strategies for geometry, shared by the tests."""

import math

from hypothesis import strategies as st

from dask_chunkio.geometry.grid import BufferGrid, ChunkGrid

shapes = st.lists(st.integers(0, 9), max_size=4).map(tuple).filter(lambda shape: math.prod(shape) <= 600)


@st.composite
def chunk_grids(draw: st.DrawFn) -> ChunkGrid:
    shape = draw(shapes)
    return ChunkGrid(shape, tuple(draw(st.integers(1, length + 2)) for length in shape))


@st.composite
def buffer_grids(draw: st.DrawFn) -> BufferGrid:
    chunks = draw(chunk_grids())
    return BufferGrid(
        chunks, tuple(draw(_aligned(*axis)) for axis in zip(chunks.chunk_shape, chunks.shape, strict=True))
    )


def _aligned(chunk: int, length: int) -> st.SearchStrategy[int]:
    multiples = st.integers(1, 4).map(lambda times: times * chunk)
    return st.one_of(multiples, st.integers(max(length, 1), length + 3))
