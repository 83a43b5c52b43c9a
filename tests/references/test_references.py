"""References to files of h5py: read without HDF5, equal to what h5py reads; or refused."""

import base64
import ctypes
import json
import os
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from dask_chunkio import write_references
from dask_chunkio.errors import ArgumentError, ArgumentTypeError, IntegrityError, TargetError, TargetExistsError
from dask_chunkio.references import datasets
from dask_chunkio.references.scan import scan_file
from tests.support.references.files import (
    NUMBERS,
    expected,
    make,
    make_readable,
    make_unwritten,
    read,
    read_apart,
    refs,
    refused,
    require_equal,
)

REFUSED = refused()


@pytest.mark.parametrize("options", [{}, {"libver": "latest"}, {"userblock_size": 1024}], ids=str)
def test_a_reader_without_hdf5_finds_what_h5py_finds(options: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", **options) as file:
        make_readable(file)
    done = write_references(path, tmp_path / "x.json")
    assert done.left_out == ()
    require_equal(read_apart(tmp_path / "x.json", tmp_path), expected(path))


def test_without_inlined_chunks(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        make_readable(file)
    make(path, tmp_path / "x.json", inline_nbytes=0)
    assert isinstance(refs(tmp_path / "x.json")["filters/gzip/0.0"], list)
    assert isinstance(refs(tmp_path / "x.json")["compact/0"], str)
    require_equal(read(tmp_path / "x.json"), expected(path))


@pytest.mark.parametrize("name", REFUSED)
def test_what_readers_could_not_read_is_refused(name: str, tmp_path: Path) -> None:
    fill, words = REFUSED[name]
    path, output = tmp_path / "x.h5", tmp_path / "x.json"
    with h5py.File(path, "w") as file:
        fill(file)
        file["kept"] = NUMBERS
    with pytest.raises(IntegrityError, match=words):
        make(path, output)
    assert not output.exists()
    (line,) = make(path, output, skip_unsupported=True).left_out
    assert words in line
    assert (read(output)["kept"] == NUMBERS).all()
    assert not any(key.startswith("x/") for key in refs(output))


def test_partial_chunks_without_filters(tmp_path: Path) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((16, 25))
    plist.set_deflate(4)
    # The option has no function in h5py.
    library = ctypes.CDLL(h5py.defs.__file__)
    assert library.H5Pset_chunk_opts(ctypes.c_int64(plist.id), ctypes.c_uint(2)) >= 0
    for name, shape, is_cut in (("cut.h5", (60, 50), True), ("whole.h5", (64, 50), False)):
        path = tmp_path / name
        with h5py.File(path, "w", libver="latest") as file:
            space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(np.dtype("<i4"))
            made = h5py.Dataset(h5py.h5d.create(file.id, b"x", kind, space, plist))
            made[:] = 3
        if is_cut:
            with pytest.raises(IntegrityError, match="far edge are stored without the filters"):
                make(path, tmp_path / "x.json")
        else:
            make(path, tmp_path / "x.json")
            require_equal(read(tmp_path / "x.json"), expected(path))


def test_filters_that_all_chunks_skip_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        noise = np.random.default_rng(0).integers(0, 256, (32, 16), dtype="u1")
        one = file.create_dataset("x", data=noise, chunks=(16, 16), **hdf5plugin.Blosc())
        assert one.id.get_chunk_info(0).filter_mask == 1
    make(path, tmp_path / "x.json")
    assert json.loads(refs(tmp_path / "x.json")["x/.zarray"])["filters"] is None
    require_equal(read(tmp_path / "x.json"), expected(path))


def test_an_extensible_dataset_whose_unlimited_axis_is_not_the_first(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("x", data=NUMBERS, chunks=(7, 9), maxshape=(60, None), compression="gzip")
    make(path, tmp_path / "x.json")
    require_equal(read(tmp_path / "x.json"), expected(path))


def test_names_that_need_care(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for name in ("100 %d", 'quoted "x"', "ä/日本", "0", "0.0", "a/b.c"):
            file.create_dataset(name, data=NUMBERS, chunks=(16, 25))
    make(path, tmp_path / "x.json")
    require_equal(read(tmp_path / "x.json"), expected(path))


def test_attributes_and_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update(
            {"text": "ä", "bytes": b"b", "two": np.arange(2), "one": np.array([1.5]), "none": h5py.Empty("f4")}
        )
        group = file.create_group("g")
        group["x"], group["y"] = np.arange(60), np.arange(50)
        for name in "xy":
            group[name].make_scale()
        group["z"] = NUMBERS
        group["z"].dims[0].attach_scale(group["x"])
        group["z"].dims[1].attach_scale(group["y"])
        group["z"].attrs["_FillValue"] = np.array([5], "i4")
        group["other"] = np.zeros((60, 7))
        file["link"] = h5py.SoftLink("/g/z")
    make(path, tmp_path / "x.json")
    found = refs(tmp_path / "x.json")
    assert json.loads(found[".zattrs"]) == {"text": "ä", "bytes": "b", "two": [0, 1], "one": 1.5, "none": ""}
    assert json.loads(found["g/x/.zattrs"]) == {"_ARRAY_DIMENSIONS": ["x"]}
    assert json.loads(found["g/z/.zattrs"]) == {"_ARRAY_DIMENSIONS": ["x", "y"]}
    assert json.loads(found["g/z/.zarray"])["fill_value"] == 5
    assert json.loads(found["g/other/.zattrs"]) == {"_ARRAY_DIMENSIONS": ["phony_dim_0", "phony_dim_1"]}
    assert "link/.zarray" not in found


def test_a_fill_value_that_masks_nothing_is_left_out(tmp_path: Path) -> None:
    """xarray would read zeros as missing data."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["whole"] = NUMBERS
        make_unwritten(file)
    make(path, tmp_path / "x.json")
    found = refs(tmp_path / "x.json")
    assert json.loads(found["whole/.zarray"])["fill_value"] is None
    assert json.loads(found["unwritten/all/.zarray"])["fill_value"] == 7
    assert json.loads(found["unwritten/some/.zarray"])["fill_value"] == "NaN"
    assert json.loads(found["unwritten/complex/.zarray"])["fill_value"] == [1, 2]
    assert [key for key in found if key.startswith("unwritten/all/") and not key.startswith("unwritten/all/.")] == []


def test_large_contiguous_datasets_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "_MOST_CONTIGUOUS", 4096)
    monkeypatch.setattr(datasets, "_LEAST_CONTIGUOUS", 64)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(12 * 5000, dtype="<i2").reshape(12, 5000)
        file["prime"] = np.arange(10007, dtype="<f8")
    found = {one.name: one for one in scan_file(str(path), "u", 0).arrays}
    assert found["x"].chunk_shape == (1, 1250)
    assert (found["x"].table.lengths == 2500).all()
    raw = path.read_bytes()
    pieces = [raw[at : at + 2500] for at in found["x"].table.offsets]
    assert b"".join(pieces) == np.arange(12 * 5000, dtype="<i2").tobytes()
    assert found["prime"].chunk_shape == (10007,)


def test_the_url(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["x"] = NUMBERS
    write_references(path, tmp_path / "x.json")
    assert refs(tmp_path / "x.json")["x/0.0"][0] == f"file://{path}"
    for url, whole in (("s3://b/y.h5", "s3://b/y.h5"), ("s3://b/", "s3://b/x.h5")):
        assert write_references(path, tmp_path / "x.json", url=url).url == whole
        assert refs(tmp_path / "x.json")["x/0.0"][0] == whole


def test_arguments(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["x"] = NUMBERS
    json_file = tmp_path / "x.json"
    with pytest.raises(ArgumentError, match=r"end it with \.json"):
        write_references(path, tmp_path / "x.h5")
    with pytest.raises(ArgumentTypeError, match="output is a int"):
        write_references(path, 3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="url=3"):
        write_references(path, json_file, url=3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="url='' is empty"):
        write_references(path, json_file, url="")
    with pytest.raises(ArgumentError, match="inline_nbytes=-1"):
        write_references(path, json_file, inline_nbytes=-1)
    with pytest.raises(TargetError, match="no folder"):
        write_references(path, tmp_path / "none" / "x.json")
    with pytest.raises(TargetError, match="there is no file"):
        write_references(tmp_path / "y.h5", json_file)
    with pytest.raises(TargetError, match="is a directory"):
        write_references(tmp_path, json_file)
    assert os.listdir(tmp_path) == ["x.h5"]


def test_only_references_are_replaced(tmp_path: Path) -> None:
    path, output = tmp_path / "x.h5", tmp_path / "x.json"
    with h5py.File(path, "w") as file:
        file["x"] = NUMBERS
    output.write_text('{"mine": 1}')
    with pytest.raises(TargetExistsError, match="holds no references"):
        write_references(path, output)
    assert output.read_text() == '{"mine": 1}'
    output.unlink()
    write_references(path, output)
    write_references(path, output)
    assert sorted(os.listdir(tmp_path)) == ["x.h5", "x.json"]


def test_inlined_bytes_are_not_taken_for_something_else(tmp_path: Path) -> None:
    """kerchunk shortens chunks that happen to be JSON, and fsspec decodes what begins with base64:."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["json"] = np.frombuffer(b"12   34    ", "u1")
        file["base64"] = np.frombuffer(b"base64:AAAA", "u1")
    write_references(path, tmp_path / "x.json")
    value = refs(tmp_path / "x.json")["base64/0"]
    assert base64.b64decode(value.removeprefix("base64:")) == b"base64:AAAA"
    require_equal(read(tmp_path / "x.json"), expected(path))
