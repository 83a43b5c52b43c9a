"""Streams whose length is known only when they have ended."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
import pytest
from hdmf.data_utils import DataChunkIterator
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_chunkio as dcio
from dask_chunkio.errors import (
    ArgumentError,
    ArgumentTypeError,
    IntegrityError,
    PicklingError,
    SourceError,
    TargetExistsError,
)
from dask_chunkio.storage.finish import finish
from tests.support.iterators import numbers
from tests.support.processes import run_python

here = pytest.mark.parametrize("scheduler", ["synchronous", "threads"])


class Empty:
    maxshape, dtype = (None, 5), np.dtype("i2")

    def __next__(self) -> NoReturn:
        raise StopIteration


def rows_of(data: Any, at_once: int = 3, fail_at: int | None = None) -> Iterator[dcio.DataChunk]:
    for start in range(0, len(data), at_once):
        if fail_at is not None and start >= fail_at:
            raise OSError("the device is gone")
        yield dcio.DataChunk(data[start : start + at_once], np.s_[start : start + at_once, 0 : data.shape[1]])


def write(target: Any, source: Any, scheduler: str = "synchronous", **keywords: Any) -> Any:
    layout = {"chunks": (4, 3), "buffer_shape": (8, 6), "compression": "gzip", "scheduler": scheduler}
    return dcio.to_hdf5(target, "/x", source, **{**layout, **keywords})


def check(target: Any, data: Any, maxshape: Any = None) -> None:
    with h5py.File(target) as file:
        dataset = file["x"]
        np.testing.assert_array_equal(dataset[...], data, strict=True)
        assert dataset.maxshape == (maxshape or (None, *data.shape[1:]))
        cells = [-(-n // c) for n, c in zip(data.shape, dataset.chunks, strict=True)]
        assert dataset.id.get_num_chunks() == np.prod(cells)


@here
@pytest.mark.parametrize("libver", ["earliest", "v110"])
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 16, 17, 64, 100])
def test_it_has_its_length_in_the_end(target: Path, scheduler: str, libver: str, rows: int) -> None:
    data = numbers((rows, 5))
    result = write(target, rows_of(data), scheduler, libver=libver)
    check(target, data)
    found = result.datasets[0]
    assert (found.shape, found.nbytes, found.buffers) == (data.shape, data.nbytes, -(-rows // 8))
    assert os.listdir(target.parent) == [target.name]


@given(st.tuples(st.integers(1, 41), st.sampled_from([2, 5])), st.integers(1, 9), st.integers(1, 5), st.integers(1, 3))
@settings(deadline=None, max_examples=40)
def test_any_lengths(shape: tuple[int, int], at_once: int, chunk: int, chunks: int) -> None:
    data = numbers(shape)
    layout = {"chunks": (chunk, 2), "buffer_shape": (chunk * chunks, 4)}
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "out.h5")
        write(target, rows_of(data, at_once), "threads", **layout)
        check(target, data)


def test_shapes_are_chosen(target: Path) -> None:
    data = numbers((3000, 5))
    dcio.to_hdf5(target, "/x", rows_of(data, 100), scheduler="threads")
    check(target, data)


def test_hdmfs_iterator_over_an_iterable(target: Path) -> None:
    data = numbers((50, 4))
    write(target, DataChunkIterator(data=iter(data), buffer_size=7), chunks=(4, 2), buffer_shape=(8, 4))
    check(target, data)


def test_a_stream_that_transactions_out_to_be_empty(target: Path) -> None:
    result = write(target, Empty())
    with h5py.File(target) as file:
        assert (file["x"].shape, file["x"].maxshape, file["x"].id.get_num_chunks()) == ((0, 5), (None, 5), 0)
    assert (result.nbytes, result.buffers, result.chunks) == (0, 0, 0)


@pytest.mark.parametrize("most", [20, 24, 25, 100])
def test_a_length_that_is_not_exceeded(target: Path, most: int) -> None:
    data = numbers((20, 5))
    write(target, rows_of(data), maxshape=(most, 5))
    check(target, data, (most, 5))


@pytest.mark.parametrize("most", [1, 5, 8, 16, 19])
def test_more_rows_than_maxshape_allows(target: Path, most: int) -> None:
    with pytest.raises(SourceError, match=rf"/x, buffer \d, .*the stream has more rows than maxshape= allows, {most}"):
        write(target, rows_of(numbers((20, 5))), maxshape=(most, 5), chunks=(1, 5), buffer_shape=(8, 5))
    assert not target.exists()


def test_several_streams_into_a_file_that_is_there(target: Path) -> None:
    old, one, two = numbers((6, 2)), numbers((100, 5)), numbers((33, 5)) + 1
    with h5py.File(target, "w") as file:
        file["old"] = old
    dcio.to_hdf5(
        target,
        {"/x": rows_of(one), "/y": rows_of(two, 10), "/z": one},
        chunks=(4, 3),
        buffer_shape=(8, 6),
        scheduler="threads",
    )
    check(target, one)
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["old"][...], old)
        np.testing.assert_array_equal(file["y"][...], two)
        np.testing.assert_array_equal(file["z"][...], one)
        assert set(file) == {"old", "x", "y", "z"}


@here
@pytest.mark.parametrize("fail_at", [3, 9, 40, 99])
def test_it_is_resumed_with_the_stream_from_its_beginning(target: Path, scheduler: str, fail_at: int) -> None:
    data = numbers((101, 5))
    with pytest.raises(SourceError, match="the device is gone"):
        write(target, rows_of(data, fail_at=fail_at), scheduler)
    unfinished = dcio.status(target)
    assert unfinished is not None
    assert unfinished.datasets[0].name == "/x"
    assert dcio.verify(target).ok
    write(target, rows_of(data, 10), scheduler, resume=True)
    check(target, data)


def test_a_write_that_had_its_length_is_resumed(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dask_chunkio.execution import tasks

    data = numbers((101, 5))
    monkeypatch.setattr(tasks, "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(target, rows_of(data))
    monkeypatch.setattr(tasks, "finish", finish)
    for rows in (100, 102, 200, 8):
        with pytest.raises(IntegrityError, match=r"/x: the stream has \d+ rows now, but another number when its"):
            write(target, rows_of(numbers((rows, 5))), resume=True)
    write(target, rows_of(data, 7), resume=True)
    check(target, data)


@pytest.mark.parametrize("rows", [0, 4, 8, 17, 39])
def test_a_stream_that_is_shorter_than_what_was_committed(target: Path, rows: int) -> None:
    data = numbers((101, 5))
    with pytest.raises(SourceError):
        write(target, rows_of(data, 8, fail_at=40))
    shorter = rows_of(data[:rows], 8) if rows else Empty()
    with pytest.raises(IntegrityError, match=r"the stream has .* but another number when its write was begun"):
        write(target, shorter, resume=True)
    write(target, rows_of(data), resume=True)
    check(target, data)


KILLED = """
import os, signal, sys
import dask_chunkio as dcio
from tests.support.iterators import numbers
from tests.test_open_ended import rows_of, write

