import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hdmf.data_utils import DataChunk, DataChunkIterator
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_chunkio as dcio
from dask_chunkio.errors import ArgumentError, ArgumentTypeError, PicklingError, SourceError
from dask_chunkio.sources.stream import StreamSource, is_stream
from tests.support.iterators import numbers

DATA = numbers((11, 4))


def stream(data: Any = DATA, **keywords: Any) -> Any:
    return DataChunkIterator(**{"data": data, "maxshape": DATA.shape, "dtype": DATA.dtype, **keywords})


def whole_rows(start: int, stop: int) -> tuple[slice, slice]:
    return slice(start, stop), slice(0, 4)


@given(st.integers(1, 13), st.lists(st.integers(1, 10), max_size=6))
@settings(deadline=None)
def test_rows_come_in_order_whatever_the_pieces(piece: int, cuts: list[int]) -> None:
    source = StreamSource(stream(buffer_size=piece))
    borders = sorted({0, 11, *cuts})
    for start, stop in itertools.pairwise(borders):
        found = source.read(whole_rows(start, stop))
        np.testing.assert_array_equal(found, DATA[start:stop], strict=True)


def test_it_is_read_in_order_only() -> None:
    source = StreamSource(stream())
    assert is_stream(stream())
    assert is_stream(iter([1]))
    assert not is_stream([1])
    assert (source.shape, source.dtype, source.read_mode) == ((11, 4), np.dtype("i2"), "ordered")
    assert source.part(whole_rows(0, 2)) is None
    source.read(whole_rows(0, 2))
    with pytest.raises(SourceError, match="row 5 of a stream was requested, but its next row is 2"):
        source.read(whole_rows(5, 6))


@pytest.mark.parametrize("maxshape", [(None, None), (4, None), ()])
def test_only_the_first_length_may_be_unknown(maxshape: tuple[Any, ...]) -> None:
    unknown = type("Unknown", (), {"maxshape": maxshape, "dtype": "i2", "__next__": next})
    with pytest.raises(ArgumentError, match=r"Unknown has maxshape .*; only the length of the first axis may be unk"):
        StreamSource(unknown())


def pieces(data: Any = DATA, rows: int = 2) -> Iterator[Any]:
    """A generator, as users write it."""
    for start in range(0, len(data), rows):
        yield dcio.DataChunk(data[start : start + rows], slice(start, min(start + rows, len(data))))


@given(st.integers(1, 13), st.lists(st.integers(1, 10), max_size=6))
@settings(deadline=None)
def test_a_generator_says_what_it_is_by_its_first_datachunk(rows: int, cuts: list[int]) -> None:
    source = StreamSource(pieces(rows=rows))
    assert (source.open_ended, source.shape[1:], source.dtype) == (True, (4,), DATA.dtype)
    borders = sorted({0, 11, *cuts})
    for start, stop in itertools.pairwise(borders):
        np.testing.assert_array_equal(source.read(whole_rows(start, stop)), DATA[start:stop], strict=True)
    assert source.read(whole_rows(11, 15)).shape == (0, 4)


def test_what_a_stream_says_of_itself_counts() -> None:
    source = StreamSource(DataChunkIterator(data=iter(DATA), dtype=DATA.dtype))
    assert (source.open_ended, source.shape[1:], source.dtype) == (True, (4,), DATA.dtype)
    assert not StreamSource(stream()).open_ended


def test_a_generator_without_a_datachunk() -> None:
    nothing: tuple[Any, ...] = ()
    with pytest.raises(ArgumentError, match="generator ended before its first DataChunk, so that its shape and dtype"):
        StreamSource(iter(x for x in nothing))


@pytest.mark.parametrize("item", [1, "rows", np.zeros(3), None])
def test_a_generator_of_something_else(item: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"returned a \w+, not a DataChunk; yield dask_chunkio.DataChunk"):
        StreamSource(iter([item]))


def test_a_generator_that_fails_at_once() -> None:
    def failing() -> Iterator[None]:
        raise OSError("no disk")
        yield

    with pytest.raises(SourceError, match="generator raised OSError: no disk"):
        StreamSource(failing())


def test_a_stream_that_ends_early() -> None:
    source = StreamSource(stream(iter(DATA[:5])))
    with pytest.raises(SourceError, match="the stream ended at row 5 of 11"):
        source.read(whole_rows(0, 11))


class Given:
    """Hands out the DataChunks that it is given."""

    maxshape, dtype = (4, 3), np.dtype("i2")

    def __init__(self, *chunks: Any) -> None:
        self.chunks = iter(chunks)

    def __next__(self) -> Any:
        return next(self.chunks)

    def recommended_chunk_shape(self) -> Any:
        return None


class Recommending(Given):
    """Says which chunks it would have."""

    def recommended_chunk_shape(self) -> Any:
        return np.int64(2), 9


def row(*selection: Any, shape: tuple[int, ...] = (1, 3)) -> Any:
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
def test_anything_but_the_next_whole_rows_is_refused(chunk: Any) -> None:
    with pytest.raises(SourceError, match="whole rows from 0 on are needed"):
        StreamSource(Given(chunk)).read((slice(0, 1), slice(0, 3)))


def test_all_ways_to_say_the_next_rows() -> None:
    chunks = row(slice(0, 1)), row(slice(1, 3), slice(0, 3), shape=(2, 3)), row(slice(3, 4), slice(None))
    assert StreamSource(Given(*chunks)).read((slice(0, 4), slice(0, 3))).shape == (4, 3)


def test_no_recommendation_is_no_hint() -> None:
    assert StreamSource(Given()).shapes.chunk is None
    assert StreamSource(Recommending()).shapes.chunk == (2, 3)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("piece", [1, 4, 11])
def test_a_whole_write(target: Path, scheduler: str, piece: int) -> None:
    dcio.to_hdf5(target, "/x", stream(buffer_size=piece), chunks=(2, 3), buffer_shape=(4, 6), scheduler=scheduler)
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["x"][...], DATA, strict=True)


@pytest.mark.parametrize("data", [DATA, iter(DATA)], ids=["array", "open iterator"])
def test_hdmfs_streams_cannot_go_to_another_process(target: Path, data: Any) -> None:
    """Each holds one of hdmf's DataChunks, which never end to be unpickled."""
    with pytest.raises(PicklingError, match="/x: the source cannot be sent to worker processes"):
        dcio.to_hdf5(target, "/x", stream(data), scheduler="processes")
    assert not target.with_name("out.h5.writing").exists()


def test_another_mode_is_refused(target: Path) -> None:
    with pytest.raises(ArgumentError, match="/x: a stream can only be read in order"):
        dcio.to_hdf5(target, "/x", stream(), read="concurrent")
