"""References of netCDF files that xarray opens, as it opens the files."""

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray
import zarr

from dask_chunkio import write_references
from tests.support.references.files import NUMBERS

DAYS = np.arange("2001-01-01", "2001-03-02", dtype="M8[D]").astype("M8[ns]")


def opened(references: Path, group: str = "") -> xarray.Dataset:
    options: dict[str, Any] = {"remote_protocol": "file", "remote_options": {"asynchronous": True}}
    system = fsspec.filesystem("reference", fo=str(references), asynchronous=True, **options)
    # zarr does not list the members of groups of references that are below its root.
    store = zarr.storage.FsspecStore(system, read_only=True, path=group or "/")
    return xarray.open_dataset(
        store,  # type: ignore[arg-type]
        engine="zarr",
        chunks=None,
        backend_kwargs={"consolidated": False, "zarr_format": 2},
    )


def dataset() -> xarray.Dataset:
    counts = NUMBERS.astype("f4")
    counts[3, 4] = np.nan
    made = xarray.Dataset(
        {"counts": (("time", "x"), counts), "zeros": (("time",), np.zeros(60, "i2")), "names": ("x", ["a"] * 50)},
        coords={
            "time": np.arange("2001-01-01", "2001-03-02", dtype="M8[D]").astype("M8[ns]"),
            "x": np.arange(50) * 0.5,
        },
        attrs={"title": "ä"},
    )
    made["packed"] = ("time", "x"), np.round(NUMBERS / 10, 1)
    made["place"] = ("time", "x"), NUMBERS * 2.0
    return made.set_coords("place")


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
@pytest.mark.parametrize("group", ["", "inside"])
@pytest.mark.filterwarnings("ignore")
def test_xarray_finds_the_same_dataset(engine: Any, group: str, tmp_path: Path) -> None:
    encoding: dict[str, dict[str, Any]] = {
        "counts": {"zlib": True, "chunksizes": (16, 25), "_FillValue": -1.0, "dtype": "i4"},
        "packed": {"dtype": "i2", "scale_factor": 0.1, "add_offset": 5.0, "_FillValue": -32768, "zlib": True},
        "zeros": {"_FillValue": None},
    }
    path = tmp_path / "x.nc"
    dataset().to_netcdf(path, engine=engine, encoding=encoding, group=group or None)
    write_references(path, tmp_path / "x.json")
    with (
        xarray.open_dataset(path, engine=engine, group=group or None) as right,
        opened(tmp_path / "x.json", group) as ours,
    ):
        xarray.testing.assert_identical(ours.load(), right.load())
        assert ours["zeros"].dtype == "i2"
