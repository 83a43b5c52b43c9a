import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dask_chunkio.errors import IntegrityError, TargetError
from dask_chunkio.filters.chunk_format import Payload
from dask_chunkio.storage import payload_file, session
from dask_chunkio.storage.begin import begin
from dask_chunkio.storage.filesystem.io import pwrite_all, pwrite_each
from dask_chunkio.storage.finish import finish
from dask_chunkio.storage.hdf5 import staged_file
from dask_chunkio.storage.hdf5.dataset import DatasetSpec
from dask_chunkio.storage.hdf5.staged_file import StagedFile
from dask_chunkio.storage.target import Target
from dask_chunkio.storage.writer import Writer
from tests.support.processes import run_python
from tests.support.storage.writes import Write, longer, no_lock

both = pytest.mark.parametrize("exclusive", [False, True], ids=["shared", "exclusive"])


@pytest.fixture(params=[False, True], ids=["shared", "exclusive"])
def write(request: pytest.FixtureRequest, target: Path) -> Iterator[Any]:
    with Write(target, exclusive=request.param, compression="gzip") as made:
        yield made


@pytest.fixture
def shared(target: Path) -> Iterator[Any]:
    with Write(target, exclusive=False, compression="gzip") as made:
        yield made


def index(write: Any) -> Any:
    """HDF5's own index of the unfinished file."""
    found = {}
    with h5py.File(write.target.file, "r", locking=False) as file:
        file["x"].id.chunk_iter(lambda c: found.update({c.chunk_offset: (c.byte_offset, c.size, c.filter_mask)}))
    return found


def test_a_write(write: Any, target: Path) -> None:
    for buffer in (2, 0, 1):
        write.commit(buffer)
        assert not os.path.lexists(target)
    stored = write.finish()
    write.check()
    assert os.listdir(target.parent) == ["out.h5"]
    with h5py.File(target) as file:
        assert stored.stored == (file["x"].id.get_storage_size(),)
        assert file["x"].id.get_num_chunks() == 12


def test_reservations_agree_with_hdf5s_index_after_each_commit(write: Any) -> None:
    expected = {}
    for buffer in range(3):
        reserved = write.commit(buffer)
        for chunk, (offset, nbytes, _, mask, _) in zip(write.chunks(buffer), reserved.tolist(), strict=True):
            expected[write.layout.chunks.origin(chunk)] = offset, nbytes, mask
        assert index(write) == expected


def test_the_file_is_trimmed_and_nothing_overlaps(write: Any, target: Path) -> None:
    for buffer in range(3):
        write.commit(buffer)
    write.finish()
    with h5py.File(target) as file:
        size = file.id.get_filesize()
        ends = []
        file["x"].id.chunk_iter(lambda c: ends.append((c.byte_offset, c.byte_offset + c.size)))
    assert size == os.path.getsize(target)
    ends.sort()
    assert all(end <= start for (_, end), (start, _) in zip(ends, [*ends[1:], (size, size)], strict=True))


def test_two_datasets_and_one_without_axes(target: Path) -> None:
    with Write(target, exclusive=True) as write:
        write.commit_missing()
        write.finish()
    specs = [DatasetSpec("/g/x", (4,), np.dtype("i2"), (2,)), DatasetSpec("/g/y", (), np.dtype("f8"), ())]
    other = Target(str(target) + "2", "id")
    begun = begin(other, specs, True, no_lock)
    other, layouts = begun.target, begun.made.layouts
    opened = session.writer_for(other, True)
    opened.commit((0, 0), layouts[0], [0, 1], [Payload(b"\1\0\2\0"), Payload(b"\3\0\4\0")], no_lock)
    opened.commit_by_hdf5((1, 0), [0], np.array(2.5), (), no_lock)
    assert finish(other, layouts, specs, no_lock).stored == (8, 8)
    with h5py.File(other.path) as file:
        assert file["g/x"][...].tolist() == [1, 2, 3, 4]
        assert file["g/y"][()] == 2.5


# What is in place, and what is not


def test_what_is_committed_is_found_by_any_writer(shared: Any) -> None:
    other = Writer(shared.target, exclusive=False)
    assert not shared.is_stored(1, other)
    shared.commit(1)
    assert shared.is_stored(1, other)
    assert not shared.is_stored(0, other)
    other.close()


