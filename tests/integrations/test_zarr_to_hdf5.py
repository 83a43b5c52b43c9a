"""Whole zarr stores as HDF5 files, read by h5py and by xarray."""

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, TransposeCodec, ZstdCodec

import dask_chunkio as dcio
from dask_chunkio import errors
from dask_chunkio.integrations.zarr.compat import quiet
from dask_chunkio.integrations.zarr.records import Conversion

RNG = np.random.default_rng(5)
ATTRIBUTES: dict[str, Any] = {
    "text": "metres",
    "empty": "",
    "unicode": "µ€",
    "true": True,
    "int": 5,
    "negative": -5,
    "float": 2.5,
    "large": 2**63,
    "ints": [1, 2, 3],
    "one": [5],
    "floats": [1.5, 2.0],
    "mixed": [1, 2.5],
    "bools": [True, False],
    "texts": ["a", "bb", ""],
    "null": None,
    "object": {"a": {"b": [1, None]}},
    "nested": [[1, 2], [3, 4]],
    "nothing": [],
    "larger": 2**70,
    "too exact": [2**53 + 1, 0.5],
    "of both": [2**63, -1],
    "nul": "a\0b",
    "surrogate": "\ud800",
    "many": list(range(20_000)),
    "kinds": [1, "a", True],
    "bools and ints": [True, 2],
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


def converted(source: Any, tmp_path: Path, **keywords: Any) -> tuple[Conversion, Path]:
    out = tmp_path / "out.h5"
    return dcio.convert(source, out, progress=False, **keywords), out


def opened(tmp_path: Path) -> Any:
    return zarr.open_group(tmp_path / "in.zarr", mode="r")


def values(dtype: Any, shape: tuple[int, ...] = (7, 5)) -> Any:
    dtype = np.dtype(dtype)
    if dtype.names is not None:
        found = np.zeros(shape, dtype)
        for name in dtype.names:
            found[name] = values(dtype[name], shape)
        return found
    numbers = RNG.integers(0, 100, shape)
    if dtype.kind in "SU":
        return numbers.astype(dtype)
    return numbers.astype("i8").view("V8").astype(dtype) if dtype.kind == "V" else numbers.astype(dtype)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    "dtype", ["i1", "<u2", ">i4", "u8", "f2", ">f4", "f8", "c8", ">c16", "bool", "S6", "U6", "V8", "i4,S3,f8"]
)
def test_types(tmp_path: Path, zarr_format: Any, dtype: str) -> None:
    data = values(dtype)
    with quiet():
        zarr.create_array(tmp_path / "in.zarr", name="a/x", data=data, chunks=(3, 5), zarr_format=zarr_format)
    result, out = converted(tmp_path / "in.zarr", tmp_path)
    with h5py.File(out) as file:
        found = file["a/x"]
        assert found.chunks == (3, 5)
        if dtype == "U6":
            assert np.array_equal(found.asstr()[...], data)
        else:
            assert found.dtype == (data.dtype if zarr_format == 2 else opened(tmp_path)["a/x"].dtype)
            assert np.array_equal(found[...], data)
    assert [one.name for one in result.arrays] == ["/a/x"]
    assert result.arrays[0].is_copied == (dtype != "U6")


