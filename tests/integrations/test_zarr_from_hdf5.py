"""Whole HDF5 files as zarr stores, read by zarr and by xarray."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
import xarray as xr
import zarr

import dask_chunkio as dcio
from dask_chunkio import errors
from dask_chunkio.integrations.zarr.compat import quiet
from dask_chunkio.integrations.zarr.records import Conversion
from dask_chunkio.storage.store_folder import StoreFolder
from tests.support.processes import run_python

RNG = np.random.default_rng(7)
FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


def converted(tmp_path: Path, **keywords: Any) -> tuple[Conversion, Any]:
    result = dcio.convert(tmp_path / "in.h5", tmp_path / "out.zarr", **keywords)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5", "out.zarr"]
    return result, zarr.open_group(tmp_path / "out.zarr", mode="r")


def numbers(dtype: Any, shape: tuple[int, ...] = (25, 12)) -> Any:
    return RNG.integers(0, 100, shape).astype(dtype)


FILTERS: dict[str, tuple[dict[str, Any], bool]] = {
    "none": ({}, True),
    "gzip": ({"compression": "gzip", "compression_opts": 7}, True),
    "all": ({"compression": "gzip", "shuffle": True, "fletcher32": True}, True),
    "fletcher32": ({"fletcher32": True}, True),
    "zstd": (dict(hdf5plugin.Zstd(clevel=4)), True),
    "zstd-shuffle": ({"compression": 32015, "compression_opts": (2**32 - 3,), "shuffle": True}, True),
    "blosc": (dict(hdf5plugin.Blosc("lz4", 5)), True),
    "blosc-zstd": (dict(hdf5plugin.Blosc("zstd", 2, shuffle=hdf5plugin.Blosc.BITSHUFFLE)), True),
    "lzf": ({"compression": "lzf", "shuffle": True}, False),
    "szip": ({"compression": "szip"}, False),
    "scaleoffset": ({"scaleoffset": 0}, False),
    "bitshuffle": (dict(hdf5plugin.Bitshuffle()), False),
    "lz4": (dict(hdf5plugin.LZ4()), False),
}


@FORMATS
@pytest.mark.parametrize("dtype", ["<i4", ">f8"])
@pytest.mark.parametrize("name", FILTERS)
def test_filters(tmp_path: Path, zarr_format: Any, dtype: str, name: str) -> None:
    options, is_copied = FILTERS[name]
    if name == "scaleoffset" and dtype == ">f8":
        options = {"scaleoffset": 3}
    data = numbers(dtype)
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("g/x", data=data, chunks=(10, 5), **options)
    result, root = converted(tmp_path, zarr_format=zarr_format)
    assert [one.is_copied for one in result.arrays] == [is_copied]
    array = root["g/x"]
    assert array.metadata.zarr_format == zarr_format
    assert (array.shape, array.chunks) == (data.shape, (10, 5))
    assert np.array_equal(array[...], data)
    with h5py.File(tmp_path / "in.h5") as file:
        for cell in np.ndindex(3, 3):
            _, payload = file["g/x"].id.read_direct_chunk((cell[0] * 10, cell[1] * 5))
            stored = (tmp_path / "out.zarr/g/x" / array.metadata.encode_chunk_key(cell)).read_bytes()
            assert (stored == payload) == is_copied


@FORMATS
def test_chunks_that_cannot_be_copied_are_encoded(tmp_path: Path, zarr_format: Any) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        found = file.create_dataset("x", (50,), "i4", chunks=(10,), compression="gzip", fillvalue=3)
        found.id.write_direct_chunk((20,), np.arange(20, 30, dtype="i4").tobytes(), 1)
        found[:20] = np.arange(20)
    expected = np.concatenate([np.arange(30), np.full(20, 3)])
    result, root = converted(tmp_path, zarr_format=zarr_format)
    assert result.arrays[0].is_copied
    assert np.array_equal(root["x"][...], expected)
    assert root["x"].fill_value == 3
    assert root["x"].nchunks_initialized == 3


@FORMATS
@pytest.mark.parametrize(
    "data",
    [
        np.float32(2.5),
        np.arange(6, dtype=">i2"),
        np.zeros((0, 3), "i4"),
        np.array([True, False]),
        np.array([1 + 2j]),
        np.array([b"a", b"bcd"]),
        np.array([(1, 2.5, b"a")], "<i4,<f8,S3"),
        np.array([(1, 2.5)], ">i4,<f8"),
        np.array([(1, 2)], np.dtype({"names": ["a", "b"], "formats": ["i1", "i4"], "offsets": [0, 8]})),
        np.array([1], "f2"),
        np.void(b"opaque"),
    ],
    ids=lambda data: str(data.dtype),
)
def test_elements(tmp_path: Path, zarr_format: Any, data: Any) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("x", data=data)
        if np.ndim(data) and np.size(data):
            file.create_dataset("chunked", data=data, chunks=(1,), compression="gzip")
    _, root = converted(tmp_path, zarr_format=zarr_format)
    for name in root:
        found = np.asarray(root[name][...])
        assert found.shape == np.shape(data)
        assert found.tolist() == data.tolist()


@FORMATS
def test_texts(tmp_path: Path, zarr_format: Any) -> None:
    texts = ["", "a", "µ€" * 50, "x"]
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["scalar"] = "hello"
        file["texts"] = texts
        file.create_dataset("chunked", data=texts * 10, dtype=h5py.string_dtype(), chunks=(7,), compression="gzip")
        file.create_dataset("never", (9,), dtype=h5py.string_dtype(), chunks=(7,))
    result, root = converted(tmp_path, zarr_format=zarr_format)
    assert not any(one.is_copied for one in result.arrays)
    assert str(root["scalar"][()]) == "hello"
    assert root["texts"][...].tolist() == texts
    assert root["chunked"][...].tolist() == texts * 10
    assert root["never"][...].tolist() == [""] * 9


def test_a_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("x", data=[b"\xff"], dtype=h5py.string_dtype("ascii"))
    with pytest.raises(errors.SourceError, match="/x: a string is not UTF-8"):
        converted(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5"]


@FORMATS
def test_enumerations_come_back(tmp_path: Path, zarr_format: Any) -> None:
    kind = h5py.enum_dtype({"RED": 0, "GREEN": 1}, "i1")
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("x", data=np.array([0, 1, 1], "i1"), dtype=kind, chunks=(2,), compression="gzip")
    result, root = converted(tmp_path, zarr_format=zarr_format)
    assert result.arrays[0].is_copied
    assert root["x"][...].tolist() == [0, 1, 1]
    assert root["x"].attrs["dask_chunkio_enum"] == {"RED": 0, "GREEN": 1}
    dcio.convert(tmp_path / "out.zarr", tmp_path / "back.h5", progress=False)
    with h5py.File(tmp_path / "back.h5") as file:
        assert h5py.check_enum_dtype(file["x"].dtype) == {"RED": 0, "GREEN": 1}
        assert dict(file["x"].attrs) == {}


def test_what_zarr_cannot_have(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["y"] = [1]
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["g/good"] = np.arange(5)
        file["empty"] = h5py.Empty("f4")
        file["references"] = np.array([file["g"].ref], h5py.ref_dtype)
        file.create_dataset("various", (3,), h5py.vlen_dtype("i4"))
        file.create_dataset("of arrays", (3,), np.dtype("(2,)i4"))
        file["compound"] = np.array([(1, "a")], [("n", "i4"), ("text", h5py.string_dtype())])
        file["matrices"] = np.zeros(2, [("m", "f4", (2, 2))])
        file["soft"] = h5py.SoftLink("/g/good")
        file["dangling"] = h5py.SoftLink("/nowhere")
        file["external"] = h5py.ExternalLink("other.h5", "/y")
        file["hard"] = file["g/good"]
        file["circle"] = file["/"]
        file["type"] = np.dtype("f8")
        file["zarr.json"] = 1
        file["__reserved"] = 1
        file["a\\b"] = 1
        file["long" * 100] = 1
        file["g"].attrs["reference"] = file["g"].ref
        file["g"].attrs["compound"] = np.array([(1,)], [("n", "i4")])
        file["g"].attrs["complex"] = 1j
        file["g"].attrs["_ARRAY_DIMENSIONS"] = ["x"]
    (tmp_path / "other.h5").unlink()
    with pytest.raises(errors.SourceError, match=r"of its objects cannot be converted.*skip_unsupported=True"):
        converted(tmp_path)
    assert not (tmp_path / "out.zarr").exists()
    result, root = converted(tmp_path, skip_unsupported=True)
    skipped = {one.name: one.reason for one in result.skipped}
    names = "empty references various compound matrices soft dangling external hard circle type zarr.json __reserved"
    attributes = ["/g@reference", "/g@compound", "/g@complex", "/g@_ARRAY_DIMENSIONS"]
    expected = {*(f"/{name}" for name in (*names.split(), "a\\b", "long" * 100, "of arrays")), *attributes}
    assert expected == skipped.keys()
    assert "is another name of" in skipped["/circle"]
    assert "is a link to /y of the file other.h5" in skipped["/external"]
    assert sorted(root["g"].keys()) == ["good"]
    assert not (tmp_path / "out.zarr" / "__reserved").exists()


def test_no_name_leads_out_of_the_store(tmp_path: Path) -> None:
    """A name in HDF5 may be that of the folder above."""
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["zz"] = np.arange(3)
        file["!/zz"] = np.arange(3)
    whole = (tmp_path / "in.h5").read_bytes()
    assert whole.count(b"zz\0") == 2
    (tmp_path / "in.h5").write_bytes(whole.replace(b"zz\0", b"..\0"))
    result, _ = converted(tmp_path, skip_unsupported=True)
    assert [(one.name, one.reason) for one in result.skipped] == [
        (name, "zarr does not allow this name") for name in ("/..", "/!/..")
    ]


@FORMATS
def test_virtual_external_and_unfiltered_data_are_read(tmp_path: Path, zarr_format: Any) -> None:
    data = numbers("i4")
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["x"] = data
        layout = h5py.VirtualLayout(data.shape, "i4")
        layout[...] = h5py.VirtualSource(file["x"])
        file.create_virtual_dataset("virtual", layout)
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        file.create_dataset("compact", data=data[:2], dcpl=plist)
    _, root = converted(tmp_path, zarr_format=zarr_format)
    assert np.array_equal(root["virtual"][...], data)
    assert np.array_equal(root["compact"][...], data[:2])


def winds() -> xr.Dataset:
    found = xr.Dataset(
        {
            "wind": (("time", "x"), RNG.random((30, 8)).astype("f4"), {"units": "m/s", "levels": [1, 2]}),
            "count": (("time",), np.arange(30)),
            "label": (("x",), np.array(list("abcdefgh"), object)),
            "quality": (("time", "level"), numbers("i1", (30, 3))),
            "height": ((), 2.0),
        },
        coords={"time": np.arange(30), "x": np.arange(8.0)},
        attrs={"title": "winds", "count": 3, "scale": 2.5},
    )
    found["wind"][3, 3] = np.nan
    return found


@FORMATS
def test_xarray_reads_both_alike(tmp_path: Path, zarr_format: Any) -> None:
    encoding: dict[str, Any] = {
        "wind": {"chunksizes": (10, 8), "zlib": True, "shuffle": True},
        "count": {"_FillValue": 7},
    }
    winds().to_netcdf(tmp_path / "in.h5", engine="h5netcdf", encoding=encoding)
    winds().isel(time=slice(4)).to_netcdf(tmp_path / "in.h5", engine="h5netcdf", group="g/h", mode="a")
    result, root = converted(tmp_path, zarr_format=zarr_format)
    assert not result.notes
    assert set(root) == {"wind", "count", "label", "quality", "height", "time", "x", "g"}
    assert {one.name: one.is_copied for one in result.arrays}["/wind"]
    for group in (None, "g/h"):
        with (
            xr.open_zarr(tmp_path / "out.zarr", group=group, consolidated=zarr_format == 2) as ours,
            xr.open_dataset(tmp_path / "in.h5", group=group, engine="h5netcdf") as theirs,
        ):
            xr.testing.assert_identical(theirs.load(), ours.load())


@FORMATS
def test_chosen_filters(tmp_path: Path, zarr_format: Any) -> None:
    data = numbers("i4")
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("x", data=data, chunks=(10, 5), compression="gzip")
        file.create_dataset("same", data=data, chunks=(10, 5), shuffle=True, **hdf5plugin.Zstd(clevel=3))
        file["contiguous"] = data
    result, root = converted(tmp_path, zarr_format=zarr_format, compression="zstd", compression_opts=3, shuffle=True)
    assert {one.name: one.is_copied for one in result.arrays} == {"/x": False, "/same": True, "/contiguous": False}
    for name in root:
        assert np.array_equal(root[name][...], data)
        assert "Zstd" in repr(root[name].compressors[-1])
    with pytest.raises(errors.ArgumentError, match="zarr has no codecs that are equal to the filters lzf"):
        converted(tmp_path, overwrite=True, compression="lzf")


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        found = file.create_dataset("x", data=np.arange(100), chunks=(10,), compression="gzip")
        found.id.write_direct_chunk((20,), b"damaged!")
    with pytest.raises(errors.IntegrityError, match=r"in\.h5, /x: the chunk at \(20,\) \(8 bytes from \d+ on\)"):
        converted(tmp_path)
    with h5py.File(tmp_path / "in.h5", "r+") as file:
        file["x"].id.write_direct_chunk((20,), bytes(100_000))
    with pytest.raises(errors.IntegrityError, match="at most can be right"):
        converted(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5"]


def test_only_a_store_is_replaced(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["x"] = [1, 2, 3]
    (tmp_path / "out.zarr").mkdir()
    (tmp_path / "out.zarr/precious").write_text("kept")
    for overwrite in (False, True):
        with pytest.raises(errors.TargetExistsError):
            converted(tmp_path, overwrite=overwrite)
    assert (tmp_path / "out.zarr/precious").read_text() == "kept"
    (tmp_path / "out.zarr/zarr.json").write_text("{}")
    converted(tmp_path, overwrite=True)
    assert not (tmp_path / "out.zarr/precious").exists()


def test_what_a_killed_conversion_leaves_is_cleaned(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["x"] = [1, 2, 3]
    converted(tmp_path)
    # Killed between the two renames of a store that is replaced.
    left = tmp_path / "out.zarr.converting"
    left.mkdir()
    (left / "store").mkdir()
    (tmp_path / "out.zarr").rename(left / "old")
    with pytest.raises(errors.TargetExistsError):
        converted(tmp_path)
    _, root = converted(tmp_path, overwrite=True)
    assert root["x"][...].tolist() == [1, 2, 3]


def test_one_process_makes_a_store(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["x"] = [1, 2, 3]
    with StoreFolder(str(tmp_path / "out.zarr")) as folder:
        (Path(folder.store) / "zarr.json").write_text("{}")
        with pytest.raises(errors.TargetBusyError, match="another process is writing"):
            converted(tmp_path)
    assert (tmp_path / "out.zarr/zarr.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"target": "out.h5"}, "the name of one"),
        ({"target": "out.zarr.zip"}, "zip it when it is whole"),
        ({"scheduler": "threads"}, "scheduler= is for a conversion to HDF5"),
        ({"wait": True}, "wait= is for a conversion to HDF5"),
        ({"threads": 0}, "threads=0"),
        ({"threads": "two"}, "threads"),
        ({"target": "nowhere/out.zarr", "source": "nothing.h5"}, "cannot read .*nothing.h5 as zarr"),
    ],
)
def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keywords: dict[str, Any], words: str) -> None:
    monkeypatch.chdir(tmp_path)
    with h5py.File("in.h5", "w") as file:
        file["x"] = [1, 2, 3]
    if keywords.get("source") == "nothing.h5":
        keywords = {**keywords, "target": "out.h5"}
    with pytest.raises(errors.ChunkIOError, match=words):
        dcio.convert(**{"source": "in.h5", "target": "out.zarr", **keywords})
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5"]


@FORMATS
def test_datasets_that_grow(tmp_path: Path, zarr_format: Any) -> None:
    winds().to_netcdf(tmp_path / "in.h5", engine="h5netcdf", unlimited_dims=["time"], encoding={"wind": {"zlib": True}})
    result, root = converted(tmp_path, zarr_format=zarr_format)
    assert {one.name: one.is_copied for one in result.arrays}["/wind"]
    with (
        xr.open_zarr(tmp_path / "out.zarr", consolidated=zarr_format == 2) as ours,
        xr.open_dataset(tmp_path / "in.h5", engine="h5netcdf") as theirs,
    ):
        xr.testing.assert_identical(theirs.load(), ours.load())
    # In HDF5 a chunk may be longer than a dataset that grows.
    with h5py.File(tmp_path / "in.h5") as file:
        assert root["time"].chunks == file["time"].chunks


@FORMATS
def test_what_was_never_written_takes_no_space(tmp_path: Path, zarr_format: Any) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("contiguous", (1 << 40,), "f8", fillvalue=2)
        file.create_dataset("chunked", (1 << 40,), "f8", fillvalue=3, chunks=(1 << 20,), compression="gzip")
    _, root = converted(tmp_path, zarr_format=zarr_format)
    assert root["contiguous"][5:7].tolist() == [2, 2]
    assert root["chunked"][5:7].tolist() == [3, 3]
    assert sum(path.is_file() for path in (tmp_path / "out.zarr").rglob("*")) < 12


def test_netcdf_names_and_coordinates_of_two_axes(tmp_path: Path) -> None:
    h5netcdf: Any = pytest.importorskip("h5netcdf.legacyapi")
    with h5netcdf.Dataset(tmp_path / "in.h5", "w") as file:
        file.createDimension("x", 3)
        file.createDimension("y", 2)
        file.createDimension("unused", 7)
        file.createVariable("a", "f4", ("y", "x"))[...] = 1
        file.createVariable("y", "f4", ("y", "x"))[...] = 2
        file.number = 5
    result, root = converted(tmp_path)
    assert set(root) == {"a", "y"}
    assert root["a"].metadata.dimension_names == root["y"].metadata.dimension_names == ("y", "x")
    assert dict(root.attrs) == {"number": 5}
    (note,) = result.notes
    assert "/unused: no array beside it has this dimension" in note
    assert "length of 7" in note


def test_attributes_of_a_dimension_are_not_dropped(tmp_path: Path) -> None:
    winds().to_netcdf(tmp_path / "in.h5", engine="h5netcdf")
    with h5py.File(tmp_path / "in.h5", "r+") as file:
        file["level"].attrs["unit"] = "m"
    with pytest.raises(errors.SourceError, match="/level@unit"):
        converted(tmp_path)


def test_chunks_are_copied_without_their_plugin(tmp_path: Path) -> None:
    """HDF5 is not asked to decode them."""
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("x", data=np.arange(100), chunks=(10,), **hdf5plugin.Zstd())
    script = """