def dying(data):
    for chunk in rows_of(data):
        if chunk.selection[0].start >= int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield chunk

write(sys.argv[1], dying(numbers((101, 5))), "threads")
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
@pytest.mark.parametrize("killed_at", [33, *(pytest.param(at, marks=pytest.mark.heavy) for at in (9, 99))])
def test_a_killed_one_is_resumed(target: Path, killed_at: int) -> None:
    ended = run_python("-c", KILLED, target, killed_at)
    assert ended.returncode == -signal.SIGKILL
    data = numbers((101, 5))
    write(target, rows_of(data, 10), "threads", resume=True)
    check(target, data)


def test_what_is_left_of_one_is_recovered(target: Path, tmp_path: Path) -> None:
    data = numbers((101, 5))
    with pytest.raises(SourceError):
        write(target, rows_of(data, 8, fail_at=40))
    found = dcio.recover(target, tmp_path / "found.h5")
    with h5py.File(found.path) as file:
        recovered = file["x"][...]
    assert len(recovered) >= 40
    np.testing.assert_array_equal(recovered[:40], data[:40])
    assert not recovered[40:].any()


def test_other_properties_than_it_was_begun_with(target: Path) -> None:
    data = numbers((101, 5))
    with pytest.raises(SourceError):
        write(target, rows_of(data, 8, fail_at=40))
    for other in ({"dtype": "i4"}, {"chunks": (2, 3)}, {"shuffle": True}):
        with pytest.raises(ArgumentError, match="cannot be resumed with these arguments: /x: "):
            write(target, rows_of(data), resume=True, **other)
    with pytest.raises(ArgumentError, match="cannot be resumed with these arguments: /x: shape was "):
        write(target, data, resume=True, maxshape=(None, 5))


def test_it_needs_a_length_to_be_written_into_what_is_there(target: Path) -> None:
    write(target, numbers((8, 5)), maxshape=(None, 5))
    for where in ({"append": True}, {"region": np.s_[0:4]}):
        with pytest.raises(ArgumentError, match="needs a known length, and this stream has none"):
            dcio.to_hdf5(target, "/x", rows_of(numbers((4, 5))), scheduler="synchronous", **where)


