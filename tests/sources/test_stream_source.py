import numpy as np
import pytest
from hdmf.data_utils import DataChunk, DataChunkIterator
from hypothesis import given, settings
from hypothesis import strategies as st
from iterators import numbers

import dask_chunkio as dcio
from dask_chunkio.errors import ArgumentError, SourceError
from dask_chunkio.sources.stream import StreamSource, is_stream

DATA = numbers((11, 4))


def stream(data=DATA, **keywords):
    return DataChunkIterator(**{"data": data, "maxshape": DATA.shape, "dtype": DATA.dtype, **keywords})


def whole_rows(start, stop):
    return slice(start, stop), slice(0, 4)


@given(st.integers(1, 13), st.lists(st.integers(1, 10), max_size=6))
@settings(deadline=None)
def test_rows_come_in_order_whatever_the_pieces(piece, cuts):
    source = StreamSource(stream(buffer_size=piece))
    borders = sorted({0, 11, *cuts})
    for start, stop in zip(borders, borders[1:], strict=False):
        found = source.read(whole_rows(start, stop))
        np.testing.assert_array_equal(found, DATA[start:stop], strict=True)


def test_it_is_read_in_order_only():
    source = StreamSource(stream())
    assert is_stream(stream())
    assert not is_stream(iter([1]))
    assert (source.shape, source.dtype, source.read_mode) == ((11, 4), np.dtype("i2"), "ordered")
    assert source.part(whole_rows(0, 2)) is None
    source.read(whole_rows(0, 2))
    with pytest.raises(SourceError, match="asked for row 5, but stands at row 2"):
        source.read(whole_rows(5, 6))


@pytest.mark.parametrize(
    "keywords",
    [{"maxshape": None}, {"maxshape": (None, 4)}, {"data": iter(DATA), "maxshape": DATA.shape, "dtype": None}],
)
def test_a_stream_whose_end_is_not_known_is_refused(keywords):
    if keywords.get("maxshape") is None:
        made = stream()
        made._DataChunkIterator__maxshape = None
        if made.maxshape is not None:  # hdmf works it out from an array
            made = type("Unknown", (), {"maxshape": None, "dtype": "i2", "__next__": next})()
    elif "dtype" in keywords:
        made = type("Unknown", (), {"maxshape": (3,), "dtype": None, "__next__": next})()
    else:
        made = stream(**keywords)
    with pytest.raises(ArgumentError, match="give it maxshape= and dtype="):
        StreamSource(made)


def test_a_stream_that_ends_early():
    source = StreamSource(stream(iter(DATA[:5])))
    with pytest.raises(SourceError, match="the stream ended at row 5 of 11"):
        source.read(whole_rows(0, 11))


class Given:
    """Hands out the DataChunks that it is given."""

    maxshape, dtype = (4, 3), np.dtype("i2")

    def __init__(self, *chunks):
        self.chunks = iter(chunks)

    def __next__(self):
        return next(self.chunks)

    def recommended_chunk_shape(self):
        return None


def row(*selection, shape=(1, 3)):
    return DataChunk(np.ones(shape, "i2"), selection if len(selection) > 1 else selection[0])


@pytest.mark.parametrize(
    "chunk",
    [
        row(slice(1, 2)),
        row(slice(0, 1), slice(0, 2), shape=(1, 2)),
        row(np.array([2])[0]),
        row(slice(0, 1), shape=(1, 4)),
    ],
)
def test_anything_but_the_next_whole_rows_is_refused(chunk):
    with pytest.raises(SourceError, match="whole rows from 0 on are needed"):
        StreamSource(Given(chunk)).read((slice(0, 1), slice(0, 3)))


def test_all_ways_to_say_the_next_rows():
    chunks = row(slice(0, 1)), row(slice(1, 3), slice(0, 3), shape=(2, 3)), row(slice(3, 4), slice(None))
    assert StreamSource(Given(*chunks)).read((slice(0, 4), slice(0, 3))).shape == (4, 3)


def test_no_recommendation_is_no_hint():
    assert StreamSource(Given()).shapes.chunk is None
    assert StreamSource(stream()).shapes.chunk is not None


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
@pytest.mark.parametrize("piece", [1, 4, 11])
def test_a_whole_write(target, scheduler, piece):
    """Of an array, since an open iterator goes to no other process."""
    dcio.to_hdf5(target, "/x", stream(buffer_size=piece), chunks=(2, 3), buffer_shape=(4, 6), scheduler=scheduler)
    with dcio_file(target) as file:
        np.testing.assert_array_equal(file["x"][...], DATA, strict=True)


def dcio_file(path):
    import h5py

    return h5py.File(path)


def test_another_mode_is_refused(target):
    with pytest.raises(ArgumentError, match="/x: a stream can only be read in order"):
        dcio.to_hdf5(target, "/x", stream(), read="concurrent")
