import ctypes
import itertools
import os
import pickle
import shutil
import signal
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dask_chunkio as dcio
from dask_chunkio import errors
from dask_chunkio.reading import file_state, stored_array
from dask_chunkio.reading.file_state import FileState
from dask_chunkio.reading.stored_array import StoredArray, index_dataset
from dask_chunkio.reading.thread_team import ThreadTeam
from dask_chunkio.storage.side_paths import SidePaths
from tests.support.processes import in_child, program
from tests.support.system_calls import kill_at

FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "gzip": {"compression": "gzip"},
    "shuffle gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "fletcher32": {"fletcher32": True},
    "shuffle gzip fletcher32": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"compression": "lzf", "shuffle": True},
    "zstd": dict(hdf5plugin.Zstd()),
    "blosc2": dict(hdf5plugin.Blosc2()),
    "bitshuffle": dict(hdf5plugin.Bitshuffle()),
    "blosc": dict(hdf5plugin.Blosc()),
    "scaleoffset": {"scaleoffset": 0},
}
DTYPES = ["u1", "<i2", ">i4", "<f8", "c8", "?", "S3", "V5", [("a", "<i2"), ("b", ">f8")]]
settled = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def values(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Any:
    found = np.zeros(shape, dtype)
    found.view("u1")[...] = np.random.default_rng(seed).integers(0, 3, found.view("u1").shape)
    return found


# Opens a file for writing, and holds it open until it is killed.
HOLD = "import sys, h5py; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"


def whole(stored: StoredArray) -> Any:
    return stored.read(tuple(slice(0, length) for length in stored.shape))


@settled
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 9)), min_size=1, max_size=3),
    st.tuples(
        st.sampled_from(DTYPES),
        st.sampled_from(sorted(FILTERS)),
        st.sampled_from([None, "v110", "latest"]),
        st.sampled_from([0, 512]),
    ),
    st.data(),
)
def test_what_h5py_reads(tmp_path: Path, axes: Any, how: Any, draw: st.DataObject) -> None:
    dtype, filters, libver, user_block = how
    shape, chunks = tuple(n for n, _ in axes), tuple(min(axis) for axis in axes)
    if filters == "scaleoffset":
        dtype = "<i4"
    data, path = values(shape, dtype), str(tmp_path / "x.h5")
    unlimited = draw.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    maxshape = tuple(None if free else n for n, free in zip(shape, unlimited, strict=True))
    selection = tuple(slice(*sorted(draw.draw(st.lists(st.integers(0, n), min_size=2, max_size=2)))) for n in shape)
    with h5py.File(path, "w", libver=libver, userblock_size=user_block) as file:
        made = file.create_dataset("g/x", shape, data.dtype, chunks=chunks, maxshape=maxshape, **FILTERS[filters])
        # Some chunks are never written.
        made[tuple(slice(0, n // 2 + 1) for n in shape)] = data[tuple(slice(0, n // 2 + 1) for n in shape)]
    with h5py.File(path) as file:
        expected = file["g/x"][...]
    found = index_dataset(path, "g/x")
    assert found.dtype == expected.dtype
    assert whole(found).tobytes() == expected.tobytes()
    assert found.read(selection).tobytes() == expected[selection].tobytes()
    assert found.read(selection, ThreadTeam(3, "x")).tobytes() == expected[selection].tobytes()


@pytest.mark.parametrize("fillvalue", [None, 7])
@pytest.mark.parametrize("options", [{"chunks": (4,)}, {"chunks": (4,), "compression": "gzip"}, {}])
def test_what_was_never_written_is_the_fill_value(tmp_path: Path, fillvalue: Any, options: dict[str, Any]) -> None:
    path = str(tmp_path / "x.h5")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (10,), "i4", fillvalue=fillvalue, **options)
    assert whole(index_dataset(path, "/x")).tolist() == [fillvalue or 0] * 10


def every_kind(file: h5py.File) -> list[str]:
    """Make datasets that HDF5 has to read, or that have no chunks."""
    file["contiguous"] = values((30, 4), "<i4")
    file["big-endian"] = values((30,), ">f4")
    file["scalar"] = 3.5
    file["fixed string"] = np.bytes_(b"ab")
    file["strings"] = ["a", "bc", "d" * 100]
    file["empty"] = np.zeros((0, 3))
    file["null"] = h5py.Empty("f4")
    file.create_dataset("ragged", data=np.array([np.arange(2), np.arange(3)], object), dtype=h5py.vlen_dtype("i4"))
    file.create_dataset("references", data=[file["scalar"].ref], dtype=h5py.ref_dtype)
    file.create_dataset("enumeration", data=[0, 1], dtype=h5py.enum_dtype({"A": 0, "B": 1}, "u1"), chunks=(1,))
    layout = h5py.VirtualLayout((30, 4), "i4")
    layout[...] = h5py.VirtualSource(file["contiguous"])
    file.create_virtual_dataset("virtual", layout)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    h5py.h5d.create(file.id, b"compact", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((5,)), plist)
    file["compact"][...] = range(5)
    file.create_dataset("24 bits", (4,), "i4", chunks=(2,))
    return list(file)


def test_every_kind_of_dataset_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "x.h5")
    with h5py.File(path, "w") as file:
        names = every_kind(file)
    for name in names:
        with h5py.File(path) as file:
            expected = file[name][()]
        found = index_dataset(path, name)
        if name == "null":
            assert found.shape == ()
            continue
        got = whole(found)
        assert np.shape(got) == np.shape(expected)
        assert repr(np.asarray(got).tolist()) == repr(np.asarray(expected).tolist()), name
    assert index_dataset(path, "contiguous").is_direct
    assert not index_dataset(path, "virtual").is_direct


def test_partial_chunks_that_skip_their_filters_are_read(tmp_path: Path) -> None:
    path, data = str(tmp_path / "x.h5"), values((10,), "i4")
    with h5py.File(path, "w", libver="v110") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((4,))
        plist.set_deflate(4)
        library = ctypes.CDLL(h5py.h5p.__file__)
        # H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS
        assert library.H5Pset_chunk_opts(ctypes.c_int64(plist.id), ctypes.c_uint(2)) >= 0
        h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((10,)), plist)
        file["x"][...] = data
    assert np.array_equal(whole(index_dataset(path, "x")), data)


