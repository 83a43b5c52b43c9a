"""A structure with every kind of object that HDF5 has, its data, and the same file made by h5py alone."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np

RECORD = np.dtype([("time", "<f8"), ("label", "S6"), ("place", "<i2", (2,))])


def make_structure(path: str | Path) -> None:
    """Make a file with all kinds of objects, whose large datasets are empty."""
    with h5py.File(path, "w", track_order=True) as file:
        _datasets(file)
        _links(file)
        _attributes(file)


def _datasets(file: h5py.File) -> None:
    raw = file.create_dataset(
        "acquisition/raw", (600, 12), "<i2", chunks=(50, 8), maxshape=(None, 12), compression="gzip", shuffle=True,
        fletcher32=True, fillvalue=-1,
    )  # fmt: skip
    file.create_dataset("acquisition/time", (600,), "<f8")
    file.create_dataset("acquisition/grows", (1, 5), "<f4", chunks=(7, 5), maxshape=(None, 5), compression="gzip")
    file["types/record"] = RECORD
    file.create_dataset("records", (120,), file["types/record"], chunks=(25,), compression="gzip")
    file.create_dataset("words", (40,), h5py.string_dtype(), chunks=(9,))
    file.create_dataset("flags", (30,), h5py.enum_dtype({"no": 0, "yes": 1}, basetype="i1"), chunks=(11,))
    file.create_dataset("scalar", (), "<c16")
    file.create_dataset("nothing", data=h5py.Empty("f4"))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((8,))
    h5py.h5d.create(file.id, b"compact", h5py.h5t.IEEE_F32LE, space, plist)
    view = h5py.VirtualLayout((300,), "<f8")
    view[:] = h5py.VirtualSource(file["acquisition/time"])[:300]
    file.create_virtual_dataset("view", view)
    raw.dims[0].label = "sample"
    file["acquisition/time"].make_scale("seconds")
    raw.dims[0].attach_scale(file["acquisition/time"])


def _links(file: h5py.File) -> None:
    file["hard"] = file["acquisition/raw"]
    file["soft"] = h5py.SoftLink("/acquisition/raw")
    file["dangling"] = h5py.SoftLink("/nowhere")
    file["elsewhere"] = h5py.ExternalLink("other.h5", "/x")
    file.create_dataset("references", (2,), h5py.ref_dtype)[:] = [file["acquisition/raw"].ref, file["types"].ref]
    file.create_dataset("regions", (1,), h5py.regionref_dtype)[0] = file["acquisition/raw"].regionref[10:20, 3]


def _attributes(file: h5py.File) -> None:
    attrs = file["acquisition/raw"].attrs
    attrs["unit"], attrs["gain"], attrs["empty"] = "mV", np.float32(0.195), h5py.Empty("f4")
    attrs["names"] = ["a", "bc", "üß"]
    attrs["matrix"] = np.arange(6, dtype="<u2").reshape(2, 3)
    attrs["reference"] = file["records"].ref
    attrs["record"] = np.array([(1.5, b"x", (1, 2))], RECORD)
    file.attrs["large"] = np.arange(5000, dtype="<i4")


def sources() -> dict[str, Any]:
    """Return what fills the empty datasets."""
    records = np.zeros(120, RECORD)
    records["time"], records["label"] = np.arange(120) / 7, b"event"
    records["place"] = np.arange(240).reshape(120, 2)
    return {
        "/acquisition/raw": (1 + np.arange(7200, dtype="<i2")).reshape(600, 12),
        "/acquisition/time": np.arange(600) / 1000,
        "/acquisition/grows": np.arange(155, dtype="<f4").reshape(31, 5),
        "/records": records,
        "/words": np.array([f"word {n}" for n in range(40)], object),
        "/flags": (np.arange(30) % 2).astype("i1"),
        "/scalar": np.complex128(3 + 4j),
        "/compact": np.arange(8, dtype="<f4"),
    }


def make_reference(path: str | Path) -> None:
    """Make the same file with its data by h5py alone."""
    make_structure(path)
    with h5py.File(path, "r+") as file:
        for name, data in sources().items():
            if file[name].shape != np.shape(data):
                file[name].resize(np.shape(data))
            file[name][...] = data


def require_alike(path: str | Path, reference: str | Path) -> None:
    """Compare two files by HDF5's own tools: every object, link, attribute and element.

    Raises
    ------
    AssertionError
        If they differ.
    """
    told = subprocess.run(["h5diff", "-v", str(path), str(reference)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout[-3000:] + told.stderr
    # h5diff passes over links, property lists and attributes of some types.
    mine, theirs = _dumped(path), _dumped(reference)
    assert mine == theirs, next(pair for pair in zip(mine, theirs, strict=False) if pair[0] != pair[1])


def _dumped(path: str | Path) -> list[str]:
    told = subprocess.run(["h5dump", "-p", str(path)], capture_output=True, text=True, check=True)
    passing = ("HDF5 ", "OFFSET ", "SIZE ", "USERBLOCK_SIZE")
    return [line for line in told.stdout.splitlines() if not line.strip().startswith(passing)]
