"""Each mode with a source that gives wrong data where the mode is not kept."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import dask_chunkio as dcio
from dask_chunkio.execution import tasks
from dask_chunkio.filters.chunking import cut_chunk
from tests.support.hdmf_iterators import FromArrayOfHdmf
from tests.support.iterators import FromArray, numbers

SHAPE = 16, 6
BUFFERS = 8
SHAPES = {"buffer_shape": (2, 6), "chunk_shape": (2, 3)}
# How long a source waits for what must not come; for what must come, tests wait without such a limit.
NEVER = 0.3


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    with dask.config.set(num_workers=2, scheduler="threads"):
        yield


def written(target: Path, source: Any, **keywords: Any) -> Any:
    dcio.to_hdf5(target, "/x", source, chunks=(2, 3), buffer_shape=(2, 6), **keywords)
    with h5py.File(target) as file:
        return file["x"][...]


class SharedPosition:
    """Seeks, and then reads from wherever it stands: a second caller in between moves it."""

    array: NDArray[Any]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.meeting = threading.Barrier(2, timeout=NEVER)
        super().__init__(*arguments, **keywords)

    def _get_data(self, selection: Any) -> Any:
        self.position = selection[0].start
        with contextlib.suppress(threading.BrokenBarrierError):
            self.meeting.wait()
        rows = selection[0].stop - selection[0].start
        return self.array[self.position : self.position + rows]


class Frames:
    """Returns the next frame, whatever is asked for; the first caller is overtaken if another is let in."""

    array: NDArray[Any]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.overtaken, self.frame = threading.Event(), 0
        self.threads: set[int] = set()
        super().__init__(*arguments, **keywords)

    def _get_data(self, selection: Any) -> Any:
        self.threads.add(threading.get_ident())
        if selection[0].start == 0:
            self.overtaken.wait(NEVER)
        rows = selection[0].stop - selection[0].start
        frame, self.frame = self.frame, self.frame + rows
        self.overtaken.set()
        return self.array[frame : frame + rows]


class TheirSharedPosition(SharedPosition, FromArrayOfHdmf):
    pass


class OurSharedPosition(SharedPosition, FromArray):
    pass


class TheirFrames(Frames, FromArrayOfHdmf):
    pass


class OurFrames(Frames, FromArray):
    pass


DATA = numbers(SHAPE)


def test_serial_lets_one_caller_in_at_a_time(target: Path) -> None:
    found = written(target, OurSharedPosition(DATA, **SHAPES), read="serial")
    np.testing.assert_array_equal(found, DATA)


def test_somebody_elses_iterator_is_serial_by_default(target: Path) -> None:
    found = written(target, TheirSharedPosition(DATA, **SHAPES))
    np.testing.assert_array_equal(found, DATA)


def test_ordered_calls_one_after_the_other_in_one_thread(target: Path) -> None:
    source = OurFrames(DATA, **SHAPES)
    np.testing.assert_array_equal(written(target, source, read="ordered"), DATA)
    assert len(source.threads) == 1


def test_a_known_reader_of_frames_is_ordered_by_default(target: Path) -> None:
    known = type("VideoDataChunkIterator", (TheirFrames,), {"__module__": "neuroconv.tools"})
    np.testing.assert_array_equal(written(target, known(DATA, **SHAPES)), DATA)


@pytest.mark.parametrize("kind", [OurSharedPosition, OurFrames])
def test_ours_is_concurrent_by_default_and_these_sources_do_go_wrong_then(target: Path, kind: Any) -> None:
    """Were they right here, the tests above could not fail."""
    assert (written(target, kind(DATA, **SHAPES)) != DATA).any()


@pytest.mark.parametrize("kind", [TheirSharedPosition, TheirFrames])
def test_the_user_has_the_last_word(target: Path, kind: Any) -> None:
    assert (written(target, kind(DATA, **SHAPES), read="concurrent") != DATA).any()


def test_concurrent_lets_several_in(target: Path) -> None:
    both = threading.Barrier(2, timeout=60)

    class Meeting(FromArray):
        def _get_data(self, selection: Any) -> Any:
            both.wait()
            return super()._get_data(selection)

    np.testing.assert_array_equal(written(target, Meeting(DATA, **SHAPES)), DATA)


@pytest.mark.parametrize("read", ["serial", "ordered"])
@pytest.mark.parametrize("base", [FromArray, FromArrayOfHdmf])
def test_one_array_that_is_filled_anew_for_each_call(
    target: Path, read: str, base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoding waits until the next call has filled it."""
    state = threading.Condition()
    calls = []

    class OneArray(base):  # type: ignore[misc]
        def _get_data(self, selection: Any) -> Any:
            with state:
                self.memory[...] = self.array[selection]
                calls.append(selection)
                state.notify_all()
            return self.memory

    source = OneArray(DATA, **SHAPES)
    source.memory = np.empty((2, 6), "i2")
    threads = []

    def late_cut_chunk(data: Any, buffer: Any, chunk: Any, form: Any) -> Any:
        with state:
            order = calls.index(buffer)
            assert state.wait_for(lambda: len(calls) > min(order + 1, BUFFERS - 1), 60)
        threads.append(threading.get_ident())
        return cut_chunk(data, buffer, chunk, form)

    monkeypatch.setattr(tasks, "cut_chunk", late_cut_chunk)
    np.testing.assert_array_equal(written(target, source, read=read), DATA)
    assert len(set(threads)) > 1  # encoding goes on in parallel


def test_serial_holds_across_processes(target: Path) -> None:
    """The lock is a file's: two processes that read the same tape."""
    tape = target.with_name("tape")
    tape.write_bytes(DATA.tobytes())
    source = Tape(str(tape), **SHAPES)
    found = written(target, source, read="serial", scheduler="processes")
    np.testing.assert_array_equal(found, DATA)


class Tape(dcio.GenericDataChunkIterator):
    """Finds out whether somebody else is reading."""

    def __init__(self, path: str, **keywords: Any) -> None:
        self.path = path
        super().__init__(**keywords)

    def _get_data(self, selection: Any) -> Any:
        import os

        busy = self.path + ".busy"
        os.close(os.open(busy, os.O_CREAT | os.O_EXCL))
        try:
            return np.fromfile(self.path, "i2").reshape(SHAPE)[selection]
        finally:
            os.unlink(busy)

    def _get_maxshape(self) -> Any:
        return SHAPE

    def _get_dtype(self) -> str:
        return "i2"