def test_an_external_link_leads_to_the_other_file(tmp_path: Path) -> None:
    """Both files have a dataset at the same place."""
    made(tmp_path / "x.h5", np.arange(10, dtype="i4"))
    made(tmp_path / "y.h5", np.arange(10, dtype="i4") + 5)
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file["link"] = h5py.ExternalLink("y.h5", "/x")
        file["nowhere"] = h5py.ExternalLink("none.h5", "/x")
        file["round"] = h5py.SoftLink("/round")
    found = index_dataset(str(tmp_path / "x.h5"), "/link")
    assert (found.path, found.name) == (str(tmp_path / "y.h5"), "/x")
    assert np.array_equal(whole(found), np.arange(10) + 5)
    for name in ("/nowhere", "/round"):
        with pytest.raises(errors.TargetError, match=f"has no dataset {name}"):
            index_dataset(str(tmp_path / "x.h5"), name)


# A file that changes


def made(path: Path, data: Any, **options: Any) -> StoredArray:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=data, **{"chunks": (4,), "compression": "gzip", "maxshape": (None,)} | options)
    return index_dataset(str(path), "/x")


def test_a_file_that_was_written_to_is_indexed_again(tmp_path: Path) -> None:
    stored = made(tmp_path / "x.h5", np.zeros(10, "i4"))
    dcio.to_hdf5(tmp_path / "x.h5", "/x", np.arange(10, dtype="i4"), region=(slice(0, 10),), progress=False)
    assert whole(stored).tolist() == list(range(10))
    dcio.to_hdf5(tmp_path / "x.h5", "/x", np.arange(5, dtype="i4"), append=True, progress=False)
    assert whole(stored).tolist() == list(range(10)), "its shape is that of when it was opened"