CODECS: dict[str, tuple[Any, dict[str, Any], bool, list[str]]] = {
    "none": (3, {"compressors": None}, True, []),
    "zstd": (3, {"compressors": ZstdCodec(level=5)}, True, ["32015"]),
    "blosc": (3, {"compressors": BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")}, True, ["32001"]),
    "big-endian": (3, {"serializer": BytesCodec(endian="big"), "compressors": ZstdCodec(level=5)}, True, ["32015"]),
    "gzip": (3, {"compressors": GzipCodec(level=5)}, False, ["gzip"]),
    "crc32c": (3, {"compressors": [ZstdCodec(level=1), {"name": "crc32c"}]}, False, ["32015", "fletcher32"]),
    "transpose": (3, {"filters": TransposeCodec(order=(1, 0)), "compressors": None}, False, []),
    "shards": (3, {"shards": (20, 10), "compressors": ZstdCodec(level=5)}, False, ["32015"]),
    "2-blosc": (2, {"compressors": numcodecs.Blosc("zstd", 3, 1)}, True, ["32001"]),
    "2-gzip": (2, {"compressors": numcodecs.GZip(3)}, False, ["gzip"]),
    "2-lz4": (2, {"compressors": numcodecs.LZ4()}, False, ["shuffle", "gzip"]),
    "2-lzma": (2, {"compressors": numcodecs.LZMA()}, False, ["shuffle", "gzip"]),
    "2-delta": (2, {"filters": [numcodecs.Delta("i4")], "compressors": numcodecs.Zlib(2)}, False, ["gzip"]),
    "2-fortran": (2, {"order": "F", "compressors": numcodecs.Zlib(2)}, False, ["gzip"]),
    "2-all": (
        2,
        {"filters": [numcodecs.Shuffle(4), numcodecs.Zlib(9), numcodecs.Fletcher32()], "compressors": None},
        True,
        ["shuffle", "gzip", "fletcher32"],
    ),
}


@pytest.mark.parametrize("case", CODECS)
def test_codecs(tmp_path: Path, case: str) -> None:
    zarr_format, keywords, is_copied, filters = CODECS[case]
    data = values("i4", (25, 12))
    array: Any = zarr.create_array(
        tmp_path / "in.zarr", name="x", shape=data.shape, dtype="i4", chunks=(10, 5), zarr_format=zarr_format,
        **keywords,
    )  # fmt: skip
    array[...] = data
    result, out = converted(tmp_path / "in.zarr", tmp_path)
    assert result.arrays[0].is_copied == is_copied
    with h5py.File(out) as file:
        assert file["x"].chunks == (10, 5)
        assert np.array_equal(file["x"], data)
        plist = file["x"].id.get_create_plist()
        names = {1: "gzip", 2: "shuffle", 3: "fletcher32"}
        codes = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
        for cell in np.ndindex(3, 3) if is_copied else ():
            stored = (tmp_path / "in.zarr/x" / array.metadata.encode_chunk_key(cell)).read_bytes()
            assert file["x"].id.read_direct_chunk((cell[0] * 10, cell[1] * 5)) == (0, stored)
        assert [names.get(code, str(code)) for code in codes] == filters


def test_chosen_filters(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "in.zarr", name="x", data=values("i4"), chunks=(3, 5))
    result, out = converted(tmp_path / "in.zarr", tmp_path, compression="gzip", compression_opts=2, shuffle=True)
    assert not result.arrays[0].is_copied
    with h5py.File(out) as file:
        found = file["x"]
        assert (found.compression, found.compression_opts, found.shuffle, found.chunks) == ("gzip", 2, True, (3, 5))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_attributes(tmp_path: Path, zarr_format: Any) -> None:
    root = zarr.open_group(tmp_path / "in.zarr", mode="w", zarr_format=zarr_format, attributes=ATTRIBUTES)
    root.create_group("g/h", attributes=ATTRIBUTES)
    root.create_array("x", shape=(3,), dtype="i4", attributes=ATTRIBUTES)
    _, out = converted(tmp_path / "in.zarr", tmp_path)
    with h5py.File(out) as file:
        for name in ("/", "g/h", "x"):
            found = file[name].attrs
            assert found["text"] == "metres"
            assert found["true"].dtype == bool
            assert (found["int"], found["int"].dtype) == (5, np.int64)
            assert (found["large"], found["large"].dtype) == (2**63, np.uint64)
            assert found["ints"].tolist() == [1, 2, 3]
            assert found["texts"].tolist() == ["a", "bb", ""]
            assert found["object"] == '{"a": {"b": [1, null]}}'
            assert "object" in found["dask_chunkio_json"]
    dcio.convert(out, tmp_path / "back.zarr", zarr_format=zarr_format)
    back = zarr.open_group(tmp_path / "back.zarr", mode="r")
    for one in (back, back["g/h"], back["x"]):
        assert dict(one.attrs) == ATTRIBUTES
        assert all(type(one.attrs[name]) is type(ATTRIBUTES[name]) for name in ATTRIBUTES)


@pytest.fixture
def dataset() -> xr.Dataset:
    time = np.arange("2000-01-01", "2000-01-31", dtype="M8[D]").astype("M8[ns]")
    found = xr.Dataset(
        {
            "wind": (("time", "x"), RNG.random((30, 8)).astype("f4"), {"units": "m/s"}),
            "count": (("time",), np.arange(30)),
            "label": (("x",), np.array(list("abcdefgh"), object)),
            "mask": (("time", "level"), RNG.random((30, 3)) > 0.5),
            "height": ((), 2.0),
        },
        coords={"time": time, "x": np.arange(8.0), "area": ("x", RNG.random(8))},
        attrs={"title": "winds", "count": 3, "list": [1, 2]},
    )
    found["wind"][3, 3] = np.nan
    return found


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_xarray_reads_both_alike(tmp_path: Path, dataset: xr.Dataset, zarr_format: Any) -> None:
    encoding = {"wind": {"chunks": (10, 8)}, "count": {"_FillValue": 7, "dtype": "i2"}}
    keywords: dict[str, Any] = {"zarr_format": zarr_format, "consolidated": False}
    dataset.to_zarr(tmp_path / "in.zarr", encoding=encoding, **keywords)
    dataset.isel(time=slice(4)).to_zarr(tmp_path / "in.zarr", group="group", mode="a", **keywords)
    dataset[["wind"]].to_zarr(tmp_path / "in.zarr", group="group/more", mode="a", **keywords)
    result, out = converted(tmp_path / "in.zarr", tmp_path)
    assert not result.notes
    for group in ("/", "/group", "/group/more"):
        with (
            xr.open_zarr(tmp_path / "in.zarr", group=group, consolidated=False) as theirs,
            xr.open_dataset(out, group=group, engine="h5netcdf") as ours,
        ):
            xr.testing.assert_identical(theirs.load(), ours.load())
    with h5py.File(out) as file:
        assert file["wind"].dims[0][0] == file["time"]
        assert file["wind"].chunks == (10, 8)


def test_dimensions_without_a_scale_are_labels(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "in.zarr", mode="w")
    root.create_array("a", shape=(3, 4), dtype="i4", dimension_names=["x", "y"])
    root.create_array("b", shape=(5,), dtype="i4", dimension_names=["x"])
    root.create_array("y", shape=(2, 2), dtype="i4", dimension_names=["p", None])
    result, out = converted(tmp_path / "in.zarr", tmp_path)
    assert len(result.notes) == 3
    with h5py.File(out) as file:
        assert [one.label for one in file["a"].dims] == ["x", "y"]
        assert [len(one) for one in file["y"].dims] == [1, 0]
    dcio.convert(out, tmp_path / "back.zarr")
    back: Any = zarr.open_group(tmp_path / "back.zarr", mode="r")
    assert [back[name].metadata.dimension_names for name in "aby"] == [("x", "y"), ("x",), ("p", None)]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_shapes_at_the_edge(tmp_path: Path, zarr_format: Any) -> None:
    root = zarr.open_group(tmp_path / "in.zarr", mode="w", zarr_format=zarr_format)
    root.create_array("scalar", shape=(), dtype="f8", fill_value=1.5)
    root.create_array("text", shape=(), dtype=str)[...] = "hello"
    root.create_array("none", shape=(0, 4), chunks=(2, 2), dtype="i4")
    root.create_array("longer", shape=(5,), chunks=(8,), dtype="i4")[...] = np.arange(5)
    root.create_array("never", shape=(20,), chunks=(5,), dtype="i4", fill_value=9)
    some: Any = root.create_array("some", shape=(20, 3), chunks=(5, 2), dtype=">i2", fill_value=-1)
    some[:5] = np.arange(15).reshape(5, 3)
    _, out = converted(tmp_path / "in.zarr", tmp_path)
    with h5py.File(out) as file:
        assert file["scalar"][()] == 1.5
        assert file["text"].asstr()[()] == "hello"
        assert file["none"].shape == (0, 4)
        assert file["longer"][...].tolist() == [0, 1, 2, 3, 4]
        assert file["never"][...].tolist() == [9] * 20
        assert file["never"].fillvalue == 9
        assert np.array_equal(file["some"], some[...])
        assert file["some"].fillvalue == -1


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_texts(tmp_path: Path, zarr_format: Any) -> None:
    texts = np.array(["", "a", "µ€" * 100, "x"] * 5, object)
    array: Any = zarr.create_array(
        tmp_path / "in.zarr", name="x", shape=texts.shape, chunks=(6,), dtype=str, zarr_format=zarr_format
    )
    array[...] = texts
    _, out = converted(tmp_path / "in.zarr", tmp_path)
    with h5py.File(out) as file:
        assert h5py.check_string_dtype(file["x"].dtype).length is None
        assert file["x"].asstr()[...].tolist() == texts.tolist()


def test_what_hdf5_cannot_have(tmp_path: Path) -> None:
    root = zarr.open_group(
        tmp_path / "in.zarr", mode="w", zarr_format=2, attributes={"CLASS": "DIMENSION_SCALE", "kept": 1}
    )
    root.create_array("good", shape=(3,), dtype="i4", attributes={"CLASS": "ARRAY", "NAME": "of PyTables"})
    root.create_array("when", shape=(3,), dtype="M8[ns]", attributes={"a": 1})
    with pytest.raises(
        errors.SourceError, match=r"2 of its objects.*/@CLASS: HDF5 uses this.*/when: HDF5 has no times"
    ):
        converted(tmp_path / "in.zarr", tmp_path)
    assert not (tmp_path / "out.h5").exists()
    result, out = converted(tmp_path / "in.zarr", tmp_path, skip_unsupported=True)
    assert [one.name for one in result.skipped] == ["/@CLASS", "/when"]
    with h5py.File(out) as file:
        assert set(file) == {"good"}
        assert dict(file["good"].attrs) == {"CLASS": "ARRAY", "NAME": "of PyTables"}
        assert dict(file.attrs) == {"kept": 1}


class _Executed:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("codec", ["pickle", "json2", "msgpack2"])
def test_objects_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.zarr/x").mkdir(parents=True)
    (tmp_path / "in.zarr/.zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / "in.zarr/x/.zarray").write_text(
        '{"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "fill_value": null, "order": "C", '
        f'"compressor": null, "filters": [{{"id": "{codec}"}}]}}'
    )
    data = np.empty(1, object)
    data[0] = _Executed()
    (tmp_path / "in.zarr/x/0").write_bytes(pickle.dumps([data, "|O"]))
    with pytest.raises(errors.SourceError):
        converted(tmp_path / "in.zarr", tmp_path)
    assert not (tmp_path / "executed").exists()


def test_any_store(tmp_path: Path) -> None:
    data = values("i4")
    memory = zarr.open_group(zarr.storage.MemoryStore(), mode="w")
    memory.create_array("x", data=data, chunks=(3, 5))
    with zarr.storage.ZipStore(tmp_path / "in.zarr.zip", mode="w") as store:
        zarr.create_array(store, name="x", data=data, chunks=(3, 5))
    for number, source in enumerate([memory, tmp_path / "in.zarr.zip", memory["x"]]):
        out = tmp_path / f"{number}.h5"
        result = dcio.convert(source, out, progress=False, scheduler="threads")
        assert result.arrays[0].is_copied
        with h5py.File(out) as file:
            assert np.array_equal(file["x"], data)


def test_an_array_at_the_root(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "numbers.zarr", data=values("i4"), attributes={"unit": "V"})
    _, out = converted(tmp_path / "numbers.zarr", tmp_path)
    with h5py.File(out) as file:
        assert file["numbers"].attrs["unit"] == "V"


def test_the_target_is_made_once(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "in.zarr", name="x", data=values("i4"))
    (tmp_path / "out.h5").write_text("kept")
    with pytest.raises(errors.TargetExistsError):
        converted(tmp_path / "in.zarr", tmp_path)
    assert (tmp_path / "out.h5").read_text() == "kept"
    converted(tmp_path / "in.zarr", tmp_path, overwrite=True)
    assert h5py.is_hdf5(tmp_path / "out.h5")


def test_a_damaged_chunk_leaves_nothing_half_made(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "in.zarr", name="x", data=values("i4"), chunks=(3, 5))
    chunk = tmp_path / "in.zarr/x/c/1/0"
    whole = chunk.read_bytes()
    chunk.write_bytes(b"damaged")
    with pytest.raises(errors.IntegrityError, match=r"in\.zarr/x: the chunk at \(3, 0\) is damaged"):
        converted(tmp_path / "in.zarr", tmp_path)
    assert not (tmp_path / "out.h5").exists()
    chunk.write_bytes(whole)
    converted(tmp_path / "in.zarr", tmp_path, resume=True)
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.array_equal(file["x"], opened(tmp_path)["x"][...])


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"target": "out.zarr"}, "the name of a zarr store"),
        ({"zarr_format": 3}, "zarr_format= and threads="),
        ({"threads": 2}, "zarr_format= and threads="),
        ({"zarr_format": 4}, "zarr_format"),
        ({"compression": "nothing"}, "compression"),
        ({"target": "s3://bucket/x.h5"}, "no path of a file system"),
        ({"source": 5}, "source is a int"),
        ({"source": "nothing.zarr"}, "cannot read .*nothing.zarr as zarr"),
        ({"overwrite": "yes"}, "overwrite"),
    ],
)
def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keywords: dict[str, Any], words: str) -> None:
    monkeypatch.chdir(tmp_path)
    zarr.create_array("in.zarr", name="x", data=values("i4"))
    with pytest.raises(errors.ChunkIOError, match=words):
        dcio.convert(**{"source": "in.zarr", "target": "out.h5", **keywords})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.zarr"]


