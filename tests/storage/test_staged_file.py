import io
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_chunkio.errors import IntegrityError
from dask_chunkio.storage.hdf5.placeholder import placeholder
from dask_chunkio.storage.hdf5.staged_file import StagedFile
from tests.support.processes import run_python

START = bytes(range(200))


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


@pytest.fixture
def staged(descriptor: int) -> StagedFile:
    os.pwrite(descriptor, START, 0)
    return StagedFile(descriptor)


steps = st.one_of(
    st.tuples(st.just("seek"), st.integers(0, 400)),
    st.tuples(st.just("end"), st.integers(-50, 50)),
    st.tuples(st.just("skip"), st.integers(0, 60)),
    st.tuples(st.just("write"), st.binary(min_size=1, max_size=90)),
    st.tuples(st.just("readinto"), st.integers(1, 90)),
)


@given(st.lists(steps, max_size=30))
@settings(deadline=None)
def test_it_is_a_file_that_never_reaches_the_disk(script: Any) -> None:
    reference = io.BytesIO(START)
    with open(os.memfd_create("file"), "r+b", buffering=0) as file:
        file.write(START)
        staged = StagedFile(file.fileno())
        for step, value in script:
            _play(step, value, staged, reference)
            assert staged.size == len(reference.getbuffer())
        assert os.pread(file.fileno(), 1000, 0) == START
    content = bytearray(reference.getvalue())
    for offset, data in staged.staged.runs():
        assert content[offset : offset + len(data)] == data
    staged.check()


def _play(step: Any, value: Any, staged: StagedFile, reference: Any) -> None:
    if step == "seek":
        assert staged.seek(value) == reference.seek(value)
    elif step == "end":
        assert staged.seek(value, os.SEEK_END) == reference.seek(value, os.SEEK_END)
    elif step == "skip":
        assert staged.seek(value, os.SEEK_CUR) == reference.seek(value, os.SEEK_CUR)
    elif step == "write":
        assert staged.write(value) == reference.write(value)
    else:
        ours = bytearray(b"\xff" * value)
        position = reference.tell()
        theirs = reference.read(value)
        reference.seek(position + value)
        assert staged.readinto(ours) == value  # h5py ignores short counts: zeros beyond the end
        assert bytes(ours) == theirs + bytes(value - len(theirs))
    assert staged.tell() == reference.tell()


def test_reading_to_the_end(staged: StagedFile) -> None:
    staged.seek(190)
    staged.write(b"x" * 20)
    staged.seek(185)
    assert staged.read() == START[185:190] + b"x" * 20
    staged.seek(0)
    assert staged.read(3) == START[:3]


def test_truncating_changes_the_size_and_not_the_file(staged: StagedFile, descriptor: int) -> None:
    assert staged.truncate(50) == staged.size == 50
    assert os.fstat(descriptor).st_size == len(START)
    staged.seek(70)
    assert staged.truncate() == staged.size == 70


# What happens inside never comes out


class Trouble(BaseException):
    """Worse than an Exception, as KeyboardInterrupt is."""


CALLS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "seek": (lambda file: file.seek("here"), 0),
    "readinto": (lambda file: file.readinto(bytearray(8)), 8),
    "read": (lambda file: file.read(8), bytes(8)),
    "write": (lambda file: file.write(b"12345"), 5),
    "truncate": (lambda file: file.truncate(file), 0),
    "flush": (lambda file: file.flush(), None),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError(), KeyboardInterrupt(), Trouble()])
