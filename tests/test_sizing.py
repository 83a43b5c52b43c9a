import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hdmf.data_utils import GenericDataChunkIterator as HdmfIterator
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dask_chunkio.errors import ArgumentError, IteratorArgumentError
from dask_chunkio.geometry.grid import BufferGrid, ChunkGrid
from dask_chunkio.geometry.sizing import default_buffer_shape, default_chunk_shape

lengths = st.one_of(st.integers(1, 50), st.integers(1, 10**6), st.integers(1, 10**13))
maxshapes = st.lists(lengths, min_size=1, max_size=5).map(tuple)
itemsizes = st.one_of(st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 3000))
budgets = st.one_of(st.floats(1e-9, 1e6), st.integers(1, 100), st.floats(1e-4, 20.0).map(np.float64))


def hdmf_shape(name: str, budget: float, maxshape: tuple[int, ...], itemsize: int, chunk_shape: Any = None) -> Any:
    stub = SimpleNamespace(maxshape=maxshape, dtype=np.dtype(f"V{itemsize}"), chunk_shape=chunk_shape)
    return getattr(HdmfIterator, f"_get_default_{name}_shape")(stub, budget)


FEW, MANY = settings(deadline=None, max_examples=150), settings(deadline=None, max_examples=1000)


@given(maxshapes, itemsizes, budgets)
@example((100, 1, 1, 7), 2, 1e-5)
@example((1, 1), 2, 2e-6)
@FEW
def test_chunks_are_hdmfs(maxshape: tuple[int, ...], itemsize: int, chunk_mb: float) -> None:
    check_chunks(maxshape, itemsize, chunk_mb)


@pytest.mark.heavy
@given(maxshapes, itemsizes, budgets)
@MANY
def test_many_chunks_are_hdmfs(maxshape: tuple[int, ...], itemsize: int, chunk_mb: float) -> None:
    check_chunks(maxshape, itemsize, chunk_mb)


def check_chunks(maxshape: tuple[int, ...], itemsize: int, chunk_mb: float) -> None:
    theirs = hdmf_shape("chunk", chunk_mb, maxshape, itemsize)
    if 0 in theirs:  # less than one element, which hdmf refuses a step later
        with pytest.raises(IteratorArgumentError, match=f"one element has {itemsize}; use chunk_mb >="):
            default_chunk_shape(maxshape, itemsize, chunk_mb)
    else:
        assert default_chunk_shape(maxshape, itemsize, chunk_mb) == theirs


@given(maxshapes, itemsizes, budgets, st.data())
@FEW
def test_buffers_are_hdmfs(maxshape: tuple[int, ...], itemsize: int, buffer_gb: float, data: st.DataObject) -> None:
    check_buffers(maxshape, itemsize, buffer_gb, data)


@pytest.mark.heavy
@given(maxshapes, itemsizes, budgets, st.data())
@MANY
def test_many_buffers_are_hdmfs(
    maxshape: tuple[int, ...], itemsize: int, buffer_gb: float, data: st.DataObject
) -> None:
    check_buffers(maxshape, itemsize, buffer_gb, data)


def check_buffers(maxshape: tuple[int, ...], itemsize: int, buffer_gb: float, data: st.DataObject) -> None:
    chunk_shape = tuple(data.draw(st.integers(1, length)) for length in maxshape)
    theirs = hdmf_shape("buffer", buffer_gb, maxshape, itemsize, chunk_shape)
    assert default_buffer_shape(maxshape, chunk_shape, itemsize, buffer_gb) == theirs


@given(st.lists(st.integers(0, 10**6), max_size=4).map(tuple), st.floats(0.001, 100), st.floats(0.001, 100))
@settings(deadline=None)
def test_the_shapes_fit_one_another_also_without_elements_or_axes(
    maxshape: tuple[int, ...], chunk_mb: float, buffer_gb: float
) -> None:
    chunk_shape = default_chunk_shape(maxshape, 8, chunk_mb)
    buffer_shape = default_buffer_shape(maxshape, chunk_shape, 8, buffer_gb)
    BufferGrid(ChunkGrid(maxshape, chunk_shape), buffer_shape)
    assert all(1 <= c <= b <= max(n, 1) for c, b, n in zip(chunk_shape, buffer_shape, maxshape, strict=True))
    rounding = 1 + 1e-12
    assert math.prod(chunk_shape) * 8 <= chunk_mb * 1e6 * rounding
    assert math.prod(buffer_shape) * 8 <= max(buffer_gb * 1e9, math.prod(chunk_shape) * 8) * rounding


@pytest.mark.parametrize("budget", [1e300, math.inf])
def test_a_boundless_budget_takes_the_whole_array(budget: float) -> None:
    assert default_chunk_shape((12, 6), 2, budget) == (12, 6)
    assert default_buffer_shape((12, 6), (2, 2), 2, budget) == (12, 6)


@pytest.mark.parametrize("budget", [0, 0.0, -1, math.nan, -math.inf])
def test_a_budget_must_be_above_zero(budget: float) -> None:
    with pytest.raises(IteratorArgumentError, match=f"chunk_mb is {budget}; it must be greater than zero"):
        default_chunk_shape((12, 6), 2, budget)
    with pytest.raises(IteratorArgumentError, match=f"buffer_gb is {budget}; it must be greater than zero"):
        default_buffer_shape((12, 6), (2, 2), 2, budget)


def test_elements_without_bytes_cannot_be_sized() -> None:
    with pytest.raises(ArgumentError, match="itemsize is 0"):
        default_chunk_shape((12, 6), 0, 1.0)
    with pytest.raises(ArgumentError, match="itemsize is 0"):
        default_buffer_shape((12, 6), (2, 2), 0, 1.0)
