"""Readers of files that are damaged, or made to harm: an error that names the file, in bounded time and memory."""

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import dask_chunkio as dcio
from dask_chunkio import isolated_call
from dask_chunkio.errors import ChunkIOError, IntegrityError, TargetBusyError, TargetError
from dask_chunkio.reading.dataset_record import ask_for_record, read_record
from dask_chunkio.reading.structure_check import check_structure
from tests.reading.test_stored_array import every_kind
from tests.support.files import MEMORY
from tests.support.fuzz.damaged_metadata import hostile_files
from tests.support.processes import run_python

RUNS = int(os.environ.get("DASK_CHUNKIO_FUZZ_RUNS", "100"))
SEED = int(os.environ.get("DASK_CHUNKIO_SEED", "0"))
READERS = ("open_array", "from_hdf5", "xarray", "verify", "repack", "references", "convert", "source")


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_call, "_SECONDS", 1.0)


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A file whose global heap has an object of 2**64 - 16 bytes: HDF5 looks for the next one for ever."""
    path = tmp_path / "endless.h5"
    with h5py.File(path, "w") as file:
        file.create_group("g").attrs["words"] = ["one", "two"]
        file["texts"], file["x"] = ["a", "bc"], np.arange(10)
    raw = bytearray(path.read_bytes())
    assert raw.count(b"GCOL") == 1
    struct.pack_into("<Q", raw, raw.find(b"GCOL") + 24, (1 << 64) - 16)
    path.write_bytes(raw)
    return path


ENDLESS: dict[str, Callable[[Path, Path], Any]] = {
    "open_array": lambda path, _: dcio.open_array(path, "/texts")[...],
    "from_hdf5": lambda path, _: dcio.from_hdf5(path, "/texts", chunks=(1,)).compute(),
    "repack": lambda path, out: dcio.repack(path, out / "new.h5", progress=False),
    "convert": lambda path, out: dcio.convert(path, out / "new.zarr"),
}


@pytest.mark.parametrize("reader", ENDLESS)
def test_a_heap_without_an_end_is_an_error(reader: str, endless: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(IntegrityError, match=r"endless\.h5 at /(texts|g): HDF5 takes more time than any valid file"):
        ENDLESS[reader](endless, out)
    assert os.listdir(out) == [], "nothing half-made is left"
    assert np.array_equal(dcio.open_array(endless, "/x")[...], np.arange(10))


def test_xarray_is_told_of_it_too(endless: Path) -> None:
    xarray = pytest.importorskip("xarray")
    with pytest.raises(IntegrityError, match=r"endless\.h5 at /(texts|g): HDF5 takes more time"):
        xarray.open_dataset(endless, engine="chunkio", phony_dims="sort")


def test_groups_in_a_circle_are_refused_where_h5netcdf_would_go_round(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(10)
        group = file.create_group("a/b")
        group["up"] = file["a"]
    with pytest.raises(TargetError, match=r"x\.h5: /a/b/up is a hard link to a group above it.*phony_dims='access'"):
        xarray.open_dataset(path, engine="chunkio", phony_dims="sort")
    with xarray.open_dataset(path, engine="chunkio", phony_dims="access") as found:
        assert found["x"].values.tolist() == list(range(10))
    assert check_structure(str(path)) == "/a/b/up"


# Files that are valid


@pytest.fixture
def hostile(tmp_path: Path) -> dict[str, Path]:
    outside = tmp_path / "elsewhere.h5"
    with h5py.File(outside, "w") as file:
        file["x"] = np.arange(10)
    folder = tmp_path / "hostile"
    folder.mkdir()
    return {path.stem: path for path in hostile_files(folder, outside)}


def test_shapes_of_any_size_cost_nothing(hostile: dict[str, Path], tmp_path: Path) -> None:
    path = hostile["huge"]
    assert dcio.open_array(path, "/chunked")[1 << 50 : (1 << 50) + 3].tolist() == [0, 0, 0]
    assert dcio.open_array(path, "/wide")[5, :2].tolist() == [0.0, 0.0]
    assert dcio.open_array(path, "/late")[-2:].tolist() == [0, 0]
    assert dcio.verify(path).ok
    dcio.repack(path, tmp_path / "new.h5", filters=["GZIP=1"], verify=True, progress=False)
    assert os.path.getsize(tmp_path / "new.h5") < 100_000


def test_links_in_circles_end(hostile: dict[str, Path], tmp_path: Path) -> None:
    path = hostile["loops"]
    assert dcio.open_array(path, "/a/b/c/up/b/c/root/x")[...].tolist() == list(range(10))
    with pytest.raises(TargetError, match="has no dataset /a/b/c/soft"):
        dcio.open_array(path, "/a/b/c/soft")
    dcio.repack(path, tmp_path / "new.h5", verify=True, progress=False)
    with h5py.File(tmp_path / "new.h5") as file:
        assert file["a/b/c/up/b/c/root/x"][3] == 3
    dcio.convert(path, tmp_path / "new.zarr", skip_unsupported=True)


def test_what_a_file_names_outside_is_neither_copied_nor_changed(hostile: dict[str, Path], tmp_path: Path) -> None:
    path, elsewhere = hostile["outside"], tmp_path / "elsewhere.h5"
    before = elsewhere.read_bytes()
    dcio.repack(path, tmp_path / "new.h5", filters=["GZIP=1"], verify=True, progress=False)
    with h5py.File(tmp_path / "new.h5") as file:
        assert file.get("link", getlink=True).filename == str(elsewhere)
    assert dcio.open_array(path, "/virtual")[...].tolist() == list(range(10))
    assert dcio.open_array(path, "/external")[:4].tobytes() == b"\x89HDF"
    for name in ("/device", "/nowhere"):
        with pytest.raises(ChunkIOError, match=f"has no dataset {name}"):
            dcio.open_array(path, name)
    assert elsewhere.read_bytes() == before


def test_a_link_to_a_pipe_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, pipe = tmp_path / "x.h5", tmp_path / "pipe"
    os.mkfifo(pipe)
    with h5py.File(path, "w") as file:
        file["link"] = h5py.ExternalLink(str(pipe), "/x")
    monkeypatch.setattr(isolated_call, "_SECONDS", 0.05)
    with pytest.raises(ChunkIOError, match=r"x\.h5.*(takes more time|has no dataset)"):
        dcio.open_array(path, "/link")


# The answer of the other process


def test_a_record_from_another_process_is_the_same(tmp_path: Path) -> None:
    path = str(tmp_path / "x.h5")
    with h5py.File(path, "w") as file:
        names = every_kind(file)
        rows = np.dtype({"names": ["a", "b"], "formats": ["<i2", "S3"], "offsets": [0, 4], "itemsize": 12})
        file.create_dataset("padded", data=np.zeros(3, rows), chunks=(2,), fillvalue=np.array((7, b"x"), rows))
        file.create_dataset("complex", data=[1j, 2], chunks=(1,), compression="gzip", fletcher32=True)
        file.create_dataset("truth", data=[True, False], chunks=(1,))
        file.create_dataset("rows of arrays", (4,), [("a", "<f4", (2, 3))], chunks=(2,))
    for name in [*names, "padded", "complex", "truth", "rows of arrays"]:
        mine, theirs = read_record(path, name), ask_for_record(path, name)
        for field in ("path", "name", "shape", "dtype", "chunks", "state", "filters", "form", "offset", "is_null"):
            assert getattr(mine, field) == getattr(theirs, field), (name, field)
        assert mine.dtype.metadata == theirs.dtype.metadata, name
        assert (mine.table is None) == (theirs.table is None)
        if mine.table is not None and theirs.table is not None:
            for column in ("numbers", "offsets", "nbytes", "masks"):
                found = getattr(theirs.table, column)
                assert found.dtype == getattr(mine.table, column).dtype
                assert np.array_equal(found, getattr(mine.table, column))


def test_what_hdf5_reads_is_the_same_by_either_process(tmp_path: Path) -> None:
    path = str(tmp_path / "x.h5")
    with h5py.File(path, "w") as file:
        every_kind(file)
        file["one text"], file["ä"] = "scalar", ["ä", "", "x" * 1000]
    for name in ("strings", "one text", "ä", "ragged", "references", "virtual", "24 bits", "empty", "fixed string"):
        mine, theirs = (np.asarray(dcio.open_array(path, name, isolated=how)[...]) for how in (False, True))
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), name
        if name != "references":
            assert repr(mine.tolist()) == repr(theirs.tolist()), name


def test_an_empty_dataspace_has_nothing_to_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["null"] = h5py.Empty("f4")
    with pytest.raises(TargetError, match=r"x\.h5, /null: it has no elements"):
        dcio.open_array(tmp_path / "x.h5", "/null")[...]


def test_data_in_a_file_that_is_not_there_are_an_error_of_ours(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", (10,), "u1", external=[("nowhere", 0, 10)])
    for isolated in (True, False):
        with pytest.raises(IntegrityError, match=r"x\.h5, /x: HDF5 cannot read it .*in another file that is not there"):
            dcio.open_array(tmp_path / "x.h5", "/x", isolated=isolated)[...]


@pytest.mark.parametrize("locking", [None, False])
def test_a_file_that_this_process_has_open_for_writing_is_noticed(tmp_path: Path, locking: bool | None) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", locking=locking) as file:
        file["x"] = np.arange(3)
        for call in (lambda: dcio.open_array(path, "/x", locking=locking), lambda: check_structure(str(path), locking)):
            with pytest.raises(TargetBusyError, match=r"x\.h5 is open for writing in this process"):
                call()
        with h5py.File(tmp_path / "x.h5.other", "w", driver="core", backing_store=False):
            pass
    assert dcio.open_array(path, "/x", locking=locking)[...].tolist() == [0, 1, 2]


def test_a_copy_has_the_mode_that_this_process_gives_its_files(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.arange(3)
    dcio.open_array(tmp_path / "x.h5", "/x")
    old = os.umask(0o077)
    try:
        dcio.repack(tmp_path / "x.h5", tmp_path / "y.h5", progress=False)
        (tmp_path / "z.h5").touch()
    finally:
        os.umask(old)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("y.h5", "z.h5")]
    assert modes[0] == modes[1] == 0o600


def test_files_that_are_trusted_are_read_without_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    xarray = pytest.importorskip("xarray")
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(100), chunks=(10,), compression="gzip")
        file["texts"] = ["a", "b"]
    # Whatever asks for another process ends with a TypeError.
    monkeypatch.setattr(isolated_call, "_processes", None)
    assert dcio.open_array(path, "/x", isolated=False)[99] == 99
    assert dcio.open_array(path, "/texts", isolated=False)[...].tolist() == [b"a", b"b"]
    assert int(dcio.from_hdf5(path, "/x", isolated=False).sum().compute(scheduler="synchronous")) == 4950
    with xarray.open_dataset(path, engine="chunkio", phony_dims="sort", isolated=False) as found:
        assert int(found["x"].sum()) == 4950
    dcio.convert(path, tmp_path / "x.zarr", isolated=False)
    for how in ({"dry_run": True}, {"verify": True, "layouts": ["/x:CHUNK=20"]}):
        dcio.repack(path, tmp_path / "y.h5", filters=["SHUF"], isolated=False, progress=False, **how)
    with h5py.File(tmp_path / "y.h5") as file:
        assert file["x"].shuffle
        assert file["x"][99] == 99


# Damage at random


def fuzz(readers: tuple[str, ...], folder: Path, *words: object, timeout: float = 100) -> Iterator[dict[str, Any]]:
    done = run_python("-m", "tests.support.fuzz.readers", *readers, "--folder", folder, *words, timeout=timeout)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, "\n".join([*lines[-40:], done.stderr[-3000:]])
    yield from (json.loads(line) for line in lines if line.startswith("{"))


def test_readers_of_damaged_metadata_end_with_data_or_an_error_of_ours(tmp_path: Path) -> None:
    (said,) = fuzz(("open_array",), tmp_path, "--runs", 25, "--kinds", 3)
    assert said["outcomes"]["right"] > 3
    assert said["outcomes"]["IntegrityError"] > 1


@pytest.mark.heavy
@pytest.mark.parametrize("reader", READERS)
def test_many_damaged_files(reader: str, tmp_path: Path) -> None:
    (said,) = fuzz((reader,), Path(MEMORY or tmp_path), "--runs", RUNS, "--seed", SEED, timeout=100 + 3 * RUNS)
    assert said["runs"] == RUNS
