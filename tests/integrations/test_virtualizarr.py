"""Virtual Datasets of VirtualiZarr, read through Icechunk without HDF5."""

import importlib.util
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from dask_chunkio import to_hdf5
from dask_chunkio.errors import ArgumentError, IntegrityError
from dask_chunkio.integrations.virtualizarr import virtual_dataset
from dask_chunkio.integrations.xarray import to_netcdf
from tests.support.processes import run_python
from tests.support.references.files import NUMBERS, expected, make_readable, refused, require_equal

HAS_IT = importlib.util.find_spec("virtualizarr") is not None
needs = pytest.mark.skipif(not HAS_IT, reason="VirtualiZarr is not installed (the extra virtualizarr)")
needs_icechunk = pytest.mark.skipif(
    not HAS_IT or importlib.util.find_spec("icechunk") is None, reason="VirtualiZarr or Icechunk is not installed"
)

READER = """
import sys
for name in ("h5py", "netCDF4", "h5netcdf", "dask_chunkio"):
    sys.modules[name] = None
import icechunk, numpy as np, zarr
folder, out, *groups = sys.argv[1:]
access = {f"file://{folder}/": None}
storage = icechunk.local_filesystem_storage(folder + "/icechunk")
repository = icechunk.Repository.open(storage, authorize_virtual_chunk_access=access)
root = zarr.open_group(repository.readonly_session("main").store, mode="r")
found = {}
for group in groups:
    for name, one in root[group].arrays() if group != "/" else root.arrays():
        value = np.asarray(one[...])
        key = name if group == "/" else f"{group}/{name}"
        found[key] = np.array(value.tolist(), "U") if value.dtype.kind in "TO" else value
np.savez(out, **found)
"""


@needs_icechunk
@pytest.mark.filterwarnings("ignore")
def test_icechunk_reads_what_h5py_reads(tmp_path: Path) -> None:
    import icechunk

    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        make_readable(file)
        # Fields of the other byte order, which are refused: see below.
        records = file["kinds/records"][()]
        del file["kinds/records"]
        file["kinds/records"] = records.astype([("a", "<i4"), ("b", "<f8"), ("c", "S3")])
    folder = f"file://{tmp_path}/"
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(folder, icechunk.local_filesystem_store(str(tmp_path)))
    )
    storage = icechunk.local_filesystem_storage(str(tmp_path / "icechunk"))
    repository = icechunk.Repository.create(storage, config, authorize_virtual_chunk_access={folder: None})
    repository.save_config()
    session = repository.writable_session("main")
    groups = ("/", "filters", "kinds", "text", "unwritten")
    for group in groups:
        virtual_dataset(path, group).vz.to_icechunk(session.store, group=None if group == "/" else group)
    session.commit("all")
    out = tmp_path / "read.npz"
    run = run_python("-W", "ignore", "-c", READER, tmp_path, out, *groups, timeout=60)
    assert run.returncode == 0, run.stderr
    with np.load(out) as found:
        require_equal(dict(found), expected(path))


@needs
@pytest.mark.filterwarnings("ignore")
def test_a_write_as_a_virtual_dataset(tmp_path: Path) -> None:
    from virtualizarr.manifests import ManifestArray

    path = tmp_path / "x.h5"
    to_hdf5(path, "/x", NUMBERS, chunks=(16, 25), compression="gzip", shuffle=True)
    found = virtual_dataset(path, url="s3://bucket/x.h5")
    assert isinstance(found["x"].data, ManifestArray)
    chunks = found["x"].data.manifest.dict()
    assert chunks["3.1"]["path"] == "s3://bucket/x.h5"  # type: ignore[index, unused-ignore]
    assert len(chunks) == 8


@needs
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["skipped", "lzf"])
def test_what_it_would_misread_is_refused(name: str, tmp_path: Path) -> None:
    fill, words = refused()[name]
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        fill(file)
        file["kept"] = NUMBERS
    with pytest.raises(IntegrityError, match=words):
        virtual_dataset(path)
    assert list(virtual_dataset(path, skip_unsupported=True).variables) == ["kept"]
    with pytest.raises(ArgumentError, match="has no group 'none'"):
        virtual_dataset(path, "none", skip_unsupported=True)


@needs
@pytest.mark.filterwarnings("ignore")
def test_fields_of_the_other_byte_order_are_refused(tmp_path: Path) -> None:
    """The third version of zarr forgets the byte order of fields."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(1000, [("a", "<i4"), ("b", ">f8")])
    with pytest.raises(IntegrityError, match="/x: its fields are big-endian"):
        virtual_dataset(path)
    assert not virtual_dataset(path, skip_unsupported=True).variables


def test_without_virtualizarr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules: dict[str, Any] = {"virtualizarr": None, "virtualizarr.manifests": None}
    for name, value in modules.items():
        monkeypatch.setitem(__import__("sys").modules, name, value)
    with pytest.raises(ArgumentError, match=r"install dask_chunkio\[virtualizarr\]"):
        virtual_dataset(tmp_path / "x.h5")


@needs_icechunk
@pytest.mark.filterwarnings("ignore")
def test_files_are_combined_by_coordinates_that_were_loaded(tmp_path: Path) -> None:
    """The first file is the later one, and both count the days from a day of their own."""
    import icechunk
    import xarray as xr

    paths = [tmp_path / "b.nc", tmp_path / "a.nc"]
    for path, day in zip(paths, ("2001-01-11", "2001-01-01"), strict=True):
        values = np.random.default_rng(0).random((10, 8)).astype("f4")
        values[3] = np.nan
        times = np.datetime64(day, "ns") + np.arange(10) * np.timedelta64(1, "D")
        data = xr.Dataset({"t": (("time", "x"), values)}, coords={"time": times, "name": ("x", list("abcdefgh"))})
        encoding = {
            "t": {"zlib": True, "chunksizes": (5, 8)},
            "time": {"units": f"days since {day}", "chunksizes": (7,), "zlib": True, "dtype": "i4"},
        }
        to_netcdf(data, path, encoding=encoding, unlimited_dims=["time"], progress=False)
    found = [virtual_dataset(path, loadable_variables=["time", "name"]) for path in paths]
    assert found[0].time.dtype.kind == "M"
    both = xr.combine_by_coords(found, coords="minimal", compat="override", combine_attrs="override")
    folder = f"file://{tmp_path}/"
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(folder, icechunk.local_filesystem_store(str(tmp_path)))
    )
    storage = icechunk.local_filesystem_storage(str(tmp_path / "icechunk"))
    repository = icechunk.Repository.create(storage, config, authorize_virtual_chunk_access={folder: None})
    session = repository.writable_session("main")
    both.vz.to_icechunk(session.store)
    session.commit("both")
    with (
        xr.open_zarr(repository.readonly_session("main").store, consolidated=False, zarr_format=3) as ours,
        xr.open_mfdataset(paths[::-1], engine="h5netcdf") as theirs,
    ):
        for name in ("t", "time", "name"):
            np.testing.assert_array_equal(ours[name], theirs[name])
    with pytest.raises(ArgumentError, match=r"a\.nc has no 'y' to load; .*'t', 'time'"):
        virtual_dataset(paths[1], loadable_variables=["y"])
