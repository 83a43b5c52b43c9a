"""Our ``HDF5IO`` in the place of hdmf's: the same file, of the same objects."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import hdf5plugin
import numpy as np
import pytest
import zarr
from hdmf.backends import hdf5
from hdmf.backends.errors import UnsupportedOperation
from hdmf.backends.hdf5 import H5DataIO
from hdmf.build import BuildManager, DatasetBuilder, GroupBuilder, LinkBuilder, TypeMap
from hdmf.common import DynamicTable, VectorData, get_manager
from hdmf.data_utils import AbstractDataChunkIterator, DataChunk, DataChunkIterator
from hdmf.spec import NamespaceCatalog

import dask_chunkio as dcio
from dask_chunkio.errors import (
    ArgumentError,
    ArgumentTypeError,
    PicklingError,
    SourceError,
    TargetError,
    UnfinishedWriteError,
)
from dask_chunkio.integrations.hdmf import HDF5IO, DaskIterator, WriteOptions
from dask_chunkio.integrations.hdmf.named_file import NamedFile
from dask_chunkio.storage.hdf5.file_layout import is_paged
from tests.support.files import content
from tests.support.hdmf_iterators import FromArrayOfHdmf
from tests.support.iterators import FromArray
from tests.support.metadata import metadata_end, page_nbytes
from tests.support.processes import run_python

TheirIO = hdf5.HDF5IO
NUMBERS = np.arange(60 * 8, dtype="i4").reshape(60, 8)
SIZES = {"chunk_shape": (10, 8), "buffer_shape": (20, 8)}


def manager() -> BuildManager:
    return BuildManager(TypeMap(NamespaceCatalog()))


def written(kind: Any, path: Path, data: Any, dtype: Any = None, **options: Any) -> None:
    """Write one dataset."""
    attributes = {"unit": "V"}
    builder = GroupBuilder("root", groups={"g": GroupBuilder("g")})
    builder.groups["g"].set_dataset(DatasetBuilder("x", data, dtype=dtype, attributes=attributes))
    with kind(str(path), manager=manager(), mode="w", **options) as io:
        io.write_builder(builder)


def properties(dataset: h5py.Dataset) -> Any:
    """What two files must share of a dataset."""
    text = dataset.dtype.kind == "O"
    data = dataset[...].tolist() if text else dataset[...].tobytes()
    names = ("shape", "dtype", "maxshape", "chunks", "compression", "compression_opts", "shuffle", "fletcher32")
    return data, *(getattr(dataset, name) for name in names)


class Sparse(AbstractDataChunkIterator):  # type: ignore[misc]
    """Writes parts of a dataset, in an order of its own."""

    maxshape, dtype = (60, 8), np.dtype("i4")

    def __init__(self) -> None:
        self.rest = [np.s_[50:60, 4:8], np.s_[0:10, 0:4]]

    def __iter__(self) -> Sparse:
        return self

    def __next__(self) -> DataChunk:
        if not self.rest:
            raise StopIteration
        selection = self.rest.pop()
        return DataChunk(NUMBERS[selection], selection)

    def recommended_chunk_shape(self) -> None:
        return None

    def recommended_data_shape(self) -> tuple[int, ...]:
        return (60, 8)


class Twice(FromArrayOfHdmf):
    """Its ``next`` returns something other than what is selected."""

    def __next__(self) -> Any:
        chunk = super().__next__()
        return DataChunk(2 * chunk.data, chunk.selection)


def begun(iterator: Any) -> Any:
    next(iterator)
    return iterator


def with_gaps() -> Iterator[Any]:
    for number, row in enumerate(NUMBERS):
        yield None if number % 7 in (2, 3) else row


def memory_map() -> Any:
    mapped = np.memmap("map.bin", "i4", "w+", shape=NUMBERS.shape)
    mapped[:] = NUMBERS
    return mapped


def array_of_zarr() -> Any:
    array = zarr.create_array({}, shape=NUMBERS.shape, chunks=(7, 8), dtype="i4")
    array[:] = NUMBERS
    return array


GZIP = {"compression": "gzip", "shuffle": True, "chunks": (10, 8)}
PARALLEL: dict[str, Callable[[], Any]] = {
    "ours": lambda: FromArray(NUMBERS, **SIZES),
    "hdmf's": lambda: FromArrayOfHdmf(NUMBERS, **SIZES),
    "wrapped": lambda: H5DataIO(FromArray(NUMBERS, **SIZES), compression="gzip", shuffle=True, fletcher32=True),
    "other chunks": lambda: H5DataIO(FromArray(NUMBERS, **SIZES), chunks=(7, 3), compression="gzip"),
    "array": lambda: H5DataIO(NUMBERS, **GZIP),
    "resizable": lambda: H5DataIO(NUMBERS, maxshape=(None, 8)),
    "strided": lambda: H5DataIO(NUMBERS[::2, ::-1], chunks=(10, 8)),
    "big-endian": lambda: H5DataIO(NUMBERS.astype(">i4"), **GZIP),
    "memory map": memory_map,
    "zarr": array_of_zarr,
    "dask": lambda: H5DataIO(DaskIterator(da.from_array(NUMBERS, chunks=(11, 8)), **SIZES), compression="gzip"),
    "stream": lambda: DataChunkIterator(iter(NUMBERS), buffer_size=7),
    "stream of known length": lambda: DataChunkIterator(iter(NUMBERS), maxshape=(60, 8), dtype=np.dtype("i4")),
    "stream that ends early": lambda: DataChunkIterator(iter(NUMBERS[:31]), maxshape=(60, 8), dtype=np.dtype("i4")),
    "stream with gaps": lambda: H5DataIO(DataChunkIterator(with_gaps(), buffer_size=4), fillvalue=-1),
    "stream that was begun": lambda: begun(DataChunkIterator(iter(NUMBERS), buffer_size=7)),
    "stream without any": lambda: DataChunkIterator(iter(NUMBERS[:0]), maxshape=(None, 8), dtype=np.dtype("i4")),
    "array as a stream": lambda: H5DataIO(DataChunkIterator(NUMBERS, buffer_size=7), compression="gzip"),
    "array as a stream that was begun": lambda: begun(DataChunkIterator(NUMBERS, buffer_size=7)),
    "rows of no axes": lambda: DataChunkIterator(iter(NUMBERS[:, 0]), buffer_size=9),
}
BY_HDMF: dict[str, Callable[[], Any]] = {
    "contiguous": lambda: NUMBERS,
    "text": lambda: H5DataIO(["a", "b"], chunks=(1,)),
    "arrays of text": lambda: H5DataIO(np.array(["a", "bc"]), chunks=(1,)),
    "a list": lambda: H5DataIO(NUMBERS.tolist(), **GZIP),
    "a scalar": lambda: 3.5,
    "no elements": lambda: H5DataIO(NUMBERS[:0], chunks=(10, 8), maxshape=(None, 8)),
    "parts": Sparse,
    "another next": lambda: Twice(NUMBERS, **SIZES),
    "columns": lambda: DataChunkIterator(NUMBERS, iter_axis=1),
    "lengths unknown": lambda: DataChunkIterator(iter(NUMBERS), maxshape=(None, None)),
    "stream of text": lambda: DataChunkIterator(iter([b"a", b"bc"]), maxshape=(None,), dtype=np.dtype("S2")),
}


@pytest.mark.filterwarnings("ignore:Iterating over an axis other")
@pytest.mark.parametrize("name", [*PARALLEL, *BY_HDMF])
def test_the_file_is_that_of_hdmf(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filled: list[tuple[str, ...]]
) -> None:
    monkeypatch.chdir(tmp_path)
    make = (PARALLEL | BY_HDMF)[name]
    written(TheirIO, tmp_path / "theirs.h5", make())
    written(HDF5IO, tmp_path / "ours.h5", make(), parallel_threshold=0)
    assert content("ours.h5", properties) == content("theirs.h5", properties)
    assert bool(filled) == (name in PARALLEL)
    assert not [found for found in os.listdir() if "." in found.removesuffix(".h5").removesuffix(".bin")]


@pytest.mark.parametrize("dtype", ["float64", "int64", "int16", "uint8", "float"])
@pytest.mark.parametrize("source", ["array", "hdmf's", "stream"])
def test_conversions_are_those_of_hdmf(source: str, dtype: str, tmp_path: Path) -> None:
    for kind, path in ((TheirIO, tmp_path / "theirs.h5"), (HDF5IO, tmp_path / "ours.h5")):
        written(kind, path, PARALLEL[source](), dtype, **({} if kind is TheirIO else {"parallel_threshold": 0}))
    assert content(tmp_path / "ours.h5", properties) == content(tmp_path / "theirs.h5", properties)


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_schedulers(scheduler: str, tmp_path: Path) -> None:
    written(TheirIO, tmp_path / "theirs.h5", PARALLEL["wrapped"]())
    written(HDF5IO, tmp_path / "ours.h5", PARALLEL["wrapped"](), parallel_threshold=0, scheduler=scheduler)
    assert content(tmp_path / "ours.h5", properties) == content(tmp_path / "theirs.h5", properties)


def test_small_data_are_left_to_hdmf(tmp_path: Path, filled: list[tuple[str, ...]]) -> None:
    for name in ("ours", "array", "stream"):
        written(HDF5IO, tmp_path / "x.h5", PARALLEL[name]())
        written(HDF5IO, tmp_path / "x.h5", PARALLEL[name](), parallel_threshold=NUMBERS.nbytes + 1)
    assert not filled
    written(HDF5IO, tmp_path / "x.h5", PARALLEL["ours"](), parallel_threshold=f"{NUMBERS.nbytes} B")
    assert filled == [("/g/x",)]


# hdmf warns of every filter but gzip.
@pytest.mark.filterwarnings("ignore:32017 compression may not be available:UserWarning")
@pytest.mark.parametrize("kind", ["ours", "array"])
def test_a_filter_that_only_hdf5_runs_is_left_to_hdmf(kind: str, tmp_path: Path, filled: list[tuple[str, ...]]) -> None:
    sz = hdf5plugin.SZ(absolute=0.01)
    for io, name in ((TheirIO, "theirs.h5"), (HDF5IO, "ours.h5")):
        data = {"ours": FromArray(NUMBERS.astype("f4"), **SIZES), "array": NUMBERS.astype("f4")}[kind]
        options = {"parallel_threshold": 0} if io is HDF5IO else {}
        wrapped = H5DataIO(data, allow_plugin_filters=True, **({"chunks": (10, 8)} if kind == "array" else {}), **sz)
        written(io, tmp_path / name, wrapped, **options)
    assert not filled
    with h5py.File(tmp_path / "ours.h5") as ours, h5py.File(tmp_path / "theirs.h5") as theirs:
        assert ours["g/x"].id.get_create_plist().get_filter(0)[0] == sz["compression"]
        assert np.array_equal(ours["g/x"], theirs["g/x"])


def root(**datasets: Any) -> GroupBuilder:
    return GroupBuilder("root", datasets={name: DatasetBuilder(name, data) for name, data in datasets.items()})


def wrote(io: Any, **datasets: Any) -> None:
    io.write_builder(root(**datasets))


# What is read in order, and alone


@pytest.mark.parametrize("exhaust", [True, False])
def test_streams_of_one_generator_are_read_as_hdmf_reads_them(exhaust: bool, tmp_path: Path) -> None:
    for kind, name in ((TheirIO, "theirs.h5"), (HDF5IO, "ours.h5")):
        rows = iter(NUMBERS)
        first, second = (DataChunkIterator(rows, maxshape=(None, 8), dtype=NUMBERS.dtype) for _ in range(2))
        with kind(str(tmp_path / name), manager=manager(), mode="w") as io:
            if kind is HDF5IO:
                io._options = io._options.replaced({"parallel_threshold": 0})
                io._target.options = io._options
            io.write_builder(root(a=first, b=second), exhaust_dci=exhaust)
    assert content(tmp_path / "ours.h5", properties) == content(tmp_path / "theirs.h5", properties)


class Alone(FromArrayOfHdmf):
    """Fails if two of its kind are read at once."""

    lock = threading.Lock()

    def _get_data(self, selection: Any) -> Any:
        if not self.lock.acquire(blocking=False):
            raise RuntimeError("two are read at once")
        try:
            return super()._get_data(selection)
        finally:
            self.lock.release()


def test_iterators_of_hdmf_are_read_one_after_the_other(tmp_path: Path, filled: list[tuple[str, ...]]) -> None:
    many = np.zeros((4000, 8), "i4")
    shapes = {"chunk_shape": (100, 8), "buffer_shape": (100, 8)}
    with HDF5IO(str(tmp_path / "x.h5"), manager=manager(), mode="w", parallel_threshold=0) as io:
        wrote(
            io,
            a=Alone(many, **shapes),
            b=FromArray(many, **shapes),
            c=Alone(many, **shapes),
            d=H5DataIO(many, chunks=True),
        )
    assert filled == [("/b", "/d"), ("/a",), ("/c",)]


def test_read_says_how_iterators_are_read(tmp_path: Path, filled: list[tuple[str, ...]]) -> None:
    for read, expected in (("concurrent", [("/a", "/b")]), ("serial", [("/a",), ("/b",)])):
        filled.clear()
        with HDF5IO(str(tmp_path / "x.h5"), manager=manager(), mode="w", parallel_threshold=0, read=read) as io:
            wrote(io, a=FromArrayOfHdmf(NUMBERS, **SIZES), b=FromArray(NUMBERS, **SIZES))
        assert filled == expected


def test_a_stream_does_not_leave_its_process(tmp_path: Path) -> None:
    rows = DataChunkIterator((row for row in NUMBERS), buffer_size=7)
    path = tmp_path / "x.h5"
    with (
        pytest.raises(PicklingError, match="cannot be pickled"),
        HDF5IO(str(path), manager=manager(), mode="w", parallel_threshold=0, scheduler="processes") as io,
    ):
        wrote(io, x=rows)
    assert not path.exists()


# Ends that are not normal


def interrupted(io: Any) -> None:
    wrote(io, x=NUMBERS)
    raise ZeroDivisionError


def test_an_exception_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError) as found, HDF5IO(str(path), manager=manager(), mode="w") as io:
        interrupted(io)
    assert "was not written" in found.value.__notes__[0]
    assert os.listdir(tmp_path) == ["x.h5"]
    assert path.read_bytes() == b"old"


def failing() -> Any:
    class Failing(FromArray):
        def _get_data(self, selection: Any) -> Any:
            if selection[0].start == 40:
                raise RuntimeError("the disk of the microscope")
            return super()._get_data(selection)

    return Failing(NUMBERS, **SIZES)


def test_a_write_that_failed_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    written(TheirIO, tmp_path / "theirs.h5", FromArray(NUMBERS, **SIZES))
    with pytest.raises(SourceError, match="microscope") as found:
        written(HDF5IO, path, failing(), parallel_threshold=0)
    assert any("resume=True" in note for note in found.value.__notes__)
    assert not path.exists()
    with pytest.raises(UnfinishedWriteError, match="resume=True"):
        written(HDF5IO, path, FromArray(NUMBERS, **SIZES))
    written(HDF5IO, path, FromArray(NUMBERS, **SIZES), parallel_threshold=0, resume=True)
    assert content(path, properties) == content(tmp_path / "theirs.h5", properties)
    assert sorted(os.listdir(tmp_path)) == ["theirs.h5", "x.h5"]


def test_a_failed_write_does_not_get_its_name_by_close(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    io = HDF5IO(str(path), manager=manager(), mode="w", parallel_threshold=0)
    try:
        with pytest.raises(SourceError):
            wrote(io, x=failing())
    finally:
        io.close()
    assert not path.exists()
    dcio.discard(path)
    assert os.listdir(tmp_path) == []


def test_a_resumed_write_of_other_datasets_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with pytest.raises(SourceError):
        written(HDF5IO, path, failing(), parallel_threshold=0)
    with (
        pytest.raises(ArgumentError, match="has no /other"),
        HDF5IO(str(path), manager=manager(), mode="w", parallel_threshold=0, resume=True) as io,
    ):
        wrote(io, other=FromArray(NUMBERS, **SIZES))
    assert not path.exists()


def test_an_append_that_failed_cannot_be_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    written(TheirIO, path, NUMBERS)
    before = content(path)
    options = {"manager": manager(), "mode": "a", "parallel_threshold": 0}
    with pytest.raises(SourceError) as found, HDF5IO(str(path), **options) as io:
        wrote(io, y=failing())
    assert "resume=True" not in found.value.__notes__[-1]
    assert content(path) == before
    with pytest.raises(ArgumentError, match=r"discard\("):
        HDF5IO(str(path), **options, resume=True)
    dcio.discard(path)
    with HDF5IO(str(path), **options) as io:
        wrote(io, y=FromArray(NUMBERS, **SIZES))
    with h5py.File(path) as file:
        assert np.array_equal(file["y"], NUMBERS)


SCRIPT = """
import os, signal, sys
import numpy as np
from hdmf.build import BuildManager, DatasetBuilder, GroupBuilder, TypeMap
from hdmf.spec import NamespaceCatalog
from dask_chunkio.integrations.hdmf import HDF5IO
from tests.support.iterators import FromArray