def test_a_callback_never_raises_and_the_file_is_dead_from_then_on(
    staged: StagedFile, call: tuple[Callable[[Any], Any], Any], error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    act, answer = call
    monkeypatch.setattr(staged.staged, "write", fail)
    monkeypatch.setattr(staged.staged, "overlay", fail)
    staged.write(b"first")
    assert staged.error is error
    assert act(staged) == answer
    with pytest.raises(type(error)):
        staged.check()


@pytest.mark.parametrize("name", ["seek", "readinto", "read", "truncate"])
def test_errors_of_each_callback_are_kept(
    staged: StagedFile, descriptor: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "preadv", os.preadv if name in ("seek", "truncate") else _io_error)
    act, answer = CALLS[name]
    if name == "truncate":
        monkeypatch.setattr(StagedFile, "size", property(_io_error, _io_error), raising=False)
    found = act(staged)
    assert found == answer
    assert isinstance(staged.error, OSError | TypeError)
    assert os.fstat(descriptor).st_size == len(START)


def _io_error(*_: Any) -> None:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    "fault", ["interrupt", *(pytest.param(name, marks=pytest.mark.heavy) for name in ("read", "stage", "erase"))]
)
def test_whichever_callback_fails_the_commit_raises_it_and_what_is_committed_stays(fault: str, tmp_path: Path) -> None:
    """In a process of its own, since HDF5 crashes at its end if an exception has come out of a callback."""
    done = run_python("-m", "tests.support.storage.faulty_commits", fault, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    counts = dict(line.split() for line in done.stdout.splitlines())
    assert counts.keys() == {"exclusive", "shared"}
    assert all(int(count) > 0 for count in counts.values())


def test_a_dead_file_discards_everything(staged: StagedFile) -> None:
    staged.write(b"kept")
    staged.abandon()
    assert staged.write(b"gone") == 4
    assert staged.readinto(bytearray(9)) == 9
    assert staged.staged.runs() == []
    with pytest.raises(IntegrityError, match="abandoned"):
        staged.check()


def test_a_dead_file_gives_hdf5_zeros_and_not_what_its_memory_held_before(staged: StagedFile) -> None:
    staged.error = OSError("injected")
    found = bytearray(b"garbage")
    assert staged.readinto(found) == 7
    assert found == bytes(7)


# The placeholder


def test_a_placeholder_has_exactly_the_length_asked_for_and_cannot_be_written() -> None:
    for nbytes in (1, 4096, (64 << 20) + 1, 5):
        place = placeholder(nbytes)
        assert len(place) == nbytes
        assert not place.flags.writeable
    assert placeholder(5).ctypes.data == placeholder(5).ctypes.data


def test_only_the_expected_slice_is_a_placeholder(staged: StagedFile) -> None:
    def write(*_: Any) -> None:
        staged.seek(300)
        staged.write(placeholder(10))
        staged.write(placeholder(11))
        staged.write(bytes(10))

    dataset = mock.Mock(write_direct_chunk=write)
    assert staged.reserve(dataset, (0,), 10, 0) == 300
    assert staged.staged.runs() == [(310, bytes(21))]
    assert staged.size == 331


def test_reservations_are_where_hdf5_says_they_are(descriptor: int) -> None:
    staged = StagedFile(descriptor)
    rng = np.random.default_rng(3)
    with h5py.File(staged, "w") as file:
        dataset = file.create_dataset("x", (40, 6), "i4", chunks=(4, 3), compression="gzip", maxshape=(None, 6))
        origins = [(row, column) for row in range(0, 40, 4) for column in (0, 3)]
        rng.shuffle(origins)
        places = {}
        for number, origin in enumerate(map(tuple, origins)):
            nbytes, mask = int(rng.integers(1, 5000)), number % 2
            places[origin] = (staged.reserve(dataset.id, origin, nbytes, mask), nbytes, mask)
        found = {}
        dataset.id.chunk_iter(lambda c: found.update({c.chunk_offset: (c.byte_offset, c.size, c.filter_mask)}))
    assert found == places
    assert len(places) == 20
    ends = sorted((offset, offset + nbytes) for offset, nbytes, _ in places.values())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))
    for low, data in staged.staged.runs():  # nothing staged lies over a payload
        assert all(low + len(data) <= start or end <= low for start, end in ends)


def test_what_was_staged_under_a_placeholder_is_forgotten(descriptor: int, tmp_path: Path) -> None:
    """With early allocation HDF5 fills the chunk first: applied later, that would destroy the payload."""
    staged = StagedFile(descriptor)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((1000,))
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_value(np.array(-1, "i8"))
    with h5py.File(staged, "w") as file:
        space = h5py.h5s.create_simple((2000,))
        made = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_INT64, space, plist)
        file.flush()
        fill = np.full(1000, -1, "i8").tobytes()
        assert any(fill in data for _, data in staged.staged.runs())
        places = [staged.reserve(made, (start,), 8000, 0) for start in (0, 1000)]
    for low, data in staged.staged.runs():
        assert all(low + len(data) <= place or place + 8000 <= low for place in places)
    for number, place in enumerate(places):
        os.pwrite(descriptor, np.full(1000, number, "i8").tobytes(), place)
    for offset, data in staged.staged.runs():
        os.pwrite(descriptor, data, offset)
    with h5py.File(tmp_path / "file") as file:
        np.testing.assert_array_equal(file["x"][...], np.repeat([0, 1], 1000))


def test_a_placeholder_that_does_not_come_is_an_error(staged: StagedFile) -> None:
    with h5py.File("elsewhere", "w", driver="core", backing_store=False) as other:
        dataset = other.create_dataset("x", (4,), "u1", chunks=(4,))
        with pytest.raises(IntegrityError, match=r"chunk at \(0,\) 0 times instead of once"):
            staged.reserve(dataset.id, (0,), 4, 0)
    # From then on, it is bytes like any others.
    staged.write(placeholder(4))
    assert staged.staged.runs() == [(0, bytes(4))]


def test_a_reservation_on_a_dead_file_raises_what_killed_it(descriptor: int) -> None:
    staged = StagedFile(descriptor)
    file = h5py.File(staged, "w")
    dataset = file.create_dataset("x", (4,), "u1", chunks=(4,))
    staged.error = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left on device"):
        staged.reserve(dataset.id, (0,), 4, 0)
    staged.abandon()
    file.close()


@pytest.mark.parametrize("offset", [1 << 40, 1 << 63, (1 << 64) - 4096])
def test_places_that_no_file_has_are_read_as_zeros_and_not_written(
    staged: StagedFile, descriptor: int, offset: int
) -> None:
    """Damaged metadata names them."""
    staged.seek(offset)
    buffer = bytearray(b"x" * 50)
    assert staged.readinto(buffer) == 50
    assert buffer == bytes(50)
    staged.check()
    staged.seek(1 << 63)
    assert staged.write(b"here") == 4
    with pytest.raises(IntegrityError, match="metadata is damaged"):
        staged.check()
    assert os.pread(descriptor, 1000, 0) == START
