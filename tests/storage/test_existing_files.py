"""Datasets that are added to a file which holds other people's data."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import (
    ArgumentError,
    IntegrityError,
    TargetBusyError,
    TargetError,
    TargetExistsError,
    UnfinishedWriteError,
)
from dask_chunkio.storage.take_over import take_over
from tests.support.storage.writes import Write, longer, no_lock, numbers
from tests.support.unfinished import unfinished

OLD = np.random.default_rng(0).integers(0, 99, (60, 40)).astype("i4")
NEW = np.random.default_rng(1).integers(0, 99, (50, 30)).astype("i2")

FORMATS: dict[str, dict[str, Any]] = {
    "earliest": {"libver": "earliest"},
    "v108": {"libver": ("v108", "v108")},
    "v110": {"libver": ("v110", "v110")},
    "v112": {"libver": ("v112", "v112")},
    "latest": {"libver": "latest"},
    "user block": {"userblock_size": 1024},
    "page": {"fs_strategy": "page"},
    "page kept": {"fs_strategy": "page", "fs_persist": True},
    "fsm": {"fs_strategy": "fsm"},
    "fsm kept": {"fs_strategy": "fsm", "fs_persist": True, "fs_threshold": 1},
    "aggregate": {"fs_strategy": "aggregate"},
    "none": {"fs_strategy": "none"},
    "ordered": {"track_order": True},
    "aligned": {"alignment_threshold": 512, "alignment_interval": 4096},
}
INDEXES: dict[str, dict[str, Any]] = {
    "single": {"chunks": (50, 30)},
    "fixed": {"chunks": (7, 8)},
    "extensible": {"chunks": (7, 8), "maxshape": (None, 30)},
    "B-tree 2": {"chunks": (7, 8), "maxshape": (None, None)},
    "gzip": {"chunks": (7, 8), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "early": {"chunks": (7, 8), "fill_time": "alloc"},
}
# Every format and every index by default; all pairs in the heavy tests.
PAIRS = [
    pytest.param(strategy, kind, marks=() if (row + column) % len(INDEXES) == 0 else pytest.mark.heavy)
    for row, strategy in enumerate(FORMATS)
    for column, kind in enumerate(INDEXES)
]


def other_peoples_file(path: Path, **options: Any) -> None:
    """Arrays of every layout, attributes, links, names by the dozen, and space that was freed again."""
    with h5py.File(path, "w", **options) as file:
        if file.userblock_size:
            file.attrs["userblock"] = 1
        file.attrs["title"] = "thesis"
        file["whole"] = OLD
        file.create_dataset("deflated", data=OLD, chunks=(10, 10), compression="gzip", maxshape=(None, 40))
        file.create_dataset("freed", data=np.zeros((200, 200)), chunks=(20, 20))
        file["a/b/words"] = ["one", "two", "three"]
        file["a/link"] = h5py.SoftLink("/whole")
        for number in range(40):
            file[f"many/n{number}"] = number
        del file["freed"]


def old_content(path: Path) -> dict[str, Any]:
    with h5py.File(path, "r") as file:
        return {
            "attrs": dict(file.attrs),
            "whole": file["whole"][...].tolist(),
            "deflated": file["deflated"][...].tolist(),
            "words": file["a/b/words"][...].tolist(),
            "link": file["a/link"].shape,
            "many": [file[f"many/n{number}"][()] for number in range(40)],
            "names": sorted(set(file) - {"new"}),
        }


@pytest.fixture
def existing(target: Path) -> Any:
    other_peoples_file(target)
    return target


@pytest.mark.parametrize(("strategy", "kind"), PAIRS)
def test_every_format_strategy_and_index(target: Path, strategy: str, kind: str) -> None:
    options, index = FORMATS[strategy], INDEXES[kind]
    other_peoples_file(target, **options)
    before = old_content(target)
    dcio.to_hdf5(target, "/new/x", NEW, buffer_shape=(14, 30) if index["chunks"] != (50, 30) else (50, 30),
                 scheduler="synchronous", **index)  # fmt: skip
    assert old_content(target) == before
    with h5py.File(target, "r+") as file:
        np.testing.assert_array_equal(file["new/x"][...], NEW)
        assert set(file) == {*before["names"], "new"}
        file["new/x"][3:9] = 5
        file["later"] = OLD
        del file["whole"], file["later"]
    with h5py.File(target) as file:
        assert (file["new/x"][3:9] == 5).all()
        np.testing.assert_array_equal(file["new/x"][9:], NEW[9:])
        np.testing.assert_array_equal(file["deflated"][...], OLD)
    assert os.listdir(target.parent) == ["out.h5"]


# A write of zeros covers all, several rows, or a part of a row.
@pytest.mark.parametrize("shape", [(6,), (3, 100), (5, 300_000), (2, 3, 400_000)], ids=str)
@pytest.mark.parametrize("strategy", ["page kept", "fsm kept"])
def test_a_dataset_without_space_of_its_own_gets_no_remains_of_others(
    target: Path, shape: tuple[int, ...], strategy: str
) -> None:
    """HDF5 gives it space that was freed, and leaves there what it held."""
    with h5py.File(target, "w", **FORMATS[strategy]) as file:
        file.create_dataset("x", shape, "i2")
        file["gone"] = np.full(shape, 0x5555, "u2")
        file["theirs"] = OLD
    with h5py.File(target, "r+") as file:
        del file["gone"]
    wanted = np.zeros(shape, "i2")
    wanted[-1:] = 7
    dcio.to_hdf5(target, "/x", wanted[-1:], region=np.s_[-1:], progress=False, scheduler="synchronous")
    with h5py.File(target) as file:
        np.testing.assert_array_equal(file["x"][...], wanted)
        np.testing.assert_array_equal(file["theirs"][...], OLD)


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="Debian's hdf5-tools is not installed")
@pytest.mark.parametrize("name", ["earliest", "v108", "v110", "user block", "page", "fsm kept"])
def test_hdf5s_own_tools_read_it(target: Path, name: str) -> None:
    other_peoples_file(target, **FORMATS[name])
    dcio.to_hdf5(target, "/new/x", NEW, chunks=(7, 8), compression="gzip", scheduler="synchronous")
    again = target.with_name("again.h5")
    commands: list[list[str | Path]] = [["h5dump", target], ["h5stat", target], ["h5repack", target, again]]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    with h5py.File(again) as file:
        np.testing.assert_array_equal(file["new/x"][...], NEW)
        np.testing.assert_array_equal(file["deflated"][...], OLD)


def test_until_the_end_nobody_sees_it_and_the_old_is_there(existing: Path) -> None:
    before = old_content(existing)
    with Write(existing, name="/new/x", compression="gzip") as write:
        for buffer in range(3):
            write.commit(buffer)
            seen = old_content(existing)
            (hidden,) = set(seen["names"]) - set(before["names"])
            assert hidden == f".dask_chunkio-{write.target.write_id[:12]}"
            assert {**seen, "names": before["names"]} == before
            with h5py.File(existing) as file:
                assert "new" not in file
        write.finish()
        write.check()
    assert old_content(existing) == before


def test_overwriting_replaces_one_dataset_at_the_end(existing: Path) -> None:
    before = old_content(existing)
    with Write(existing, name="/deflated", overwrite=True, compression="gzip") as write:
        write.commit_missing()
        assert old_content(existing)["deflated"] == before["deflated"]
        write.finish()
        write.check()
    after = old_content(existing)
    assert after.pop("deflated") == write.data.tolist()
    before.pop("deflated")
    assert after == before


def test_a_name_that_was_taken_meanwhile_is_not_clobbered(existing: Path) -> None:
    with Write(existing, name="/new/x") as write:
        write.commit_missing()
        with h5py.File(existing, "a") as file:
            file["new/x"] = [1, 2]
        with pytest.raises(TargetExistsError, match="already has /new/x"):
            write.finish()
        with h5py.File(existing, "a") as file:
            assert file["new/x"][...].tolist() == [1, 2]
            file.move("new/x", "theirs")
        write.finish()
        write.check()


def test_others_may_write_the_file_between_transactions(existing: Path) -> None:
    with Write(existing, name="/new/x", compression="gzip") as write:
        for buffer in range(3):
            write.commit(buffer)
            with h5py.File(existing, "r+") as file:
                file[f"theirs{buffer}"] = np.full(1000, buffer)
                file.attrs["title"] = "n" * (buffer + 1) * 50
        write.finish()
        write.check()
    with h5py.File(existing) as file:
        assert [file[f"theirs{n}"][0] for n in range(3)] == [0, 1, 2]
        np.testing.assert_array_equal(file["deflated"][...], OLD)


def test_a_file_that_was_replaced_meanwhile_is_left_alone(existing: Path) -> None:
    with Write(existing, name="/new/x") as write:
        write.commit(0)
        moved = existing.with_name("moved.h5")
        existing.rename(moved)
        with pytest.raises(TargetError, match="was moved away or replaced during the write; put it back"):
            write.commit(1)
        other_peoples_file(existing)
        before = existing.read_bytes()
        with pytest.raises(TargetError, match="was moved away or replaced"):
            write.commit(1)
        assert existing.read_bytes() == before
        moved.replace(existing)
        write.complete()


def test_a_program_that_keeps_the_file_open_is_named_and_harms_nothing(existing: Path) -> None:
    with Write(existing, name="/new/x") as write:
        write.commit(0)
        with h5py.File(existing, "r"):
            transaction = write.writer.transactions.transaction(no_lock, patience=0.05)
            with pytest.raises(TargetBusyError, match="is in use: this process has it open"), transaction:
                pass
        write.complete()


def test_hdf5_in_other_programs_is_refused_inside_a_transaction(existing: Path) -> None:
    with Write(existing, name="/new/x") as write, write.writer.transactions.transaction(no_lock):
        for mode in ("r", "r+"):
            with pytest.raises(BlockingIOError, match="lock"):
                h5py.File(existing, mode)


def test_no_dataset_is_lost_where_the_transaction_that_names_it_is_cut_off(
    existing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last transaction unlinks the old dataset and links the new one: both or neither."""
    before = old_content(existing)
    with Write(existing, name="/deflated", overwrite=True, compression="gzip") as write:
        write.commit_missing()
        journal = write.writer.transactions.journal
        calls = iter(range(100))

        def die(descriptor: Any, data: Any, offset: Any) -> None:
            if next(calls) == 1:
                raise OSError(5, "Input/output error")
            os.pwrite(descriptor, data, offset)

        with monkeypatch.context() as patched:
            patched.setattr("dask_chunkio.storage.journal.redo_record.pwrite_all", die)
            with pytest.raises(TargetError, match="Input/output error"):
                write.finish()
        assert not journal.finished
        write.finish()
        write.check()
    after = old_content(existing)
    assert {**after, "deflated": None} == {**before, "deflated": None}


