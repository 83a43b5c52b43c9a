"""An index that was damaged before the write ended: made anew from the journal, or refused."""

import ctypes
import os
import random
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import hdf5plugin
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio.errors import ChunkIOError, IntegrityError, SourceError
from dask_chunkio.storage import index_repair
from dask_chunkio.storage.hdf5 import h5py_compat
from dask_chunkio.storage.hdf5.dataset import make_dataset
from dask_chunkio.storage.hdf5.staged_file import StagedFile
from dask_chunkio.storage.journal.journal import read_journal
from tests.support.fuzz.flipped_bits import Interrupted, flip, interrupted, outcome
from tests.support.processes import run_python
from tests.support.storage.writes import Write, numbers

PLUGINS = {
    "zstd": hdf5plugin.Zstd(clevel=5),
    "lz4": hdf5plugin.LZ4(),
    "bzip2": hdf5plugin.BZip2(),
    "blosc": hdf5plugin.Blosc(cname="zstd", clevel=3, shuffle=hdf5plugin.Blosc.BITSHUFFLE),
    "blosc2": hdf5plugin.Blosc2(cname="lz4", clevel=3),
    "bitshuffle alone": hdf5plugin.Bitshuffle(nelems=8, cname="none"),
    "bitshuffle lz4": hdf5plugin.Bitshuffle(cname="lz4"),
    "bitshuffle zstd": hdf5plugin.Bitshuffle(cname="zstd", clevel=2),
    "zfp": hdf5plugin.Zfp(reversible=True),
    "sz": hdf5plugin.SZ(absolute=0.01),
    "sz3": hdf5plugin.SZ3(absolute=0.01),
    "sperr": hdf5plugin.Sperr(),
    "gzip": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"compression": "lzf"},
    "scaleoffset": {"scaleoffset": 4},
    "nothing": {},
}


def hide_a_chunk(path: Any, offsets: Any) -> None:
    """Change the coordinates of a chunk in a B-tree of version 1, which has no checksum."""
    content = bytearray(Path(path).read_bytes())
    # A key is length, mask and coordinates; the address follows.
    at = content.find(int(offsets[1]).to_bytes(8, "little"))
    while content[at - 8 : at] != bytes(8):
        at = content.find(int(offsets[1]).to_bytes(8, "little"), at + 1)
    assert at > 0
    content[at - 16 : at - 8] = (1 << 20).to_bytes(8, "little")
    with open(path, "r+b") as file:
        file.write(content)


# Each way in which a filter changes its options as it is set.
SOME = ("zstd", "blosc", "bitshuffle alone", "bitshuffle lz4", "zfp", "sz3", "gzip")


@pytest.mark.parametrize(
    "name", [*SOME, *(pytest.param(name, marks=pytest.mark.heavy) for name in PLUGINS if name not in SOME)]
)
@pytest.mark.parametrize("mode", ["existing", pytest.param("new", marks=pytest.mark.heavy)])
def test_a_dataset_that_is_made_anew_has_the_same_pipeline(tmp_path: Path, name: Any, mode: str) -> None:
    options = PLUGINS[name]
    options = options if isinstance(options, dict) else {"compression": options}
    data = np.random.default_rng(1).normal(0, 50, (64, 64)).round().astype("f4").cumsum(axis=0, dtype="f4")
    path = tmp_path / "out.h5"
    if mode == "existing":
        with h5py.File(path, "w") as file:
            file["old"] = np.arange(10)
    with Write(path, data, chunks=(32, 32), buffer=(64, 64), attrs={"unit": "mV"}, **options) as write:
        write.commit_missing()
        offsets = write.writer.transactions.journal.table(0)["offset"]
        expected = [bytes(payload.data) for payload in write.payloads(0)]
        write.release()
        hide_a_chunk(write.target.file, offsets)
        finished = write.finish()
    (note,) = finished.notes
    assert note.endswith("the index was rebuilt from the journal")
    with h5py.File(tmp_path / "h5py.h5", "w") as other:
        other.create_dataset("x", data=data, chunks=(32, 32), **options)
    with h5py.File(path) as file, h5py.File(tmp_path / "h5py.h5") as other:
        made = other["x"]
        mine, theirs = file["x"].id.get_create_plist(), made.id.get_create_plist()
        filters = [[plist.get_filter(n) for n in range(plist.get_nfilters())] for plist in (mine, theirs)]
        assert filters[0] == filters[1]
        payloads = [file["x"].id.read_direct_chunk(origin)[1] for origin in write.layout.origins(range(4))]
        assert payloads == expected
        np.testing.assert_array_equal(file["x"][...], made[...])
        assert file["x"].attrs["unit"] == "mV"
    assert dcio.verify(path).ok


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("durability", ["process", "power"])
def test_payloads_that_are_copied_after_the_commit_do_not_count_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool, durability: str
) -> None:
    """Else another worker, which has all receipts, would finish a file whose payloads were never copied."""
    path, data = tmp_path / "out.h5", numbers((64, 64), "i4")
    copy, copied = index_repair._copy, []

    def cut_off(transactions: Any, layout: Any, moved: Any) -> None:
        copied.append(len(moved))
        if is_killed and len(copied) == 2:
            raise KeyboardInterrupt
        copy(transactions, layout, moved)

    monkeypatch.setattr(index_repair, "_is_late", lambda moved, _: moved["chunk"] % 2 == 1)
    with Write(path, data, chunks=(32, 32), buffer=(64, 64), durability=durability, compression="gzip") as write:
        write.commit_missing()
        offsets = write.writer.transactions.journal.table(0)["offset"]
        write.release()
        hide_a_chunk(write.target.file, offsets)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) if is_killed else nullcontext():
            patch.setattr(index_repair, "_copy", cut_off)
            write.finish()
        assert copied == [2, 2]
        if is_killed:
            write.release()
            with pytest.raises(IntegrityError, match=r"2 of 4 chunks are committed; go on with resume=True"):
                write.finish()
            assert not path.exists()
            write.release()
            write.commit_missing()
            write.finish()
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], data)
    assert dcio.verify(path).ok