def test_what_consolidated_metadata_do_not_list_is_converted(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "in.zarr", mode="w", zarr_format=2)
    root.create_array("old", data=values("i4"))
    zarr.consolidate_metadata(tmp_path / "in.zarr")
    root.create_array("new", data=values("i4"))
    result, _ = converted(tmp_path / "in.zarr", tmp_path)
    assert [one.name for one in result.arrays] == ["/new", "/old"]


def test_other_processes(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "in.zarr", mode="w")
    root.create_array("x", data=values("i4"), chunks=(3, 5))
    root.create_array("text", shape=(4,), chunks=(2,), dtype=str)[...] = np.array(["a", "b", "c", "d"], object)
    _, out = converted(tmp_path / "in.zarr", tmp_path, scheduler="processes")
    with h5py.File(out) as file:
        assert np.array_equal(file["x"], opened(tmp_path)["x"][...])
        assert file["text"].asstr()[...].tolist() == ["a", "b", "c", "d"]


def test_a_dimension_twice(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "in.zarr", mode="w")
    root.create_array("covariance", data=values("f8", (4, 4)), dimension_names=["x", "x"])
    _, out = converted(tmp_path / "in.zarr", tmp_path)
    with h5py.File(out) as file:
        assert [one[0] for one in file["covariance"].dims] == [file["x"], file["x"]]