class Killing(FromArray):
    def _get_data(self, selection):
        if selection[0].start == 40 and "kill" in sys.argv:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._get_data(selection)

data = Killing(np.arange(480, dtype="i4").reshape(60, 8), chunk_shape=(10, 8), buffer_shape=(20, 8))
builder = GroupBuilder("root", datasets={"x": DatasetBuilder("x", data)})
manager = BuildManager(TypeMap(NamespaceCatalog()))
io = HDF5IO(sys.argv[1], manager=manager, mode="w", parallel_threshold=0, scheduler="sync", resume="resume" in sys.argv)
if "nothing" not in sys.argv:
    io.write_builder(builder)
if "close" in sys.argv:
    io.close()
"""


@pytest.mark.heavy
def test_a_killed_script_is_run_again(tmp_path: Path) -> None:
    path, script = tmp_path / "x.h5", tmp_path / "script.py"
    script.write_text(SCRIPT)
    assert run_python(script, path, "kill", "close").returncode == -signal.SIGKILL
    assert not path.exists()
    assert "unfinished draft" in run_python(script, path, "close").stderr
    run_python(script, path, "close", "resume", check=True)
    with h5py.File(path) as file:
        assert np.array_equal(file["x"], NUMBERS)


def test_a_script_that_forgets_to_close(tmp_path: Path) -> None:
    """As with hdmf, the file is whole all the same: all data were written by `write`."""
    path, script = tmp_path / "x.h5", tmp_path / "script.py"
    script.write_text(SCRIPT)
    run_python(script, path, check=True)
    with h5py.File(path) as file:
        assert np.array_equal(file["x"], NUMBERS)
    assert sorted(os.listdir(tmp_path)) == ["script.py", "x.h5"]


def test_a_full_disk_is_an_error_of_ours(tmp_path: Path) -> None:
    """An exception in the methods that HDF5 calls would break its handle; the process goes on here."""
    raw = open(tmp_path / "x.h5", "w+b", buffering=0)  # noqa: SIM115
    named = NamedFile(raw, str(tmp_path / "name.h5"))
    file = named.open()

    class Full:
        fileno, seek, close, readinto, read = raw.fileno, raw.seek, raw.close, raw.readinto, raw.read

        def write(self, _: Any) -> int:
            raise OSError(28, "No space left on device")

    named._raw = Full()  # type: ignore[assignment]
    file["x"] = np.zeros(1000)
    file.close()
    with pytest.raises(TargetError, match="No space left"):
        named.close()


# Modes


def test_a_file_that_is_written_anew_is_there_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    written(TheirIO, path, NUMBERS)
    before = content(path)
    with HDF5IO(str(path), manager=manager(), mode="w", parallel_threshold=0) as io:
        wrote(io, y=FromArray(NUMBERS, **SIZES))
        assert content(path) == before
    assert list(content(path)) == ["/y", "/"]


@pytest.mark.parametrize("mode", ["a", "r+"])
def test_a_file_that_is_only_read_stays(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    written(TheirIO, path, NUMBERS)
    before = path.stat().st_ino
    with HDF5IO(path, manager=manager(), mode=mode) as io:
        assert np.array_equal(io.read_builder()["g"]["x"].data, NUMBERS)
    assert path.stat().st_ino == before
    with HDF5IO(path, manager=manager(), mode=mode) as io:
        io._file["g/x"].attrs["unit"] = "A"
    with h5py.File(path) as file:
        assert file["g/x"].attrs["unit"] == "A"
    assert os.listdir(tmp_path) == ["x.h5"]


@pytest.mark.parametrize("mode", ["w-", "x"])
def test_a_new_file(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with HDF5IO(path, manager=manager(), mode=mode) as io:
        wrote(io, y=NUMBERS)
    with pytest.raises(UnsupportedOperation, match="already exists"):
        HDF5IO(path, manager=manager(), mode=mode)


def test_a_file_or_a_driver_is_left_to_hdmf(tmp_path: Path, filled: list[tuple[str, ...]]) -> None:
    path = str(tmp_path / "x.h5")
    with (
        h5py.File(path, "w") as file,
        HDF5IO(file=file, manager=manager(), mode="w", parallel_threshold=0) as io,
    ):
        wrote(io, x=FromArray(NUMBERS, **SIZES))
    with HDF5IO(path, manager=manager(), mode="a", driver="core", parallel_threshold=0) as io:
        wrote(io, y=FromArray(NUMBERS, **SIZES))
    with HDF5IO(path, manager=manager(), mode="r") as io:
        assert np.array_equal(io._file["x"], io._file["y"])
    assert not filled


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="parallel_threshold='much' is not a size"):
        HDF5IO(tmp_path / "x.h5", mode="w", parallel_threshold="much")
    with pytest.raises(ArgumentError, match="is below 0"):
        HDF5IO(tmp_path / "x.h5", mode="w", parallel_threshold=-1)
    with pytest.raises(ArgumentError, match="read='twice'"):
        HDF5IO(tmp_path / "x.h5", mode="w", read="twice")
    with pytest.raises(TypeError, match="treshold"):
        HDF5IO(tmp_path / "x.h5", mode="w", treshold=1)
    with pytest.raises(ArgumentTypeError, match="needs a dask array"):
        DaskIterator(NUMBERS)
    assert os.listdir(tmp_path) == []


# What users hold


def test_what_was_taken_from_the_file_stays_valid(tmp_path: Path) -> None:
    """The file is closed while it is filled, and opened again."""
    path = tmp_path / "x.h5"
    empty = H5DataIO(shape=(3,), dtype=np.dtype("i4"))
    with HDF5IO(str(path), manager=manager(), mode="w", parallel_threshold=0) as io:
        file = io._file
        wrote(io, x=FromArray(NUMBERS, **SIZES), empty=empty)
        assert np.array_equal(file["x"], NUMBERS)
        assert file == io._file
        empty.dataset[:] = [1, 2, 3]
        wrote(io, z=FromArray(NUMBERS, **SIZES))
        assert empty.dataset[2] == 3
    with h5py.File(path) as file:
        assert file["empty"][:].tolist() == [1, 2, 3]
        assert np.array_equal(file["z"], NUMBERS)


def table(**columns: Any) -> DynamicTable:
    made = [VectorData(name=name, description=name, data=data) for name, data in columns.items()]
    return DynamicTable(name="root", description="Numbers", columns=made, id=list(range(60)))


def test_containers_are_appended_to_and_read(tmp_path: Path) -> None:
    path = str(tmp_path / "x.h5")
    with HDF5IO(path, manager=get_manager(), mode="w", parallel_threshold=0) as io:
        io.write(table(a=H5DataIO(NUMBERS, chunks=(10, 8)), ids=H5DataIO(np.arange(60), maxshape=(None,))))
    with HDF5IO(path, manager=get_manager(), mode="r+", parallel_threshold=0) as io:
        read = io.read()
        assert read.container_source == path
        assert read["a"].data.file.filename == path
        read.add_column(name="b", description="more", data=H5DataIO(FromArray(NUMBERS, **SIZES)))
        read["ids"].data[0] = 7
        io.write(read)
        # The containers that were read before still are of use.
        assert np.array_equal(read["a"].data, NUMBERS)
        read["ids"].data[1] = 8
    with HDF5IO(path, manager=get_manager(), mode="r") as io:
        read = io.read()
        assert read["ids"].data[:3].tolist() == [7, 8, 2]
        assert np.array_equal(read["b"].data, NUMBERS)
        with HDF5IO(str(tmp_path / "copy.h5"), mode="w", manager=get_manager()) as other:
            other.export(io, read)
        HDF5IO.export_io(path=str(tmp_path / "again.h5"), src_io=io)
    expected = without_specifications(path)
    assert without_specifications(tmp_path / "copy.h5") == expected
    assert without_specifications(tmp_path / "again.h5") == expected


def without_specifications(path: str | Path) -> dict[str, Any]:
    found = content(path, properties, without=(".specloc",))
    return {name: entry for name, entry in found.items() if not name.startswith("/specifications")}


# Links


def test_links_to_other_files(tmp_path: Path) -> None:
    """Names in links are relative to the folder of the final file."""
    (tmp_path / "raw").mkdir()
    raw = tmp_path / "raw" / "raw.h5"
    written(TheirIO, raw, NUMBERS)
    for kind, name in ((TheirIO, "theirs.h5"), (HDF5IO, "ours.h5")):
        with h5py.File(raw) as file, kind(str(tmp_path / name), manager=manager(), mode="w") as io:
            far = DatasetBuilder("x", NUMBERS, source=str(raw))
            far.location = "/g"
            builder = root(data=file["g/x"])
            builder.set_link(LinkBuilder(far, "group link", source=str(tmp_path / name)))
            io.write_builder(builder)
    for name in ("theirs.h5", "ours.h5"):
        with h5py.File(tmp_path / name) as file:
            for link in ("data", "group link"):
                assert file.get(link, getlink=True).filename == os.path.join("raw", "raw.h5")
                assert np.array_equal(file[link], NUMBERS)


def test_links_are_followed_in_a_copy(tmp_path: Path) -> None:
    written(TheirIO, tmp_path / "raw.h5", NUMBERS)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["link"] = h5py.ExternalLink("raw.h5", "/g/x")
    with HDF5IO(str(tmp_path / "x.h5"), manager=manager(), mode="a", parallel_threshold=0) as io:
        builder = io.read_builder()
        assert np.array_equal(builder["link"].builder.data, NUMBERS)
        assert builder["link"].builder.source == str(tmp_path / "raw.h5")
        # Elsewhere such a link looks broken: HDF5 must not take our file for the other one.
        assert io._file.get("link") is None
        wrote(io, y=FromArray(NUMBERS, **SIZES))
    with h5py.File(tmp_path / "x.h5") as file:
        assert np.array_equal(file["link"], file["y"])


def test_a_link_to_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    with HDF5IO(str(tmp_path / "a.h5"), manager=manager(), mode="w", parallel_threshold=0) as first:
        wrote(first, x=FromArray(NUMBERS, **SIZES))
        with HDF5IO(str(tmp_path / "b.h5"), manager=manager(), mode="w") as second:
            wrote(second, link=first._file["x"])
    with h5py.File(tmp_path / "b.h5") as file:
        assert np.array_equal(file["link"], NUMBERS)


def test_a_link_to_the_file_that_is_replaced_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "x.h5")
    written(TheirIO, Path(path), NUMBERS)
    with h5py.File(path) as old:
        with (
            pytest.raises(ArgumentError, match="link_data=False"),
            HDF5IO(path, manager=manager(), mode="w") as io,
        ):
            wrote(io, x=old["g/x"])
        with HDF5IO(path, manager=manager(), mode="w") as io:
            wrote(io, x=H5DataIO(old["g/x"], link_data=False))
    with h5py.File(path) as file:
        assert np.array_equal(file["x"], NUMBERS)


def require_in_first_page(path: Path) -> None:
    assert page_nbytes(path) >= 1 << 16
    assert metadata_end(path) <= page_nbytes(path)


@pytest.mark.parametrize("case", ["ours", "array", "stream", "stream of known length", "memory map", "dask"])
def test_a_file_for_the_cloud(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ours, theirs = tmp_path / "ours.h5", tmp_path / "theirs.h5"
    written(HDF5IO, ours, PARALLEL[case](), parallel_threshold=0, layout="cloud")
    written(TheirIO, theirs, PARALLEL[case]())
    assert content(ours, properties) == content(theirs, properties)
    require_in_first_page(ours)
    assert sorted(set(os.listdir(tmp_path)) - {"map.bin"}) == ["ours.h5", "theirs.h5"]


def test_a_file_for_the_cloud_with_an_index_larger_than_the_smallest_page(tmp_path: Path) -> None:
    path, data = tmp_path / "x.h5", np.arange(40_000, dtype="i4").reshape(-1, 2)
    written(HDF5IO, path, H5DataIO(data, chunks=(2, 2), compression="gzip"), parallel_threshold=0, layout="cloud")
    assert page_nbytes(path) > 1 << 16
    require_in_first_page(path)
    dcio.to_hdf5(path, "/more", data, chunks=(200, 2), progress=False)
    require_in_first_page(path)


@pytest.mark.parametrize("mode", ["w", "w-", "x", "a"])
def test_small_data_for_the_cloud(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with HDF5IO(str(path), manager=manager(), mode=mode, layout="cloud") as io:
        wrote(io, x=NUMBERS)
        wrote(io, y=H5DataIO(NUMBERS, chunks=(10, 8)))
    require_in_first_page(path)
    with h5py.File(path) as file:
        assert np.array_equal(file["x"], NUMBERS)
        assert np.array_equal(file["y"], NUMBERS)


def test_an_existing_file_keeps_its_layout(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    written(HDF5IO, path, NUMBERS)
    with pytest.raises(ArgumentError, match="layout='cloud' is chosen when a file is created"):
        HDF5IO(str(path), manager=manager(), mode="a", layout="cloud")

    class ForTheCloud(HDF5IO):
        write_options = WriteOptions(layout="cloud", parallel_threshold=0)

    with ForTheCloud(str(path), manager=manager(), mode="r+") as io:
        wrote(io, y=FromArray(NUMBERS, **SIZES))
    with h5py.File(path) as file:
        assert not is_paged(file)
        assert np.array_equal(file["y"], NUMBERS)
    written(ForTheCloud, path, FromArray(NUMBERS, **SIZES))
    require_in_first_page(path)
    with pytest.raises(ArgumentError, match="did you mean 'cloud'"):
        HDF5IO(str(path), manager=manager(), mode="w", layout="clod")


def test_a_failed_write_for_the_cloud_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with pytest.raises(SourceError, match="microscope"):
        written(HDF5IO, path, failing(), parallel_threshold=0, layout="cloud")
    data = FromArray(NUMBERS, **SIZES)
    written(HDF5IO, path, data, parallel_threshold=0, layout="cloud", resume=True)
    require_in_first_page(path)
    with h5py.File(path) as file:
        assert np.array_equal(file["g/x"], NUMBERS)