def test_a_plan_does_not_know_the_length() -> None:
    said: dict[str, Any] = {"maxshape": (None, 5), "dtype": "i2"}
    words = repr(dcio.plan("out.h5", "/x", rows_of(numbers((4, 5))), chunks=(4, 3), buffer_shape=(8, 6), **said))
    assert "A stream by" in words
    assert "array    (None, 5) int16, of unknown length" in words
    assert "in all" not in words


def test_a_plan_takes_nothing_away_from_a_generator(target: Path) -> None:
    data = numbers((20, 5))
    rows = rows_of(data)
    with pytest.raises(ArgumentError, match=r"/x: a plan would have to read the first DataChunk of this gener"):
        dcio.plan(target, "/x", rows)
    planned = dcio.plan(target, "/x", rows, maxshape=(None, 5), dtype="i2", chunks=(4, 5))
    assert planned.datasets[0].open_ended
    write(target, rows)
    check(target, data)


def test_a_plan_of_a_generator_is_written(target: Path) -> None:
    data = numbers((20, 5))
    dcio.plan(target, "/x", rows_of(data), maxshape=(None, 5), dtype="i2", chunks=(4, 5)).write()
    check(target, data)


def test_a_generator_that_an_earlier_call_has_begun_is_not_written_without_its_first_rows(target: Path) -> None:
    data, rows = numbers((20, 5)), rows_of(numbers((20, 5)))
    with h5py.File(target, "w") as file:
        file["x"] = 1
    with pytest.raises(TargetExistsError):
        write(target, rows)
    target.unlink()
    with pytest.raises(SourceError, match=r"whole rows from 0 on are needed.*make it anew: it cannot be read twice"):
        write(target, rows)
    one_piece = rows_of(data, 20)
    next(one_piece)
    with pytest.raises(ArgumentError, match="If an earlier call has read the stream, make it anew"):
        write(target, one_piece)
    assert not target.exists()


@pytest.mark.parametrize("wrong", [{"read": "so"}, {"compression": "gzp"}, {"dtype": "f9"}, {"nothing": 1}])
def test_a_call_that_is_refused_for_its_keywords_takes_nothing_away(target: Path, wrong: dict[str, Any]) -> None:
    data = numbers((20, 5))
    rows = rows_of(data)
    with pytest.raises((ArgumentError, ArgumentTypeError)):
        write(target, rows, **wrong)
    with pytest.raises(ArgumentTypeError):
        dcio.to_hdf5(target, {"/x": rows, "/y": object()})
    write(target, rows)
    check(target, data)


def test_what_is_said_of_a_generator_spares_it_its_first_datachunk(target: Path) -> None:
    data = numbers((20, 5))
    rows = rows_of(data)
    with h5py.File(target, "w") as file:
        file["x"] = 1
    said: dict[str, Any] = {"maxshape": (None, 5), "dtype": "i4"}
    with pytest.raises(TargetExistsError):
        write(target, rows, **said)
    write(target, rows, overwrite=True, **said)
    check(target, data.astype("i4"))


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("at", [lambda i: i, lambda i: (i,), lambda i: (i, ...), lambda i: (i, slice(0, 4)), np.int64])
def test_frames_by_their_numbers(target: Path, scheduler: str, at: Callable[[int], Any]) -> None:
    data = numbers((30, 4, 5))
    frames = (dcio.DataChunk(frame, at(number)) for number, frame in enumerate(data))
    dcio.to_hdf5(target, "/x", frames, chunks=(4, 4, 5), scheduler=scheduler)
    check(target, data)


def test_numbers_one_by_one(target: Path) -> None:
    dcio.to_hdf5(target, "/x", (dcio.DataChunk(np.array(n), n) for n in range(10)))
    check(target, np.arange(10))


@pytest.mark.parametrize("most", [40, (40,)])
def test_chunks_are_chosen_within_maxshape(target: Path, most: int | tuple[int, ...]) -> None:
    dcio.to_hdf5(target, "/x", (dcio.DataChunk(np.arange(10), np.s_[n : n + 10]) for n in (0, 10, 20)), maxshape=most)
    check(target, np.tile(np.arange(10), 3), (40,))


def test_a_generator_stays_in_its_process(target: Path) -> None:
    with pytest.raises(PicklingError, match=r"/x: .*generator"):
        write(target, rows_of(numbers((4, 5))), "processes")


def test_the_bar_has_no_end(target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(target, rows_of(numbers((100, 5))), progress=True)
    assert "/x: 0.98kB [" in capsys.readouterr().err