def test_writers_take_transactions_on_one_file(shared: Any) -> None:
    other = Writer(shared.target, exclusive=False)
    shared.commit(0)
    shared.commit(1, writer=other)
    shared.commit(2)
    other.close()
    shared.finish()
    shared.check()


def test_a_payload_that_was_never_placed_is_found_out(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that died between its transaction and its payloads."""
    monkeypatch.setattr(payload_file, "pwrite_each", _die)
    with pytest.raises(DiedError):
        write.commit(1)
    monkeypatch.undo()
    assert write.writer.transactions.journal.find(0, write.chunks(1)) is not None
    assert not write.is_stored(1)
    write.commit_missing()
    assert write.is_stored(1)
    write.finish()
    write.check()


class DiedError(BaseException):
    """The end of a process, as far as its files can tell."""


def _die(*_: Any) -> None:
    raise DiedError


@pytest.mark.parametrize("position", [0, -1])
def test_a_payload_with_another_byte_is_found_out(write: Any, position: int) -> None:
    reserved = write.commit(1)
    *_, (offset, nbytes, _, _, _) = reserved.tolist()
    at = offset + position % nbytes
    with open(write.target.file, "r+b", buffering=0) as file:
        (byte,) = os.pread(file.fileno(), 1, at)
        os.pwrite(file.fileno(), bytes([byte ^ 1]), at)
    assert not write.is_stored(1)


def test_payloads_beyond_the_end_of_the_file_are_not_in_place(shared: Any) -> None:
    reserved = shared.commit(0)
    os.truncate(shared.target.file, int(reserved["offset"][-1]))
    assert not shared.is_stored(0)


# The same buffer again


def test_the_same_payload_again_changes_nothing(write: Any) -> None:
    first = write.commit(1)
    assert write.commit(1).tolist() == first.tolist()
    write.complete()


def test_what_is_in_place_is_never_written_over(write: Any) -> None:
    """By an encoder that gives other bytes each time: the process could die in the middle."""
    before = write.commit(0)
    write.commit(0, longer(write.payloads(0)))
    assert write.writer.transactions.journal.rows(0, write.chunks(0)).tolist() == before.tolist()
    write.complete()


def test_another_payload_of_the_same_length_is_placed_again(target: Path) -> None:
    """Where an encoder gives other bytes each time, or the source has changed."""
    with Write(target, shuffle=True) as write:
        first = write.commit(0)
        write.data = write.data + 1
        write.lose(0)
        second = write.commit(0)
        assert second["offset"].tolist() == first["offset"].tolist()
        assert second["checksum"].tolist() != first["checksum"].tolist()
        assert write.is_stored(0)
        write.complete()


@pytest.mark.parametrize("rows", [(0,), (3,), (0, 1, 2, 3)])
def test_another_payload_of_another_length_gets_another_place(write: Any, rows: tuple[int, ...]) -> None:
    write.commit(0)
    write.commit(1)
    payloads = write.payloads(0)
    for row in rows:
        payloads = longer(payloads, row)
    write.lose(0)
    second = write.commit(0, payloads)
    assert second["nbytes"].tolist() == [payload.nbytes for payload in payloads]
    assert write.is_stored(0)
    assert write.is_stored(1)
    found = index(write)
    for chunk, (offset, nbytes, _, mask, _) in zip(write.chunks(0), second.tolist(), strict=True):
        assert found[write.layout.chunks.origin(chunk)] == (offset, nbytes, mask)
    write.complete()


def test_a_late_writer_of_the_old_payload_hits_no_other_chunk(write: Any) -> None:
    """HDF5 frees the old place; handed out again, a worker that comes late would write over another's payload."""
    first = write.commit(0)
    old = write.payloads(0)
    write.lose(0)
    write.commit(0, longer(old, 0))
    write.commit(1)
    write.commit(2)
    with open(write.target.file, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), old[0].data, int(first["offset"][0]))
    assert all(write.is_stored(buffer) for buffer in range(3))
    write.finish()
    write.check()


