"""Every file format and every index of chunks that HDF5 has; and programs older than ours that read them."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyfive
import pytest

import dask_chunkio as dcio
from tests.support.pairs import every_pair

DATA = np.random.default_rng(1).integers(0, 100, (40, 30)).astype("i2")
INDEXES = {
    "single": {"chunks": (40, 30)},
    "fixed": {"chunks": (3, 4)},
    "extensible": {"chunks": (3, 4), "maxshape": (None, 30)},
    "B-tree 2": {"chunks": (3, 4), "maxshape": (None, None)},
    "larger than the array": {"chunks": (64, 64), "maxshape": (None, None)},
}
FILTERS = {
    "none": {},
    "gzip": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"compression": "lzf"},
}
VERSIONS = [None, "earliest", "v110", "v112", ("earliest", "v110"), ("v108", "v114"), "latest"]

tools = pytest.mark.skipif(shutil.which("h5dump") is None, reason="Debian's hdf5-tools is not installed")
every_index = pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)


@pytest.mark.parametrize(
    ("libver", "index", "filters"), every_pair({str(version): version for version in VERSIONS}, INDEXES, FILTERS)
)
def test_h5py_reads_it_and_can_go_on_with_it(target: Path, libver: Any, index: Any, filters: Any) -> None:
    dcio.to_hdf5(target, "/x", DATA, libver=libver, scheduler="synchronous", **index, **filters)
    with h5py.File(target, "r+", libver=libver) as file:
        dataset = file["x"]
        np.testing.assert_array_equal(dataset[...], DATA)
        dataset[5:9] = 7
        if dataset.maxshape[0] is None:
            dataset.resize(50, 0)
            dataset[40:] = 9
        file["y"] = DATA
    with h5py.File(target) as file:
        assert (file["x"][5:9] == 7).all()
        assert (file["x"][40:] == 9).all()
        np.testing.assert_array_equal(file["x"][9:40], DATA[9:])


@tools
@pytest.mark.parametrize(
    ("libver", "index"),
    [
        pytest.param(libver, index, id=f"{libver}-{name}", marks=pytest.mark.heavy if (row + column) % 2 else [])
        for row, libver in enumerate(VERSIONS)
        for column, (name, index) in enumerate(INDEXES.items())
    ],
)
def test_hdf5_1_10_reads_it(target: Path, libver: Any, index: Any) -> None:
    dcio.to_hdf5(target, "/x", DATA, libver=libver, scheduler="synchronous", **index, compression="gzip", shuffle=True)
    dump = subprocess.run(["h5dump", "-H", target], capture_output=True, text=True, check=False)
    stat = subprocess.run(["h5stat", target], capture_output=True, text=True, check=False)
    if libver == "latest":  # of HDF5 2.0: nothing older reads it
        assert dump.returncode != 0
        return
    assert dump.returncode == stat.returncode == 0, dump.stderr + stat.stderr
    assert "H5T_STD_I16LE" in dump.stdout
    values = subprocess.run(["h5dump", "-y", "-w", "0", "-d", "/x", target], capture_output=True, text=True, check=True)
    body = values.stdout.split("DATA {")[1].split("}")[0]
    np.testing.assert_array_equal(np.array(body.replace(",", " ").split(), int).reshape(DATA.shape), DATA)


@pytest.mark.parametrize("libver", [None, "earliest"], ids=str)
@every_index
@pytest.mark.parametrize("filters", [FILTERS["none"], FILTERS["gzip"]], ids=["none", "gzip"])
def test_a_reader_without_hdf5_reads_it(target: Path, libver: str | None, index: Any, filters: Any) -> None:
    dcio.to_hdf5(target, "/x", DATA, libver=libver, scheduler="synchronous", **index, **filters)
    with pyfive.File(str(target)) as file:
        np.testing.assert_array_equal(file["x"][...], DATA)


TYPES = ["u1", ">i8", "<f4", ">f8", "c16", "?", "S7", [("t", "<f8"), ("label", "S3")]]


def grown(target: Any, libver: Any, dtype: Any, filters: Any) -> dict[str, Any]:
    """A file of h5py's that gained a dataset, a replaced and merged region and an append; and what is in it."""
    data = DATA.astype(dtype) if isinstance(dtype, str) else np.zeros(DATA.shape, dtype)
    if not isinstance(dtype, str):
        data["t"], data["label"] = DATA, DATA.astype("S3")
    with h5py.File(target, "w", libver=libver) as file:
        file.create_dataset("old", data=data, chunks=(7, 4), maxshape=(None, 30), **filters)
    dcio.to_hdf5(target, {"/old": data[:11]}, append=True, scheduler="synchronous")
    dcio.to_hdf5(target, {"/old": data[:9, :5]}, region=np.s_[3:12, 2:7], scheduler="synchronous")
    dcio.to_hdf5(target, "/group/new", data, chunks=(16, 16), libver=libver, scheduler="synchronous", **filters)
    old = np.concatenate([data, data[:11]], dtype=data.dtype)
    old[3:12, 2:7] = data[:9, :5]
    return {"old": old, "group/new": data}


@pytest.mark.parametrize(
    ("dtype", "filters"),
    [
        pytest.param(
            dtype,
            FILTERS[name],
            id=f"{dtype}-{name}",
            marks=pytest.mark.heavy if name == "none" and dtype not in (TYPES[0], TYPES[-1]) else [],
        )
        for dtype in TYPES
        for name in ("none", "gzip")
    ],
)
def test_a_reader_without_hdf5_reads_files_that_grew(target: Path, dtype: Any, filters: Any) -> None:
    # (It knows no index of datasets that can grow but the oldest.)
    expected = grown(target, "earliest", dtype, filters)
    with pyfive.File(str(target)) as file:
        for name, data in expected.items():
            found = file[name][...]
            # (Its complex and boolean elements are h5py's fields and enumerations.)
            assert found.shape == data.shape
            assert np.asarray(found).astype(data.dtype).tobytes() == data.tobytes()


@tools
@pytest.mark.parametrize("libver", [pytest.param("earliest", marks=pytest.mark.heavy), "v110"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_hdf5_1_10_reads_files_that_grew(target: Path, libver: str, dtype: Any) -> None:
    expected = grown(target, libver, dtype, FILTERS["gzip"])
    raw = target.with_suffix(".raw")
    for name, data in expected.items():
        subprocess.run(["h5dump", "-d", f"/{name}", "-b", "FILE", "-o", raw, target], check=True, capture_output=True)
        assert raw.read_bytes() == data.tobytes()