@pytest.mark.parametrize("name", ["v110", "earliest", "fsm kept", "page kept"])
def test_discarding_leaves_what_was_there(target: Path, name: str) -> None:
    other_peoples_file(target, **FORMATS[name])
    before = old_content(target)
    with Write(target, name="/new/x") as write:
        write.commit(0)
        write.commit(1)
    dcio.discard(target)
    assert old_content(target) == before
    assert os.listdir(target.parent) == ["out.h5"]
    with Write(target, name="/new/x") as write:
        write.complete()
    assert old_content(target) == before


# Owners


@pytest.fixture(params=["new", "existing"])
def place(request: pytest.FixtureRequest, target: Path) -> Any:
    if request.param == "existing":
        other_peoples_file(target)
    return target


def test_a_call_that_resumes_takes_the_write_over(place: Path) -> None:
    first = Write(place, name="/new/x", compression="gzip")
    first.commit(0)
    with pytest.raises(UnfinishedWriteError, match="holds an unfinished write"):
        Write(place, name="/new/x", compression="gzip")
    with Write(place, name="/new/x", compression="gzip", resume=True) as second:
        assert second.is_stored(0)
        with pytest.raises(UnfinishedWriteError, match=r"was taken over by another.*this one gives up"):
            first.commit(1)
        with pytest.raises(UnfinishedWriteError, match="was taken over by another"):
            first.finish()
        owners = second.writer.transactions.journal.owners
        assert [(owner.write_id, owner.epoch) for owner in owners] == [
            (first.target.write_id, 1),
            (second.target.write_id, 2),
        ]
        second.complete()
    with pytest.raises(TargetError, match="finished or discarded meanwhile"):
        first.commit(1)
    first.release()
    second.check()


