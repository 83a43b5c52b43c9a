"""What a new user gets wrong: each call ends in one error of ours, which says what to do, and touches nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pandas
import pytest
from dask.delayed import delayed

from dask_chunkio import GenericDataChunkIterator, discard, plan, recover, status, to_hdf5, verify
from dask_chunkio.errors import ArgumentError, ArgumentTypeError, ChunkIOError, SourceError, TargetError
from dask_chunkio.errors import TargetBusyError as Busy
from dask_chunkio.errors import TargetExistsError as Exists

DATA = np.arange(200, dtype="i4").reshape(20, 10)


class Frames(GenericDataChunkIterator):
    def _get_data(self, selection: tuple[slice, ...]) -> Any:
        return DATA[selection]

    def _get_maxshape(self) -> tuple[int, ...]:
        return DATA.shape

    def _get_dtype(self) -> np.dtype[Any]:
        return DATA.dtype


class Failing(Frames):
    def _get_maxshape(self) -> tuple[int, ...]:
        raise OSError("no such recording")


class Gone:
    """Its device is gone."""

    dtype = "i4"

    @property
    def shape(self) -> Any:
        raise OSError("gone")

    def __getitem__(self, selection: Any) -> Any:
        return DATA[selection]


class Shapeless(Gone):
    shape = None


class Coo:
    """As packages of sparse arrays have it."""

    shape, dtype = DATA.shape, DATA.dtype

    def __getitem__(self, selection: Any) -> Any:
        raise RuntimeError("cannot be made dense by itself")

    def todense(self) -> Any:
        return DATA


class Quantity(np.ndarray):
    """As astropy has it."""

    unit = "mV"


Quantity.__module__ = "astropy.units.quantity"


class Tensor:
    """As torch has it."""

    shape, dtype = DATA.shape, SimpleNamespace()

    def __getitem__(self, selection: Any) -> Any:
        return DATA[selection]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what mistakes are made with."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "folder").mkdir()
    (folder / "text.txt").write_text("hello")
    with h5py.File(folder / "there.h5", "w") as file:
        file["x"] = DATA
        file.create_group("group")
        file.create_dataset("limited", data=DATA, maxshape=(30, 10), chunks=(5, 10))
        file.create_dataset("endless", data=DATA, maxshape=(None, None), chunks=(5, 10))
        file.create_dataset("rows", data=DATA, maxshape=(None, 10), chunks=(5, 10))
    return folder


def closed() -> h5py.Dataset:
    with h5py.File("there.h5") as file:
        return file["x"]


def write(**keywords: Any) -> Any:
    return to_hdf5("out.h5", "/x", DATA, **keywords)


def of(source: Any) -> Any:
    return to_hdf5("out.h5", "/x", source)


def named(name: Any) -> Any:
    return to_hdf5("out.h5", name, DATA)


def at(path: Any) -> Any:
    return to_hdf5(path, "/x", DATA)


def into(name: str, source: Any = DATA, **keywords: Any) -> Any:
    return to_hdf5("there.h5", name, source, **keywords)


Wrong, Type = ArgumentError, ArgumentTypeError
MISTAKES: list[tuple[Callable[[], Any], type[ChunkIOError], str]] = [
    # Names of types
    (lambda: write(dtype="flaot32"), Type, "/x: dtype='flaot32' is not one of numpy's"),
    (lambda: write(dtype="i3"), Type, "/x: dtype='i3'"),
    (lambda: write(dtype=object), Type, "/x: "),
    # Shapes
    (lambda: write(chunks=(100, 10)), Wrong, "/x: .*Chunk shape must not be greater"),
    (lambda: write(chunks=(0, 10)), Wrong, r"/x: chunks=\(0, 10\) has a length below 1"),
    (lambda: write(chunks=(-1, 10)), Wrong, r"/x: chunks=\(-1, 10\) has a length below 1"),
    (lambda: write(chunks=(5,)), Wrong, r"/x: chunks=\(5,\) has 1 axes, the source 2"),
    (lambda: write(chunks=(2.5, 10)), Type, "/x: chunks=.* is not a tuple of whole numbers"),
    (lambda: write(chunks="big"), Type, "/x: chunks='big' is not a tuple"),
    (lambda: write(chunks=((10, 10), (10,))), Type, "/x: chunks=.* is not a tuple"),
    (lambda: write(chunks=None), Wrong, "/x: chunks=None .*use 'auto' or a tuple"),
    (lambda: write(chunks=(5, 10), buffer_shape=(7, 10)), Wrong, "/x: buffer shape .*Use a multiple of 5"),
    (lambda: write(chunks=(5, 10), buffer_shape=(5,)), Wrong, "/x: buffer shape .* has 1 axes"),
    (lambda: write(maxshape=(5, 10)), Wrong, r"/x: maxshape=\(5, 10\) allows 5 along axis 0, but the source has 20"),
    (lambda: write(maxshape=(None,)), Wrong, r"/x: maxshape=\(None,\) has 1 axes, the source 2"),
    (lambda: write(maxshape="None"), Type, "/x: maxshape='None' has 'None' along axis 0; give a length, or None"),
    (lambda: write(maxshape=(-1, 10)), Type, r"/x: maxshape=\(-1, 10\) has -1 along axis 0"),
    # Filters
    (lambda: write(compression="gzp"), Wrong, "/x: compression='gzp' is not known; known are .*gzip"),
    (lambda: write(compression="GZIP"), Wrong, "/x: compression='GZIP' is not known"),
    (lambda: write(compression=["gzip"]), Type, "/x: compression=.'gzip'. is not the name or number of one filter"),
    (lambda: write(compression=99999), Wrong, "/x: "),
    (lambda: write(compression=-1), Wrong, "/x: "),
    (lambda: write(compression_opts=4), Type, "/x: .*Compression method must be specified"),
    (lambda: write(compression="gzip", compression_opts=42), Wrong, "/x: .*0-9, not 42"),
    (lambda: write(compression="gzip", compression_opts="4"), Wrong, "/x: .*0-9, not '4'"),
    (lambda: write(compression="lzf", compression_opts=4), Wrong, "/x: .*LZF.* no options"),
    (lambda: write(compression="szip", compression_opts=("nn", 7)), Wrong, "/x: .*SZIP"),
    (lambda: write(compression="zstd", compression_opts="high"), Type, "/x: compression_opts='high' is not one"),
    (lambda: to_hdf5("out.h5", "/x", DATA * 1.0, scaleoffset=True), Wrong, "/x: .*scaleoffset must be provided"),
    (lambda: to_hdf5("out.h5", "/x", DATA * 1.0, scaleoffset=-3), Wrong, "/x: .*scale factor must be >= 0"),
    (lambda: write(shuffle="no"), Type, "/x: shuffle is 'no' of type str; it must be True or False"),
    (lambda: write(fillvalue="none"), Type, "/x: "),
    (lambda: write(fill_time="sometimes"), Wrong, "/x: .*fill_time"),
    (lambda: write(track_times="yes"), Type, "/x: .*track_times"),
    # Names of datasets
    (lambda: named(None), Type, "give a name and a source"),
    (lambda: named(b"/x"), Type, "give a name and a source"),
    (lambda: named(""), Wrong, "'' cannot be the name of a dataset"),
    (lambda: named("/"), Wrong, "'/' cannot be the name"),
    (lambda: named("../x"), Wrong, "'../x' cannot be the name"),
    (lambda: named("/a\0b"), Wrong, "cannot be the name"),
    (lambda: named("/\udcff"), Wrong, "cannot be the name"),
    (lambda: to_hdf5("out.h5", {1: DATA}), Type, "the name of a dataset is a str, not 1"),
    (lambda: to_hdf5("out.h5", {"/x": DATA, "x/": DATA}), Wrong, "/x is given twice"),
    (lambda: to_hdf5("out.h5", {"/x/y": DATA, "/x": DATA}), Wrong, "/x is a dataset of this call, so /x/y cannot"),
    (lambda: to_hdf5("out.h5", {}), Wrong, "no datasets were given"),
    (lambda: to_hdf5("out.h5", "/x"), Type, "give a name and a source"),
    (lambda: to_hdf5("out.h5", DATA), Type, "give a name and a source"),
    (lambda: to_hdf5("out.h5", DATA, "/x"), Type, "give a name and a source"),
    (lambda: to_hdf5("out.h5", "/x", data=DATA), Type, "give a name and a source"),  # type: ignore[call-overload]
    # Names of files
    (lambda: at(None), Type, "filename is a NoneType, not a path"),
    (lambda: at(3), Type, "filename is a int, not a path"),
    (lambda: at(b"out.h5"), Type, "filename is a bytes, not a path"),
    (lambda: at(""), Wrong, "filename is '', which names no file"),
    (lambda: at("out\0.h5"), Wrong, "names no file"),
    (lambda: at("out/"), Wrong, "filename is 'out/', which names a folder; give the name of a file"),
    (lambda: at("s3://bucket/out.h5"), Wrong, "s3://bucket/out.h5 is a URL, .*copy that there when it is whole"),
    (lambda: at(Path("gs://bucket/out.h5")), Wrong, "gs:/bucket/out.h5 is a URL"),
    (lambda: at("https://host/out.h5"), Wrong, "is a URL"),
    (lambda: at("file:///tmp/out.h5"), Wrong, "is a URL"),
    (lambda: at("folder"), TargetError, "folder: it is a directory; give the name of a file"),
    (lambda: at("no/such/out.h5"), TargetError, "there is no folder .*no/such; create it first"),
    (lambda: at("text.txt"), Exists, "text.txt exists and is not an HDF5 file; choose another name"),
    (lambda: at("text.txt/out.h5"), TargetError, "there is no folder .*text.txt"),
    (lambda: at("o" * 300 + ".h5"), TargetError, "File name too long"),
    (lambda: at("there.h5"), Exists, "already has /x; pass overwrite=True to replace it"),
    (lambda: into("/x/y"), Exists, "has /x, which is not a group"),
    (lambda: into("/group", overwrite=True), Exists, "/group, which is not a dataset"),
    # Parts of datasets
    (lambda: into("/rows", region=np.s_[0:5]), Wrong, "/rows: region 0:5 along axis 0 has 5 elements, the source 20"),
    (lambda: into("/rows", DATA[0], region=3), Wrong, "/rows has 2 axes, the source 1"),
    (lambda: into("/rows", region="0:5"), Type, "/rows: region is '0:5' along axis 0; give a slice"),
    (lambda: into("/none", region=...), TargetError, "has no dataset /none"),
    (lambda: into("/x", append=True), Wrong, "/x: append=True, but no axis can grow. Only .* with region="),
    (lambda: into("/limited", append=True), Wrong, r"/limited: append=True, but no axis .* without end; .* append=0"),
    (lambda: into("/limited", append=0), Wrong, "/limited can grow to 30 along axis 0, .*; append less"),
    (lambda: into("/endless", append=True), Wrong, r"/endless: append=True, but axes \[0, 1\] can all .* append=0"),
    (lambda: into("/rows", append=5), Type, "/rows: append=5 is neither True nor one of 2 axes"),
    (lambda: into("/rows", DATA[:, :5], append=True), Wrong, "/rows is 10 along axis 1, the source 5"),
    (lambda: into("/rows", append=True, compression="lzf"), Wrong, "/rows exists, .* no filters, .* would have .* lzf"),
    # Sources
    (lambda: of(None), Type, "/x: cannot write a NoneType"),
    (lambda: of("data.npy"), Type, r"/x: cannot write a str: a file is not opened here; give numpy.load\(path"),
    (lambda: of(Path("data.npy")), Type, "/x: cannot write a .*Path: a file is not opened here"),
    (lambda: of({"a": DATA}), Type, "/x: cannot write a dict"),
    (lambda: of([[1], [2, 3]]), Type, "/x: cannot write a list"),
    (lambda: of(lambda: iter([1])), Type, "/x: cannot write a function"),
    (lambda: of(Frames), Type, "/x: cannot write a .*: it is a class; give an object of it"),
    (lambda: of(closed()), Type, "/x: cannot write a Dataset: its file is closed; keep the h5py.File open"),
    (lambda: of(pandas.DataFrame(DATA)), Type, "/x: cannot write a DataFrame: a table has no single dtype"),
    (lambda: of(pandas.Series([1, None], dtype="Int64")), Type, r"/x: .*Int64.* is not one of numpy's; .*to_numpy\(\)"),
    (lambda: of(Tensor()), Type, r"/x: the source's dtype .* is not one of numpy's; .*\.numpy\(\)"),
    (lambda: of(Coo()), Type, "/x: cannot write a Coo: a sparse array"),
    (lambda: of(DATA.view(Quantity)), Type, "/x: cannot write a Quantity: its unit would be lost"),
    (lambda: of(Gone()), SourceError, "/x: a Gone does not say its shape and dtype: OSError: gone"),
    (lambda: of(Shapeless()), SourceError, "/x: a Shapeless does not say its shape"),
    (lambda: of(row for row in DATA), Type, "/x: generator returned a ndarray, not a DataChunk"),
    (lambda: of(np.array([1, "a"], object)), Type, "/x: "),
    (lambda: of(np.array(["a", "b"])), Type, "/x: "),
    (lambda: of(da.from_array(DATA)[da.from_array(DATA) > 3]), Wrong, r"/x: .*compute_chunk_sizes\(\)"),
    (lambda: of(delayed(lambda: DATA)()), ChunkIOError, "/x: "),
    (lambda: to_hdf5("out.h5", "/x", DATA * 1.5, dtype="i4"), Type, "/x: .*float64 .*int32"),
    (lambda: of(Frames(buffer_gb=0)), Wrong, "buffer_gb is 0; it must be greater than zero"),
    (lambda: of(Frames(chunk_shape=(30, 10))), Wrong, r"chunk_shape \(30, 10\) is 30 along axis 0"),
    # Everything else
    (lambda: write(compresion="gzip"), Type, "/x: unknown keyword 'compresion'; did you mean 'compression'"),
    (lambda: write(mode="w"), Type, "/x: unknown keyword 'mode'"),
    (lambda: write(encoding={"/y": {}}), Wrong, "encoding= names /y, but the datasets are /x"),
    (lambda: write(encoding="gzip"), Type, "encoding= is a mapping of the names of datasets to their keywords"),
    (lambda: write(encoding={"/x": None}), Type, "encoding= is a mapping .*it has None for '/x'"),
    (lambda: write(encoding={"compression": "gzip"}), Type, "encoding= is a mapping .*it has 'gzip' for 'compression'"),
    (lambda: write(attrs=["unit"]), Type, "/x: attrs=.'unit'. is not a mapping"),
    (lambda: write(attrs={"a": object()}), Type, "/x: attribute 'a'"),
    (lambda: write(read="parallel"), Wrong, "/x: read='parallel' is not one of"),
    (lambda: write(libver="bad"), Wrong, "libver='bad' is not one of h5py's: 'earliest', 'latest', one of 'v108'"),
    (lambda: write(libver=("latest", "earliest")), Wrong, "libver=.* the older first"),
    (lambda: write(durability="powr"), Wrong, "durability='powr' is not one of 'process', 'power'"),
    (lambda: write(scheduler="thread"), Wrong, "scheduler='thread' is not known to dask"),
    (lambda: write(memory_limit="lots"), Wrong, "memory_limit='lots' is not a size"),
    (lambda: write(callback=3), Type, "callback=3 is not callable"),
    (lambda: write(progress="yes"), Type, "progress is 'yes' of type str; it must be True or False"),
    (lambda: into("/x", overwrite="no"), Type, "overwrite is 'no' of type str; it must be True or False"),
    (lambda: write(compute_kwargs=3), Type, "compute_kwargs is 3 of type int; it must be a mapping"),
    (lambda: status(None), Type, "path is a NoneType, not a path"),  # type: ignore[arg-type]
    (lambda: verify("none.h5"), TargetError, "there is no file .*none.h5"),
    (lambda: verify("folder"), TargetError, "folder is a directory, not an HDF5 file"),
    (lambda: verify("text.txt"), TargetError, "text.txt cannot be opened as an HDF5 file"),
    (lambda: recover("none.h5"), TargetError, "there is no unfinished write of none.h5"),
    (lambda: discard("s3://bucket/out.h5"), Wrong, "is a URL"),
    (lambda: plan("s3://bucket/out.h5", "/x", DATA), Wrong, "is a URL"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "kind", "words"), MISTAKES, ids=[f"{n}-{words}" for n, (*_, words) in enumerate(MISTAKES)]
)
def test_a_mistake(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any], kind: type[ChunkIOError], words: str
) -> None:
    monkeypatch.chdir(folder)
    before = {name: Path(name).stat().st_mtime_ns for name in os.listdir()}
    with pytest.raises(kind, match=f"(?s){words}") as caught:
        call()
    assert type(caught.value).__module__ == "dask_chunkio.errors"
    assert "Traceback" not in str(caught.value)
    assert not getattr(caught.value, "__notes__", ()), "nothing is kept"
    assert {name: Path(name).stat().st_mtime_ns for name in os.listdir()} == before


def test_an_iterator_that_cannot_be_made_says_why_itself() -> None:
    with pytest.raises(OSError, match="no such recording"):
        Failing()


def test_a_file_that_this_script_has_open(target: Path) -> None:
    with h5py.File(target, "w") as file:
        file["old"] = DATA
        both: list[dict[str, Any]] = [{}, {"region": ...}]
        for keywords in both:
            with pytest.raises(Busy, match="this process has it open itself with h5py; close that File"):
                to_hdf5(target, "/new" if not keywords else "/old", DATA, scheduler="threads", **keywords)
    assert os.listdir(target.parent) == [target.name]


def test_a_file_that_another_program_has_open(target: Path) -> None:
    script = "import h5py, sys; f = h5py.File(sys.argv[1], 'w'); f['old'] = 1; f.flush(); print('open'); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(Busy, match="another program has it open; close it there") as caught:
            to_hdf5(target, "/new", DATA, scheduler="threads")
        other.communicate("\n")
    assert not hasattr(caught.value, "__notes__")


def test_a_folder_that_may_not_be_written(bound_folder: Path) -> None:
    bound_folder.chmod(0o500)
    with pytest.raises(TargetError, match="Permission denied"):
        to_hdf5(bound_folder / "out.h5", "/x", DATA)


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME" if os.name != "nt" else "USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert to_hdf5("~/out.h5", "/ümlaut/x y", DATA).path == str(tmp_path / "out.h5")
    assert verify("~/out.h5").ok
    assert status("~/out.h5") is None
    assert discard("~/out.h5") is None
    assert os.listdir() == ["out.h5"]


def test_a_dataset_in_another_one_is_named_wherever_it_is_given(tmp_path: Path) -> None:
    for names in (("/a/b/c/d", "/a/b"), ("/a/b", "/a/b/c/d")):
        with pytest.raises(Wrong, match="/a/b is a dataset of this call, so /a/b/c/d cannot be in it"):
            to_hdf5(tmp_path / "out.h5", dict.fromkeys(names, DATA))
    to_hdf5(tmp_path / "out.h5", {"/a/b": DATA, "/a/bc/d": DATA, "/a/c/d": DATA}, progress=False)
