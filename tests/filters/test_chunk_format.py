from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_chunkio.filters.chunk_format import ChunkFormat, Filter, Payload
from dask_chunkio.filters.encoder import DirectEncoder
from dask_chunkio.storage.hdf5.dataset import describe
from tests.support.h5py_stores import dataset, encoded, noise, stored


@given(
    st.sampled_from(["u1", "<i2", ">i4", "f8", "c16", "S7", "V3"]),
    st.lists(st.integers(1, 13), min_size=1, max_size=3),
    st.booleans(),
    st.booleans(),
    st.data(),
)
@settings(deadline=None)
def test_without_deflate_every_byte_is_hdf5s(
    dtype: Any, shape: Any, shuffle: Any, fletcher32: Any, draw: st.DataObject
) -> None:
    chunks = tuple(draw.draw(st.integers(1, length)) for length in shape)
    data = noise(tuple(shape), dtype)
    with dataset(data.shape, dtype, chunks, shuffle=shuffle, fletcher32=fletcher32) as made:
        assert encoded(made, data) == stored(made, data)


def test_the_payload_of_no_filters_is_the_chunks_own_memory() -> None:
    chunk = np.arange(6, dtype="i2").reshape(2, 3)
    payload = DirectEncoder(ChunkFormat((2, 3), chunk.dtype, ())).encode(chunk)
    assert np.shares_memory(np.frombuffer(payload.data, "i2"), chunk)
    assert (payload.nbytes, payload.mask) == (12, 0)


def test_a_read_only_chunk_can_be_encoded() -> None:
    chunk = np.frombuffer(bytes(range(12)), "i2")
    with dataset(chunk.shape, "i2", chunk.shape, shuffle=True, compression="gzip", fletcher32=True) as made:
        DirectEncoder(describe(made).form).encode(chunk)


def test_sizes() -> None:
    assert ChunkFormat((3, 5), np.dtype("c16"), ()).nbytes == 240
    assert ChunkFormat((1 << 20, 1 << 20), np.dtype("f8"), ()).nbytes == 1 << 43
    assert Payload(b"abc").nbytes == Payload(memoryview(b"abc")).nbytes == 3


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Filter(1, 1, (4,), "deflate"), "deflate(4)"),
        (Filter(2, 1, (8,), "shuffle"), "shuffle"),
        (Filter(3, 0, (), "fletcher32"), "fletcher32"),
        (Filter(32015, 1, (3, 1), "Zstandard"), "Zstandard(3,1)"),
    ],
)
def test_a_filter_in_words(step: Any, words: str) -> None:
    assert str(step) == words