def test_a_late_payload_of_the_first_owner_changes_nothing(place: Path) -> None:
    """It was reserved, its process stopped, and another wrote the same: the places are the same."""
    first = Write(place, name="/new/x", compression="gzip")
    reserved, payloads = first.commit(0), first.payloads(0)
    with Write(place, name="/new/x", compression="gzip", resume=True) as second:
        second.commit_missing()
        for row, payload in zip(reserved, payloads, strict=True):
            os.pwrite(first.writer.transactions.files.file, payload.data, int(row["offset"]))
        assert all(second.is_stored(buffer) for buffer in range(3))
        second.finish()
        second.check()
    first.release()


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_running_write_is_not_taken_over_recovered_or_discarded(
    place: Path, exclusive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody here is about to let go.
    monkeypatch.setattr(take_over, "__defaults__", (0.2,))
    with Write(place, name="/new/x", exclusive=exclusive) as first:
        first.commit(0)
        using = contextlib.nullcontext() if exclusive else first.writer.transactions.files.used()
        with using:
            for call in (
                lambda: Write(place, name="/new/x", resume=True),
                lambda: dcio.discard(place),
                lambda: dcio.discard(place, force=True),
                lambda: dcio.recover(place),
            ):
                with pytest.raises(TargetBusyError, match="being written"):
                    call()
            assert unfinished(place).running
        first.complete()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"data": numbers((14, 8))}, r"shape was \(12, 8\) and is \(14, 8\)"),
        ({"data": numbers(dtype="i4")}, "dtype was int16 and is int32"),
        ({"chunks": (4, 4)}, r"chunks was \(2, 4\) and is \(4, 4\)"),
        ({"compression": "lzf"}, r"filters was deflate\(4\) and is lzf"),
        ({"compression_opts": 5}, r"filters was deflate\(4\) and is deflate\(5\)"),
        ({"fillvalue": 3}, "fillvalue was none and is 0300"),
        ({"name": "/new/y"}, "it writes /new/x, not /new/y"),
    ],
)
def test_other_arguments_are_named_and_change_nothing(place: Path, change: dict[str, Any], match: str) -> None:
    arguments: dict[str, Any] = {"name": "/new/x", "compression": "gzip"}
    with Write(place, **arguments) as first:
        first.commit(0)
    with pytest.raises(ArgumentError, match=match):
        Write(place, **{**arguments, **change}, resume=True)
    with Write(place, **arguments, resume=True) as second:
        assert second.is_stored(0)
        second.complete()


