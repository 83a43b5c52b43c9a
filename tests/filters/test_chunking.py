from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dask_chunkio.filters.chunk_format import ChunkFormat
from dask_chunkio.filters.chunking import copied, cut_chunk
from dask_chunkio.filters.conversion import convert
from tests.support.h5py_stores import dataset, encoded, stored

PLACES: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "C": lambda data: data,
    "Fortran": np.asfortranarray,
    "strided": lambda data: np.repeat(np.repeat(data, 2, 0), 3, 1)[::2, ::3],
    "reversed": lambda data: data[::-1, ::-1].copy()[::-1, ::-1],
    "swapped": lambda data: data.astype(data.dtype.newbyteorder("S")),
    "read only": lambda data: np.frombuffer(data.tobytes(), data.dtype).reshape(data.shape),
    "unaligned": lambda data: np.frombuffer(b"x" + data.tobytes(), "u1")[1:].view(data.dtype).reshape(data.shape),
    "broadcast": lambda data: np.broadcast_to(data[:1], data.shape),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", ["<i2", ">f8", "c8", "S3", "?", [("a", "<i2"), ("b", ">f4")]])
@pytest.mark.parametrize("fill", [None, 1])
def test_chunks_are_hdf5s_however_the_buffer_lies_in_memory(
    place: str, dtype: str | list[Any], fill: int | None
) -> None:
    raw = np.arange(7 * 5)
    data = np.zeros((7, 5), dtype)
    for part in [data] if data.dtype.names is None else [data[name] for name in data.dtype.names]:
        part[...] = raw.reshape(7, 5) % 2 if part.dtype.kind == "b" else raw.reshape(7, 5)
    data = PLACES[place](data)
    value = None if fill is None else np.ones((), dtype)[()]
    with dataset(data.shape, dtype, (3, 2), fillvalue=value) as made:
        assert encoded(made, data) == stored(made, data)


def test_a_chunk_at_the_far_edge_is_padded_with_the_fill_value() -> None:
    form = ChunkFormat((2, 3), np.dtype("<i2"), (), np.int16(-7).tobytes())
    buffer = (slice(2, 5), slice(3, 7))
    data = np.arange(12, dtype="i2").reshape(3, 4)
    cut = cut_chunk(data, buffer, (slice(4, 5), slice(6, 7)), form)
    np.testing.assert_array_equal(cut, [[11, -7, -7], [-7, -7, -7]])
    cut = cut_chunk(data, buffer, (slice(2, 4), slice(3, 6)), form)
    np.testing.assert_array_equal(cut, [[0, 1, 2], [4, 5, 6]])


def test_a_whole_chunk_of_contiguous_memory_is_not_copied() -> None:
    form = ChunkFormat((2, 4), np.dtype("i2"), ())
    data = np.arange(16, dtype="i2").reshape(4, 4)
    assert np.shares_memory(cut_chunk(data, (slice(0, 4), slice(0, 4)), (slice(2, 4), slice(0, 4)), form), data)


HOLES = np.dtype({"names": ["a", "b"], "formats": ["u1", "<f4"], "offsets": [2, 8], "itemsize": 16})


@pytest.mark.parametrize("chunk", [4, 7])
@pytest.mark.parametrize("step", [1, 2])
def test_the_bytes_between_fields_are_those_of_the_source(chunk: int, step: int) -> None:
    """Not what was in memory before, which would get into the file."""
    raw = np.arange(16 * 6 * step, dtype="u1").reshape(6 * step, 16)
    data = raw.reshape(-1).view(HOLES)[::step]
    form = ChunkFormat((chunk,), HOLES, (), bytes(range(100, 116)))
    cut = cut_chunk(data, (slice(0, 6),), (slice(0, min(chunk, 6)),), form)
    expected = [*raw[::step][:chunk].tobytes(), *(bytes(range(100, 116)) * max(0, chunk - 6))]
    assert list(cut.tobytes()) == expected
    assert copied(data).tobytes() == raw[::step].tobytes()


def test_a_cast_leaves_nothing_between_fields() -> None:
    packed = np.array([(1, 2.5), (3, 4.5)], [("a", "u1"), ("b", "<f4")])
    bytes_of = np.frombuffer(convert(packed, HOLES).tobytes(), "u1").reshape(2, 16)
    assert not np.delete(bytes_of, [2, 8, 9, 10, 11], axis=1).any()