def test_chunks_of_an_array_that_has_grown_are_not_copied_by_their_old_numbers(tmp_path: Path) -> None:
    stored = made(tmp_path / "x.h5", np.zeros((4, 4), "i4"), chunks=(2, 2), maxshape=(None, None))
    assert len(stored.payloads((0, 1, 2)) or ()) == 3
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file["x"].resize((4, 8))
        file["x"][...] = 1
    assert stored.payloads((0, 1, 2)) is None


@pytest.mark.parametrize("new", [np.zeros(9, "i4"), np.zeros(10, "i8"), np.zeros((10, 2), "i4")], ids=str)
def test_another_dataset_of_that_name_is_refused(tmp_path: Path, new: Any) -> None:
    stored = made(tmp_path / "x.h5", np.zeros(10, "i4"))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = new
    with pytest.raises(errors.TargetChangedError, match=r"x\.h5, /x: it had the shape \(10,\).*open it again"):
        whole(stored)


def test_a_dataset_that_is_stored_in_another_way_is_refused(tmp_path: Path) -> None:
    stored = made(tmp_path / "x.h5", np.zeros(10, "i4"))
    made(tmp_path / "x.h5", np.ones(10, "i4"), shuffle=True)
    with pytest.raises(errors.TargetChangedError, match="stored anew in another way"):
        whole(stored)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    stored = made(tmp_path / "x.h5", np.zeros(10, "i4"))
    os.remove(tmp_path / "x.h5")
    with pytest.raises(errors.TargetError, match=r"cannot read .*x\.h5: No such file"):
        whole(stored)


def test_other_programs_write_between_two_reads(tmp_path: Path) -> None:
    stored = made(tmp_path / "x.h5", np.arange(10, dtype="i4"))
    whole(stored)
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file["x"][:] = 5
        with pytest.raises(errors.TargetBusyError, match=r"x\.h5 is open for writing in this process"):
            index_dataset(str(tmp_path / "x.h5"), "/x")
    assert whole(stored).tolist() == [5] * 10


def test_a_file_that_another_program_has_open_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.h5"
    made(path, np.arange(10, dtype="i4"))
    monkeypatch.setattr(file_state, "_PATIENCE", 0.0)
    with program("-c", HOLD, path) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        with pytest.raises(errors.TargetBusyError, match=r"x\.h5 is open for writing in another.*locking=False"):
            index_dataset(str(path), "/x", isolated=False)  # another process would wait as long as users do
        assert np.array_equal(whole(index_dataset(str(path), "/x", locking=False)), np.arange(10))


def overwrite_and_die(path: Path, call: int) -> None:
    kill_at(call, ("pwrite", "pwritev"))
    options: dict[str, Any] = {"scheduler": "synchronous", "progress": False}
    dcio.to_hdf5(path, "/x", np.arange(40, dtype="i4"), region=(slice(0, 40),), **options)


def test_a_transaction_that_was_cut_off_is_refused_until_it_is_recovered(tmp_path: Path) -> None:
    for call in itertools.count():
        path = tmp_path / f"{call}.h5"
        before = made(path, np.zeros(40, "i4")).state
        assert in_child(overwrite_and_die, path, call) == -signal.SIGKILL
        log = Path(SidePaths(str(path)).log)
        if FileState.of(str(path)) != before and log.stat().st_size:
            break
    with pytest.raises(errors.UnfinishedWriteError, match="recover"):
        index_dataset(str(path), "/x")
    dcio.recover(path)
    assert index_dataset(str(path), "/x").shape