@pytest.mark.parametrize("libver", [[], ["--libver", "latest"]], ids=["earliest", "latest"])
def test_no_flipped_bit_of_metadata_ends_in_wrong_data(tmp_path: Path, libver: list[str]) -> None:
    """Every outcome is whole data, or an error and nothing under the final name."""
    runs, seed = os.environ.get("CHUNKIO_BIT_FLIPS", "25"), random.randrange(1 << 32)
    words = ("tests.support.fuzz.flipped_bits", "--runs", runs, "--seed", seed, "--folder", tmp_path, *libver)
    ended = run_python("-m", *words)
    assert ended.returncode == 0, f"seed {seed}: {ended.stdout}{ended.stderr}"


@pytest.mark.parametrize("libver", [None, "latest"])
@pytest.mark.parametrize("bit", [0, 7, *(pytest.param(bit, marks=pytest.mark.heavy) for bit in range(1, 7))])
def test_a_changed_superblock_is_put_right(
    tmp_path: Path, libver: str | None, bit: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Of version 0 it has no checksum: with a lower end of the file, HDF5 gives away space that payloads have."""
    path = tmp_path / "out.h5"
    # The signature, an address, and the end of the file.
    for at in (0, 24, 40, 41):
        source, call, hidden = interrupted(path, libver)
        flip(hidden, at, bit)
        caplog.clear()
        assert outcome(path, source, call) == "whole"
        assert [text for text in caplog.messages if "its superblock is not what was committed" in text]
        path.unlink()


def test_a_superblock_that_is_as_committed_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "out.h5"
    source, call, _ = interrupted(path)
    assert outcome(path, source, call) == "whole"
    assert caplog.messages == []


def test_the_superblock_of_a_file_that_has_its_name_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Other programs may have changed it since."""
    path = tmp_path / "out.h5"
    with Write(path, exclusive=False) as write:
        write.commit_missing()
        transactions = write.writer.transactions
        os.link(write.target.file, path)
        with h5py.File(path, "r+") as file:
            file["y"] = np.arange(100)
        changed = path.read_bytes()
        with transactions.transaction(nullcontext, anybody=True):
            assert path.read_bytes() == changed
    assert caplog.messages == []


def test_properties_that_hdf5_cannot_read_are_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    source, call, hidden = interrupted(path)
    # The message of the fill value: its version, when space is taken and filled, and that a value is defined.
    at = hidden.read_bytes().index(b"\x05\0\x08\0\x01\0\0\0\x02\x03\x02\x01") + 15
    flip(hidden, at, 7)
    with pytest.raises(IntegrityError, match=r"/x: HDF5 cannot read how it is stored .* discard the write"):
        dcio.to_hdf5(path, "/x", source, resume=True, **call)
    assert not path.exists()


LIBVERS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("v110", (40, None)), ("latest", (40, None, 6)), ("v110", (None, 60)), ("latest", (None, None))
)  # fmt: skip


