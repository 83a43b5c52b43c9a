"""Read every array that references describe, without HDF5: python -m tests.support.references.reader REFERENCES OUT.

OUT is a file of numpy's, with one array for each name.
"""

import importlib.abc
import json
import os
import sys
from typing import Any

import numpy as np


class _Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] in ("h5py", "netCDF4", "h5netcdf", "pyfive", "tables", "dask_chunkio"):
            raise ImportError(f"{name} is blocked")


def names_in(references: str) -> list[str]:
    """The names of all arrays; zarr itself does not list those in groups of references."""
    if os.path.isdir(references):
        with open(os.path.join(references, ".zmetadata"), encoding="utf-8") as file:
            keys = json.load(file)["metadata"]
    else:
        with open(references, encoding="utf-8") as file:
            keys = json.load(file)["refs"]
    return [key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")]


def arrays_of(references: str) -> dict[str, Any]:
    """Return all arrays that references describe, by their names."""
    import fsspec
    import zarr

    options = {"remote_protocol": "file", "remote_options": {"asynchronous": True}}
    system = fsspec.filesystem("reference", fo=references, asynchronous=True, **options)
    group = zarr.open_group(zarr.storage.FsspecStore(system, read_only=True), mode="r", zarr_format=2)
    found = {}
    for name in names_in(references):
        array: Any = group[name]
        value = np.asarray(array[...])
        found[name] = np.array(value.tolist(), "U") if value.dtype.kind in "TO" else value
    return found


def main(references: str, out: str) -> None:
    sys.meta_path.insert(0, _Blocker())
    np.savez(out, **arrays_of(references))
    assert not {"h5py", "dask_chunkio"} & sys.modules.keys()
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        assert "libhdf5" not in maps.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