# Damage


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    stored = made(path, values((12,), "i4"), fletcher32=True)
    with h5py.File(path) as file:
        place = file["x"].id.get_chunk_info(1)
    with path.open("r+b") as raw:
        raw.seek(place.byte_offset + 3)
        raw.write(b"\xff\xff")
    stored = index_dataset(str(path), "/x")
    assert stored.read((slice(0, 4),)).shape == (4,)
    words = rf"x\.h5, /x: the chunk at \(4,\) \({place.size} bytes from {place.byte_offset} on\) is damaged: its "
    with pytest.raises(errors.IntegrityError, match=words):
        whole(stored)


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    made(path, values((1000,), "i4"), compression=None)
    size = path.stat().st_size
    for nbytes in (size - 1, size // 2, 100, 0):
        copy = tmp_path / f"{nbytes}.h5"
        shutil.copy(path, copy)
        os.truncate(copy, nbytes)
        with pytest.raises((errors.TargetError, errors.IntegrityError), match=f"{nbytes}.h5"):
            whole(index_dataset(str(copy), "/x"))


def test_a_place_beyond_the_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    made(path, values((8,), "i4"), compression=None)
    with h5py.File(path) as file:
        offset = file["x"].id.get_chunk_info(1).byte_offset
    raw = path.read_bytes()
    assert raw.count(offset.to_bytes(8, "little")) == 1, "the entry of the B-tree"
    path.write_bytes(raw.replace(offset.to_bytes(8, "little"), (1 << 40).to_bytes(8, "little")))
    with pytest.raises(errors.IntegrityError, match="beyond the end of the file"):
        index_dataset(str(path), "/x")


@pytest.mark.parametrize(
    ("name", "words"),
    [("/none", "has no dataset /none"), ("/g", "/g is a group"), ("", "has no dataset")],
)
def test_a_name_of_no_dataset_is_refused(tmp_path: Path, name: str, words: str) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_group("g")
    with pytest.raises(errors.TargetError, match=words):
        index_dataset(str(tmp_path / "x.h5"), name)


# Processes


def test_it_is_pickled_with_its_table(tmp_path: Path) -> None:
    stored = made(tmp_path / "x.h5", np.arange(10, dtype="i4"))
    again = pickle.loads(pickle.dumps(stored))
    assert again.table is not None
    assert np.array_equal(whole(again), np.arange(10))


def test_a_large_table_is_made_again_in_the_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_array, "_MOST_SENT", 2)
    stored = made(tmp_path / "x.h5", np.arange(10, dtype="i4"))
    again = pickle.loads(pickle.dumps(stored))
    assert again.table is None
    assert np.array_equal(whole(again), np.arange(10))


def test_a_forked_process_reads_too(tmp_path: Path) -> None:
    made(tmp_path / "x.h5", np.arange(100, dtype="i4"))
    array = dcio.open_array(tmp_path / "x.h5", "/x", threads=2)
    assert array[:].sum() == 4950

    def child() -> None:
        signal.alarm(60)
        assert array[:].sum() == 4950

    assert in_child(child) == 0


@pytest.mark.parametrize("options", [{}, {"chunks": (10,)}, {"chunks": (10,), "compression": "gzip"}])
def test_a_read_during_which_the_file_is_written_to_is_made_again(
    tmp_path: Path, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "x.h5")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros(100), **options)
    stored, read = index_dataset(path, "/x"), StoredArray._read_outside
    changed: list[bool] = []

    def disturbed(self: StoredArray, *words: Any) -> Any:
        found = read(self, *words)
        if not changed:
            changed.append(True)
            with h5py.File(path, "r+") as file:
                file["x"][:] = 1
        return found

    monkeypatch.setattr(StoredArray, "_read_outside", disturbed)
    assert whole(stored).tolist() == [1] * 100


def test_an_open_that_waits_does_not_keep_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(5)
    monkeypatch.setattr(stored_array, "_PATIENCE", 0.01)
    with stored_array._indexing:  # as a thread has it whose file another program has locked
        assert index_dataset(str(path), "/x").shape == (5,)
        assert stored_array._indexing.locked()