def test_another_mask_with_the_same_length_is_recorded(target: Path) -> None:
    """HDF5 would keep the old mask without a word, and take raw bytes for a stream of lzf's."""
    data = np.frombuffer(np.random.default_rng(0).bytes(512), "u1")
    with Write(target, data, chunks=(512,), buffer=(512,), compression="lzf") as write:
        (payload,) = write.payloads(0)
        assert payload.mask == 1
        write.commit(0, [Payload(payload.data, 0)])
        write.lose(0)
        (row,) = write.commit(0, [payload])
        assert (row["nbytes"], row["mask"]) == (512, 1)
        assert index(write) == {(0,): (row["offset"], 512, 1)}
        assert write.is_stored(0)
        assert write.finish().notes == ()
        write.check()


# What is refused


@pytest.mark.parametrize("nbytes", [0, 15, 17])
def test_a_payload_of_the_wrong_length_is_refused(target: Path, nbytes: int) -> None:
    with Write(target) as write:
        payloads = write.payloads(0)
        assert payloads[1].nbytes == 16
        payloads[1] = Payload(bytes(nbytes))
        with pytest.raises(IntegrityError, match=f"/x: a payload of {nbytes} bytes for 16 of chunk"):
            write.commit(0, payloads)
        assert not write.is_stored(0)
        write.complete()


def test_a_payload_longer_than_the_file_is_not_in_place_and_takes_no_memory(shared: Any) -> None:
    """A journal that is damaged, or a file that was cut off."""
    row = shared.commit(0)[0]
    row["nbytes"] = 1 << 60
    assert shared.writer.placed(np.array([row])) == [False]


