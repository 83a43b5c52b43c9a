import math

import numpy as np
import pytest
from h5py_stores import dataset, encoded, stored
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dask_chunkio.errors import CastError
from dask_chunkio.filters.cut import cast, check_cast, copied, cut_chunk, needs_cast
from dask_chunkio.filters.pipeline import ChunkFormat

INTEGERS = [order + kind for order in "<>" for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")]
TYPES = [*INTEGERS, "<f2", ">f4", "<f8", "<c8", ">c16", "?", "S3", "U2", "M8[s]", "V4", "O"]

PLACES = {
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
def test_chunks_are_hdf5s_however_the_buffer_lies_in_memory(place, dtype, fill):
    raw = np.arange(7 * 5)
    data = np.zeros((7, 5), dtype)
    for part in [data] if data.dtype.names is None else [data[name] for name in data.dtype.names]:
        part[...] = raw.reshape(7, 5) % 2 if part.dtype.kind == "b" else raw.reshape(7, 5)
    data = PLACES[place](data)
    value = None if fill is None else np.ones((), dtype)[()]
    with dataset(data.shape, dtype, (3, 2), fillvalue=value) as made:
        assert encoded(made, data) == stored(made, data)


def test_a_chunk_at_the_far_edge_is_padded_with_the_fill_value():
    form = ChunkFormat((2, 3), np.dtype("<i2"), (), np.int16(-7).tobytes())
    buffer = (slice(2, 5), slice(3, 7))
    data = np.arange(12, dtype="i2").reshape(3, 4)
    cut = cut_chunk(data, buffer, (slice(4, 5), slice(6, 7)), form)
    np.testing.assert_array_equal(cut, [[11, -7, -7], [-7, -7, -7]])
    cut = cut_chunk(data, buffer, (slice(2, 4), slice(3, 6)), form)
    np.testing.assert_array_equal(cut, [[0, 1, 2], [4, 5, 6]])


def test_a_whole_chunk_of_contiguous_memory_is_not_copied():
    form = ChunkFormat((2, 4), np.dtype("i2"), ())
    data = np.arange(16, dtype="i2").reshape(4, 4)
    assert np.shares_memory(cut_chunk(data, (slice(0, 4), slice(0, 4)), (slice(2, 4), slice(0, 4)), form), data)


@given(st.sampled_from(INTEGERS), st.sampled_from(INTEGERS), st.data())
@settings(deadline=None, max_examples=150)
def test_integers_out_of_range_become_what_hdf5_makes_of_them(source, target, draw):
    if not np.can_cast(source, target, "same_kind"):
        with pytest.raises(CastError):
            check_cast(np.dtype(source), np.dtype(target), "/x")
        return
    data = draw.draw(hnp.arrays(source, st.integers(1, 20), elements=edges(source, target)))
    if source[1] != target[1] and source[2] == target[2]:
        # Between byte orders HDF5 takes unsigned for signed numbers of the same size; nowhere else.
        target = source[0] + target[1:]
    same_as_hdf5(data, target)


def edges(source, target):
    here, there = np.iinfo(source), np.iinfo(target)
    near = [at + step for at in (here.min, here.max, there.min, there.max, 0) for step in (-1, 0, 1)]
    legal = [value for value in near if here.min <= value <= here.max]
    return st.one_of(st.sampled_from(legal), st.integers(int(here.min), int(here.max)))


def same_as_hdf5(data, target):
    with dataset(data.shape, target, data.shape) as made:
        made[...] = data
        expected = made[...]
    found = cast(data, np.dtype(target))
    assert found.dtype == np.dtype(target)
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize("source", ["i4", "u8", ">i8", "u1", "?"])
@pytest.mark.parametrize("target", ["f4", ">f8"])
def test_integers_become_the_floats_that_hdf5_makes(source, target):
    data = np.array([0, 1, 100, 2**24 + 1, 2**53 + 1, 2**63 - 1], "u8").astype(source)
    same_as_hdf5(data.astype("u1") if source == "?" else data, target)


@pytest.mark.parametrize(
    ("source", "target"), [("f8", "f4"), ("f8", ">f2"), ("f4", "f2"), (">f8", "<f4"), ("f2", "f8")]
)
def test_floats_out_of_range_become_infinite_without_a_warning(source, target):
    largest = min(float(np.finfo(source).max), 1e300)
    data = np.array([0.0, -0.0, 1 / 3, largest, -largest, math.inf, -math.inf, math.nan, 0.001], source)
    same_as_hdf5(data, target)


@pytest.mark.parametrize("source", TYPES)
@pytest.mark.parametrize("target", TYPES)
def test_casts_are_numpys_same_kind(source, target):
    source, target = np.dtype(source), np.dtype(target)
    if np.can_cast(source, target, "same_kind"):
        check_cast(source, target, "/x")
    else:
        with pytest.raises(CastError, match=r"^/x: values of dtype .* cannot be stored as .* give a dtype= that holds"):
            check_cast(source, target, "/x")


def test_byte_order_needs_a_cast_and_the_same_type_none():
    assert needs_cast(np.dtype("<i2"), np.dtype(">i2"))
    assert not needs_cast(np.dtype("i2"), np.dtype("<i2"))
    data = np.arange(3, dtype="i2")
    assert cast(data, np.dtype("<i2")) is data


HOLES = np.dtype({"names": ["a", "b"], "formats": ["u1", "<f4"], "offsets": [2, 8], "itemsize": 16})


@pytest.mark.parametrize("chunk", [4, 7])
@pytest.mark.parametrize("step", [1, 2])
def test_the_bytes_between_fields_are_those_of_the_source(chunk, step):
    """Not what was in memory before, which would get into the file."""
    raw = np.arange(16 * 6 * step, dtype="u1").reshape(6 * step, 16)
    data = raw.reshape(-1).view(HOLES)[::step]
    form = ChunkFormat((chunk,), HOLES, (), bytes(range(100, 116)))
    cut = cut_chunk(data, (slice(0, 6),), (slice(0, min(chunk, 6)),), form)
    expected = [*raw[::step][:chunk].tobytes(), *(bytes(range(100, 116)) * max(0, chunk - 6))]
    assert list(cut.tobytes()) == expected
    assert copied(data).tobytes() == raw[::step].tobytes()


def test_a_cast_leaves_nothing_between_fields():
    packed = np.array([(1, 2.5), (3, 4.5)], [("a", "u1"), ("b", "<f4")])
    bytes_of = np.frombuffer(cast(packed, HOLES).tobytes(), "u1").reshape(2, 16)
    assert not np.delete(bytes_of, [2, 8, 9, 10, 11], axis=1).any()