@pytest.mark.parametrize(
    ("libver", "maxshape"),
    [
        pytest.param(libver, maxshape, marks=[] if (libver, maxshape) in LIBVERS else pytest.mark.heavy)
        for libver in ("v110", "v114", "latest")
        for _, maxshape in LIBVERS
    ],
    ids=str,
)
def test_an_unlimited_axis_that_is_not_the_first(tmp_path: Path, libver: str, maxshape: tuple[Any, ...]) -> None:
    path = tmp_path / "out.h5"
    data = numbers((40, 60, 6)[: len(maxshape)], "i4")
    chunks = (8, 7, 4)[: len(maxshape)]
    result = dcio.to_hdf5(path, "/x", data, chunks=chunks, maxshape=maxshape, libver=libver, compression="gzip")
    assert result.notes == ()
    assert dcio.verify(path).ok
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], data)


@pytest.mark.parametrize("filters", [{"shuffle": True}, {"shuffle": True, "fletcher32": True}, {"compression": "lzf"}])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_a_region_over_chunks_whose_filter_was_skipped(tmp_path: Path, filters: dict[str, Any], libver: str) -> None:
    """A chunk of the same length as before keeps its place in the file, and must not keep its filter mask."""
    path = tmp_path / "out.h5"
    data = np.random.default_rng(2).integers(0, 255, (8, 16), "i4")
    with h5py.File(path, "w", libver=libver) as file:
        file.create_dataset("x", (8, 16), "i4", chunks=(4, 4), maxshape=(8, None), **filters)
        for origin in np.ndindex(2, 4):
            file["x"].id.write_direct_chunk(tuple(4 * n for n in origin), bytes(64), 2 ** len(filters) - 1)
    dcio.to_hdf5(path, "/x", data, region=np.s_[...])
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], data)
    dcio.to_hdf5(path, "/x", data * 0, region=np.s_[...])
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], data * 0)