def test_resuming_nothing_is_a_fresh_start(place: Path) -> None:
    with Write(place, name="/new/x", resume=True) as write:
        write.complete()


def test_resuming_with_other_buffers(place: Path) -> None:
    with Write(place, name="/new/x", compression="gzip", buffer=(4, 8)) as first:
        first.commit(1)
    with Write(place, name="/new/x", compression="gzip", buffer=(2, 4), resume=True) as second:
        stored = [second.is_stored(buffer) for buffer in range(len(second.buffers))]
        assert stored == [False] * 4 + [True] * 4 + [False] * 4
        second.complete()


# Repairs


def test_an_index_that_others_changed_is_made_anew(place: Path) -> None:
    with Write(place, name="/new/x", compression="gzip", attrs={"unit": "V"}, fillvalue=7) as write:
        write.commit_missing()
        with h5py.File(write.target.file, "r+") as file:
            found = file[write.writer.transactions.journal.created.path(0)]
            found.id.write_direct_chunk((4, 4), bytes(4000))
        (note,) = write.finish().notes
        assert note.startswith("/new/x: HDF5's index and the journal disagree on the chunk at (4, 4)")
        assert note.endswith("the index was rebuilt from the journal")
        write.check()
    with h5py.File(place) as file:
        assert (file["new/x"].attrs["unit"], file["new/x"].fillvalue) == ("V", 7)
        assert file["new/x"].compression == "gzip"


def test_an_index_that_cannot_be_made_anew_is_an_error(place: Path) -> None:
    with Write(place, name="/new/x", compression="gzip") as write:
        rows = write.commit(0)
        write.commit_missing()
        with h5py.File(write.target.file, "r+") as file:
            found = file[write.writer.transactions.journal.created.path(0)]
            found.id.write_direct_chunk((4, 4), bytes(4000))
        os.pwrite(write.writer.transactions.files.file, b"garbage", int(rows[0]["offset"]))
        with pytest.raises(IntegrityError, match=r"payload of the chunk at \(0, 0\) is not what was written"):
            write.finish()
        write.complete()


def test_what_is_reserved_and_not_placed_reads_as_the_fill_value_after_recovering(place: Path) -> None:
    """Also where a payload was longer or shorter than a chunk without filters."""
    with Write(place, name="/new/x", compression="gzip", fillvalue=7) as write:
        write.commit(0)
        rows = write.commit(1, longer(write.payloads(1)))
        for row in rows:
            os.pwrite(write.writer.transactions.files.file, bytes(int(row["nbytes"])), int(row["offset"]))
    for _ in range(2):
        found = dcio.recover(place)
        assert (found.committed, found.chunks) == (4, 12)
        with h5py.File(found.path) as file:
            values = file[found.datasets["/new/x"]][...]
        np.testing.assert_array_equal(values[:4], write.data[:4])
        assert (values[4:] == 7).all()
    with Write(place, name="/new/x", compression="gzip", fillvalue=7, resume=True) as second:
        assert not second.is_stored(1)
        second.complete()