import sys
sys.modules["hdf5plugin"] = None
import dask_chunkio
print(dask_chunkio.convert(*sys.argv[1:]).arrays[0].is_copied)
"""
    done = run_python("-c", script, tmp_path / "in.h5", tmp_path / "out.zarr", check=True)
    assert done.stdout == "True\n"
    root: Any = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert root["x"][...].tolist() == list(range(100))


def test_what_zarr_writes_but_cannot_read_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["x"] = np.zeros(2, [("a", "f4"), ("inside", [("b", "i1"), ("c", "f8")])])
    for zarr_format in (2, 3):
        result, root = converted(tmp_path, zarr_format=zarr_format, overwrite=True, skip_unsupported=True)
        assert [one.name for one in result.skipped] == ([] if "x" in root else ["/x"])
        assert all(root[name].shape == (2,) for name in root)


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file.create_dataset("x", data=np.arange(100), chunks=(10,), compression="gzip")
        # The folders of zarr have room for the name of a group, but not for so long a path.
        group = file
        for _ in range(20):
            group = group.create_group("n" * 240)
    with pytest.raises(errors.TargetError, match=r"cannot write .*out\.zarr"):
        converted(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["in.h5"]


def test_the_old_store_gets_its_name_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["x"] = [1, 2, 3]
    converted(tmp_path)
    rename = os.rename

    def failing(source: str, target: str) -> None:
        if source.endswith("store"):
            raise OSError(errno.EIO, "the disk is gone")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(errors.TargetError, match=r"cannot give .*out\.zarr its name: the disk is gone"):
        converted(tmp_path, overwrite=True)
    root: Any = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert root["x"][...].tolist() == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5", "out.zarr"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in.h5", "w") as file:
        file["x"] = [1, 2, 3]
    (tmp_path / "file").touch()
    with pytest.raises(errors.TargetError, match=r"cannot write .*file/out\.zarr"):
        dcio.convert(tmp_path / "in.h5", tmp_path / "file" / "out.zarr")
    with pytest.raises(errors.TargetError, match=r"cannot write .*nowhere/out\.zarr"):
        dcio.convert(tmp_path / "in.h5", tmp_path / "nowhere" / "out.zarr")
    assert not (tmp_path / "nowhere").exists()