def test_verify_sees_damaged_chunks_of_an_extensible_array(tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    data = numbers((8, 12), "i4")
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("x", data=data, chunks=(4, 3), maxshape=(8, None), fletcher32=True)
    content = path.read_bytes()
    for origin in np.ndindex(2, 4):
        chunk = np.ascontiguousarray(data[4 * origin[0] :][:4, 3 * origin[1] :][:, :3]).tobytes()
        at = content.find(chunk)
        assert at > 0
        content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    path.write_bytes(content)
    assert len(dcio.verify(path).problems) == 8


@pytest.mark.parametrize("error", [KeyError, RuntimeError, OSError, ValueError])
def test_a_file_too_damaged_to_remove_the_hidden_part_is_named_and_force_removes_the_folder(
    tmp_path: Path, error: Any
) -> None:
    path = tmp_path / "out.h5"
    with h5py.File(path, "w") as file:
        file["old"] = np.arange(10)
    with pytest.raises(SourceError):
        dcio.to_hdf5(path, "/x", Interrupted(chunk_shape=(4, 5), buffer_shape=(12, 10)), scheduler="synchronous")
    before = path.read_bytes()
    with mock.patch.object(h5py.Group, "__delitem__", side_effect=error("Couldn't delete link")):
        with pytest.raises(ChunkIOError, match="Couldn't delete link"):
            dcio.discard(path)
        assert (tmp_path / "out.h5.writing").exists()
        assert dcio.discard(path, force=True) == str(tmp_path / "out.h5.writing")
    assert path.read_bytes() == before


# A dataset that cannot be rebuilt


@pytest.fixture
def damaged(tmp_path: Path) -> Iterator[Write]:
    """All of a write is committed, and its index is damaged."""
    with Write(
        tmp_path / "out.h5", numbers((64, 64), "i4"), chunks=(32, 32), buffer=(64, 64), compression="gzip"
    ) as write:
        write.commit_missing()
        write.release()
        hide_a_chunk(write.target.file, offsets(write))
        yield write


def refused(write: Write, match: str) -> None:
    """Nothing is published, and nothing that is committed is changed."""
    before = Path(write.target.file).read_bytes()
    with pytest.raises(IntegrityError, match=match):
        write.finish()
    assert not os.path.exists(write.target.path)
    assert Path(write.target.file).read_bytes()[: len(before)] == before
    assert write.is_stored(0)


def offsets(write: Write) -> Any:
    with read_journal(write.target.journal) as journal:
        return journal.table(0)["offset"]


def rebuilt(write: Write) -> None:
    (note,) = write.finish().notes
    assert note.endswith("the index was rebuilt from the journal")
    write.check()


@pytest.mark.parametrize("error", [OSError, RuntimeError, ValueError])
def test_what_hdf5_cannot_make_again_is_discarded(
    damaged: Write, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(*_: Any) -> Any:
        raise error("Unable to create dataset")

    with monkeypatch.context() as patch:
        patch.setattr(index_repair, "make_dataset", refuse)
        refused(damaged, r"cannot be rebuilt \(Unable to create dataset\); discard the write and start it again")
    rebuilt(damaged)


def test_a_pipeline_that_is_another_when_it_is_made_again_is_refused(
    damaged: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some plugins add to their options whenever a dataset is created: the payloads would not be read by them."""
    with monkeypatch.context() as patch:
        options = {**damaged.spec.options, "compression_opts": 9}
        patch.setattr(
            index_repair, "make_dataset", lambda file, spec: make_dataset(file, replace(spec, options=options))
        )
        refused(damaged, r"cannot be rebuilt: it was \(64, 64\) of .*options=\(4,\).*, and would be .*options=\(9,\)")
    rebuilt(damaged)


def test_a_payload_where_hdf5_sees_free_space_is_not_written_over(
    damaged: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    offset = int(offsets(damaged)[2])
    with monkeypatch.context() as patch:
        patch.setattr(StagedFile, "reserve", lambda *_: offset + 1)
        refused(damaged, "lie where HDF5 sees free space; discard the write and start it again")
    rebuilt(damaged)


def test_a_payload_that_has_changed_is_not_copied(damaged: Write) -> None:
    with open(damaged.target.file, "r+b") as file:
        file.seek(int(offsets(damaged)[2]))
        file.write(b"???")
    with pytest.raises(IntegrityError, match=r"the chunk at \(32, 0\) is not what was written; go on with resume=True"):
        damaged.finish()
    assert not os.path.exists(damaged.target.path)
    damaged.release()
    damaged.commit_missing()
    rebuilt(damaged)


def test_without_hdf5s_library_the_index_is_found_out_and_rebuilt_too(
    damaged: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: the modules of h5py do not expose it on Windows."""

    def refuse(*_: Any) -> Any:
        raise OSError("no such module")

    monkeypatch.setattr(ctypes, "PyDLL", refuse)
    h5py_compat._hdf5.cache_clear()
    try:
        assert not h5py_compat.can_search()
        rebuilt(damaged)
        assert dcio.verify(damaged.target.path).ok
        with h5py.File(damaged.target.path) as file:
            assert not h5py_compat.keeps_partial_chunks_unfiltered(file["x"].id.get_create_plist())
            assert h5py_compat.chunk_index_type(file["x"].id) is None
    finally:
        h5py_compat._hdf5.cache_clear()


def test_a_dataset_of_a_stream_is_rebuilt_with_all_its_rows(tmp_path: Path) -> None:
    path, data, broken = tmp_path / "out.h5", numbers((48, 10)), [True]

    def rows() -> Iterator[dcio.DataChunk]:
        for start in range(0, 48, 12):
            yield dcio.DataChunk(data[start : start + 12], np.s_[start : start + 12, :])
        if broken:
            raise OSError("not yet")

    call: dict[str, Any] = {
        "chunks": (4, 5),
        "buffer_shape": (12, 10),
        "compression": "gzip",
        "scheduler": "synchronous",
    }
    with pytest.raises(SourceError, match="not yet"):
        dcio.to_hdf5(path, "/x", rows(), **call)
    with read_journal(f"{path}.writing/journal") as journal:
        address = int(journal.table(0)["offset"][1]).to_bytes(8, "little")
    hidden = tmp_path / "out.h5.writing" / "data.h5"
    content, key = hidden.read_bytes(), bytes(8) + (5).to_bytes(8, "little") + bytes(8) + address
    assert content.count(key) == 1
    hidden.write_bytes(content.replace(key, bytes(8) + (1 << 20).to_bytes(8, "little") + bytes(8) + address))
    broken.clear()
    result = dcio.to_hdf5(path, "/x", rows(), resume=True, **call)
    assert any(note.endswith("the index was rebuilt from the journal") for note in result.notes)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][...], data)