def test_the_error_of_the_disk_is_raised_and_not_what_hdf5_makes_of_it(
    shared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.commit(0)

    def refuse(*_: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(staged_file, "pread_into", refuse)
        with pytest.raises(TargetError, match=r"cannot write .*out\.h5: Input/output error"):
            shared.commit(1)
    assert shared.is_stored(0)
    assert not shared.is_stored(1)
    shared.complete()


@pytest.mark.parametrize("error", [OSError("Unable to flush"), RuntimeError("addr overflow"), ValueError("no file")])
def test_metadata_that_hdf5_cannot_write_are_damaged_and_what_is_committed_stays(
    write: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    write.commit(0)
    name = "flush" if write.exclusive else "close"
    call, errors = getattr(h5py.File, name), [error]

    def refuse_once(file: h5py.File) -> None:
        if errors:
            raise errors.pop()
        call(file)

    with monkeypatch.context() as patch:
        patch.setattr(h5py.File, name, refuse_once)
        with pytest.raises(IntegrityError, match=rf"HDF5 cannot write its metadata \({error}\).*discard the write"):
            write.commit(1)
    assert write.is_stored(0)
    assert not write.is_stored(1)
    write.complete()


def test_a_call_whose_write_another_has_taken_over_and_finished_gives_up(target: Path) -> None:
    with Write(target) as first:
        first.commit(0)
        late = first.writer
        with Write(target, resume=True) as second:
            second.commit_missing()
            second.finish()
            with pytest.raises(TargetError, match=rf"{target} was finished meanwhile by another call, started .* by "):
                first.is_stored(0, late)
            second.check()


def test_what_another_process_could_not_flush_is_written_again_before_it_counts(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads back right from the cache of the system, which may never write it."""
    placed: list[int] = []

    def noted(descriptor: int, pieces: Any) -> None:
        placed.extend(offset for offset, _ in pieces)
        pwrite_each(descriptor, pieces)

    with Write(target, durability="power", compression="gzip") as write:
        rows = write.commit(0)
        monkeypatch.setattr(payload_file, "pwrite_each", noted)
        assert write.is_stored(0)
        assert placed == []
        Path(write.target.unsynced).touch()
        assert write.is_stored(0)
        assert placed == rows["offset"].tolist()
        write.complete()
    assert os.listdir(target.parent) == ["out.h5"]


def test_finish_refuses_missing_buffers(write: Any, target: Path) -> None:
    write.commit(0)
    write.commit(2)
    with pytest.raises(IntegrityError, match="/x: 8 of 12 chunks are committed; go on with resume=True"):
        write.finish()
    assert not os.path.lexists(target)
    write.commit(1)
    write.finish()
    write.check()


def test_an_error_in_the_middle_of_a_transaction_leaves_the_last_commit(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write.commit(0)
    whole = StagedFile.reserve

    def refuse_the_last(self: Any, dataset: Any, origin: Any, nbytes: Any, mask: Any) -> Any:
        if origin == (6, 4):
            raise IndexError("no such chunk")
        return whole(self, dataset, origin, nbytes, mask)

    with monkeypatch.context() as patched:
        patched.setattr(StagedFile, "reserve", refuse_the_last)
        with pytest.raises(IndexError, match="no such chunk"):
            write.commit(1)
    assert write.is_stored(0)
    assert not write.is_stored(1)
    assert set(index(write)) == {(0, 0), (0, 4), (2, 0), (2, 4)}
    write.complete()


def test_a_write_that_is_gone_is_named(shared: Any) -> None:
    folder = shared.target.folder
    shared.release()
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    os.rmdir(folder)
    with pytest.raises(TargetError, match=r"out\.h5\.writing cannot be used \(No such file.*finished or discarded"):
        shared.commit(0)


# Again from the start


def test_creating_again_finds_everything_made(write: Any) -> None:
    write.commit(1)
    again = Write(write.target.path, exclusive=write.exclusive, write_id=write.target.write_id, compression="gzip")
    assert again.layout == write.layout
    assert again.is_stored(1)
    again.complete()


def test_what_could_not_be_created_leaves_nothing(target: Path) -> None:
    with pytest.raises(ValueError, match="/x: h5py cannot create this dataset"):
        Write(target, compression="gzip", compression_opts=77)
    assert os.listdir(target.parent) == []


# Killed


@pytest.mark.parametrize(
    ("how", "every"),
    [("shared", 2), *(pytest.param(how, 1, marks=pytest.mark.heavy) for how in ("shared", "exclusive"))],
)
def test_killed_between_any_two_writes_to_the_disk_the_next_process_goes_on(
    how: str, every: int, tmp_path: Path
) -> None:
    """In the default tests, at every second write."""
    done = run_python("-m", "tests.support.storage.killed_commits", how, tmp_path, every)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout.removesuffix(" kills\n")) > 8


@both
def test_a_transaction_that_could_not_be_applied_is_applied_by_the_next(
    exclusive: Any, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process, such as where the disk was full."""
    count = 0
    while _apply_with_fault(target.with_name(f"{count}.h5"), exclusive, count, monkeypatch):
        count += 1
    assert count > 2


def _apply_with_fault(path: Any, exclusive: Any, number: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    calls = iter(range(10**6))

    def place(descriptor: Any, data: Any, offset: Any) -> None:
        if next(calls) == number:
            os.pwrite(descriptor, bytes(data)[: len(data) // 2], offset)
            raise OSError(28, "No space left on device")
        pwrite_all(descriptor, data, offset)

    with Write(path, exclusive=exclusive, compression="gzip") as write:
        write.commit(0)
        monkeypatch.setattr("dask_chunkio.storage.journal.redo_record.pwrite_all", place)
        failed = True
        with contextlib.suppress(TargetError):
            write.commit(1)
            failed = False
        monkeypatch.undo()
        write.complete()
    return failed


def test_a_fork_of_a_process_that_writes_harms_nothing(tmp_path: Path) -> None:
    _run("forked", tmp_path)


def test_leaving_with_a_write_open_ends_well_and_leaves_no_file(tmp_path: Path) -> None:
    _run("left", tmp_path)
    assert os.listdir(tmp_path) == ["out.h5.writing"]


def test_ends_with_the_error_that_nobody_caught(tmp_path: Path) -> None:
    done = _process("uncaught", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("injected")


def _run(what: Any, folder: Any) -> None:
    done = _process(what, folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def _process(what: Any, folder: Any) -> Any:
    return run_python("-m", "tests.support.storage.ending_processes", what, folder)


@pytest.mark.parametrize("libver", [None, "v108", "v110", "latest"])
def test_between_transactions_the_file_does_not_say_that_it_is_open(target: Path, libver: str | None) -> None:
    """If this process died, HDF5 would refuse a file that says so."""
    with Write(target, exclusive=True, compression="gzip", libver=libver) as write:
        for buffer in range(2):
            write.commit(buffer)
            shutil.copy(write.target.file, target)
            with h5py.File(target, "r+") as file:
                np.testing.assert_array_equal(file["x"][: 4 * buffer + 4], write.data[: 4 * buffer + 4])
            target.unlink()
        write.complete()