def test_names_that_lead_elsewhere_are_only_labels(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "in.zarr", mode="w")
    names = ["../up", ".", "..", "a/b"]
    root.create_array("g/x", data=values("i4", (2, 2, 2, 2)), dimension_names=names)
    result, out = converted(tmp_path / "in.zarr", tmp_path)
    assert len(result.notes) == 4
    with h5py.File(out) as file:
        assert [one.label for one in file["g/x"].dims] == names
        assert set(file) == {"g"}
        assert set(file["g"]) == {"x"}


def test_filters_that_do_not_fit_leave_nothing(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "in.zarr", name="x", shape=(4,), chunks=(2,), dtype=str)
    with pytest.raises(errors.ArgumentError, match="/x: blosc divides by the size of elements"):
        converted(tmp_path / "in.zarr", tmp_path, compression="blosc")
    with pytest.raises(errors.ArgumentError, match="/x: HDF5 cannot create this dataset"):
        converted(tmp_path / "in.zarr", tmp_path, compression="gzip", compression_opts=99)
    assert [path.name for path in tmp_path.iterdir()] == ["in.zarr"]


def test_integers_beyond_their_enumeration(tmp_path: Path) -> None:
    attributes: dict[str, Any] = {"dask_chunkio_enum": {"A": 300}}
    zarr.create_array(tmp_path / "in.zarr", name="x", data=values("u1"), attributes=attributes)
    _, out = converted(tmp_path / "in.zarr", tmp_path)
    with h5py.File(out) as file:
        assert h5py.check_enum_dtype(file["x"].dtype) is None
        assert file["x"].attrs["dask_chunkio_enum"] == '{"A": 300}'


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_array_that_zarr_cannot_open_is_named(tmp_path: Path, zarr_format: Any) -> None:
    root = zarr.open_group(tmp_path / "in.zarr", mode="w", zarr_format=zarr_format)
    for name in ("good", "g/good", "g/bad"):
        root.create_array(name, data=values("i4"), compressors=None)
    (tmp_path / "in.zarr/no node").mkdir()
    found = tmp_path / "in.zarr/g/bad" / ("zarr.json" if zarr_format == 3 else ".zarray")
    metadata = json.loads(found.read_text())
    if zarr_format == 3:
        metadata["codecs"].append({"name": "nobody"})
    else:
        metadata["compressor"] = {"id": "nobody"}
    found.write_text(json.dumps(metadata))
    with pytest.raises(errors.SourceError, match=r"1 of its objects .*/g/bad: zarr cannot open it: .*nobody"):
        converted(tmp_path / "in.zarr", tmp_path)
    result, out = converted(tmp_path / "in.zarr", tmp_path, skip_unsupported=True)
    assert [one.name for one in result.skipped] == ["/g/bad"]
    with h5py.File(out) as file:
        assert np.array_equal(file["g/good"], zarr.open_array(tmp_path / "in.zarr", path="g/good", mode="r")[...])
        assert set(file["g"]) == {"good"}


def test_an_array_that_is_too_long_for_hdf5_is_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "in.zarr", name="x", shape=(1 << 70,), chunks=(1 << 40,), dtype="i4")
    with pytest.raises(errors.ArgumentError, match="/x: HDF5 cannot create this dataset"):
        converted(tmp_path / "in.zarr", tmp_path)
    assert os.listdir(tmp_path) == ["in.zarr"]
