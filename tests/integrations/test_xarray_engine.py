import fcntl
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import pytest
import xarray as xr

from dask_chunkio import errors
from dask_chunkio.integrations.xarray_engine import ChunkioBackend
from dask_chunkio.reading import file_state

DAYS = np.datetime64("2000-01-01") + np.arange(40) * np.timedelta64(1, "D")


def open_dataset(path: Path, **keywords: Any) -> xr.Dataset:
    return xr.open_dataset(path, engine=ChunkioBackend, **keywords)


def weather() -> xr.Dataset:
    generator = np.random.default_rng(0)
    return xr.Dataset(
        {
            "temperature": (("time", "y", "x"), generator.normal(280, 5, (40, 10, 12)).astype("f4")),
            "rain": (("time", "y"), generator.integers(0, 100, (40, 10)) * 0.1),
            "number": ((), 5),
            "names": (("y",), np.array([f"station {n}" for n in range(10)], object)),
            "flags": (("x",), np.arange(12, dtype="u1")),
        },
        coords={"time": DAYS, "x": np.arange(12.0)},
        attrs={"title": "weather"},
    )


ENCODING = {
    "temperature": {"zlib": True, "shuffle": True, "chunksizes": (7, 4, 5)},
    "rain": {"dtype": "i2", "scale_factor": 0.1, "_FillValue": -1, "zlib": True, "chunksizes": (10, 10)},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    weather().to_netcdf(tmp_path / "x.nc", engine="h5netcdf", encoding=ENCODING)
    return tmp_path / "x.nc"


@pytest.fixture
def expected(path: Path) -> xr.Dataset:
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        return dataset.load()


def test_a_file_is_what_the_engine_h5netcdf_reads(path: Path) -> None:
    with xr.open_dataset(path, engine="h5netcdf") as expected:
        found = open_dataset(path)
        for name in expected.variables:
            # As text: a fill value is NaN.
            assert str(found[name].encoding) == str(expected[name].encoding)
        xr.testing.assert_identical(found, expected)


@pytest.mark.parametrize(
    ("chunks", "scheduler"), [({}, "synchronous"), ({"x": 10}, "threads"), ("auto", "threads"), ({}, "processes")]
)
def test_blocks_of_dask(path: Path, expected: xr.Dataset, chunks: Any, scheduler: str) -> None:
    found = open_dataset(path, chunks=chunks)
    xr.testing.assert_identical(found.compute(scheduler=scheduler), expected)


@pytest.mark.parametrize(
    "index",
    [
        {"time": 3},
        {"time": slice(None, None, -7), "x": [11, 0, 5]},
        {"time": [1, 30], "y": [0, 0, 9], "x": 2},
        {"time": xr.DataArray([0, 39, 7], dims="point"), "x": xr.DataArray([1, 2, 3], dims="point")},
        {"time": slice(0, 0)},
    ],
    ids=range(5),
)
def test_selections(path: Path, expected: xr.Dataset, index: dict[str, Any]) -> None:
    xr.testing.assert_identical(open_dataset(path).isel(index).load(), expected.isel(index))


def test_groups(tmp_path: Path, expected: xr.Dataset) -> None:
    weather().to_netcdf(tmp_path / "groups.nc", engine="h5netcdf", group="a/b", encoding=ENCODING)
    xr.testing.assert_identical(open_dataset(tmp_path / "groups.nc", group="a/b").load(), expected)


def test_names_that_netcdf_has_to_change_in_the_file(tmp_path: Path) -> None:
    """A variable of the name of a dimension that is not its own has a prefix in the file."""
    data = xr.Dataset({"x": (("y", "z"), np.arange(6.0).reshape(2, 3))}, coords={"y": [1, 2]})
    with h5netcdf.File(tmp_path / "x.nc", "w") as file:
        file.dimensions = {"x": 4, "y": 2, "z": 3}
        file.create_variable("y", ("y",), data=data["y"].values)
        file.create_variable("x", ("y", "z"), data=data["x"].values)
    assert np.array_equal(open_dataset(tmp_path / "x.nc")["x"], data["x"])


def test_the_file_is_not_kept_open(path: Path) -> None:
    found = open_dataset(path)
    assert found["names"].values[3] == "station 3"
    found["temperature"].load()
    with h5py.File(path, "r+") as file:
        file["temperature"][0] = 0
    again = open_dataset(path)
    assert float(again["temperature"][0].sum()) == 0


def test_a_lazy_dataset_is_pickled(path: Path, expected: xr.Dataset) -> None:
    found = pickle.loads(pickle.dumps(open_dataset(path)))
    xr.testing.assert_identical(found.load(), expected)


@pytest.mark.parametrize("name", ["s3://bucket/x.nc", "no/"])
def test_what_is_no_local_file_is_refused(name: str) -> None:
    with pytest.raises(errors.ArgumentError, match=r"filename_or_obj|is a URL"):
        xr.open_dataset(name, engine=ChunkioBackend)


def test_what_cannot_be_opened_is_named(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_state, "_PATIENCE", 0.0)
    with pytest.raises(FileNotFoundError, match=r"none\.nc"):
        open_dataset(tmp_path / "none.nc")
    (tmp_path / "text.nc").write_text("text")
    with pytest.raises(errors.TargetError, match=r"text\.nc cannot be opened as an HDF5 file"):
        open_dataset(tmp_path / "text.nc")
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["x"] = [1, 2, 3]
    with pytest.raises(errors.TargetError, match=r"plain\.h5 cannot be opened as a netCDF file: .*no dimension scale"):
        open_dataset(tmp_path / "plain.h5")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(errors.TargetBusyError, match=r"x\.nc is open for writing in another program"):
            open_dataset(path, isolated=False)
    finally:
        os.close(descriptor)


def test_the_engine_has_a_name() -> None:
    assert "chunkio" in xr.backends.list_engines()


def test_the_entry_point_is_light() -> None:
    """xarray imports it for everybody who opens a file."""
    script = "import sys, xarray, dask_chunkio.integrations.xarray_engine; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"h5py", "dask.array", "distributed"} & set(loaded)
