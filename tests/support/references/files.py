"""HDF5 files with datasets of every kind that references describe, or refuse."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from dask_chunkio.references.output import parse_output
from dask_chunkio.references.write import make_references
from tests.support.processes import run_python
from tests.support.references.reader import arrays_of

NUMBERS = np.arange(60 * 50, dtype="<i4").reshape(60, 50)
FLOATS = np.random.default_rng(1).normal(size=(60, 50))


def make_readable(file: h5py.File) -> None:
    """Fill a file with what references describe."""
    chunked: dict[str, Any] = {"chunks": (16, 25)}
    for name, options in FILTERS.items():
        file.create_dataset(f"filters/{name}", data=NUMBERS, **chunked, **options)
    for kind in ("<f2", ">f8", "<c8", ">u2", "i1", ">c16"):
        file.create_dataset(f"kinds/{kind[1:]}", data=FLOATS.astype(kind), **chunked)
    file["kinds/bool"] = FLOATS > 0
    file["kinds/enum"] = np.arange(3, dtype="u1").astype(h5py.enum_dtype({"A": 0, "B": 1, "C": 2}, "u1"))
    file["kinds/bytes"] = np.array([[b"one", b"three"], [b"", b"seven"]], "S5")
    file["kinds/opaque"] = np.arange(8, dtype="u1").view("V4")
    records = np.zeros(300, [("a", "<i4"), ("b", ">f8"), ("c", "S3")])
    records["a"], records["b"], records["c"] = np.arange(300), FLOATS.ravel()[:300], b"xy"
    file.create_dataset("kinds/records", data=records, chunks=(70,), compression="gzip")
    file["text/many"] = ["one", "", "vier ä", "日本"]
    file["text/table"] = np.array([["a", "bb"], ["ccc", ""]], object)
    file["text/one"] = "hello"
    file["scalar"] = 3.25
    file["contiguous"] = FLOATS
    make_unwritten(file)


def make_unwritten(file: h5py.File) -> None:
    """Add datasets with chunks that were never written, and without elements."""
    file.create_dataset("unwritten/all", (30, 20), "f4", chunks=(8, 20), fillvalue=7)
    file.create_dataset("unwritten/contiguous", (30, 20), "i2", fillvalue=-3)
    some = file.create_dataset("unwritten/some", (30, 20), "f8", chunks=(8, 7), fillvalue=np.nan, compression="gzip")
    some[8:16, 7:14] = 1.5
    complexes = file.create_dataset("unwritten/complex", (9,), "c16", chunks=(4,), fillvalue=1 + 2j)
    complexes[4:] = 5
    file.create_dataset("unwritten/no rows", (0, 5), "f4", maxshape=(None, 5), chunks=(4, 5))
    file.create_dataset("unwritten/nothing", (0,), "f4")
    compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    compact.set_layout(h5py.h5d.COMPACT)
    space, kind = h5py.h5s.create_simple((6,)), h5py.h5t.py_create(np.dtype("<i2"))
    made = h5py.h5d.create(file.id, b"compact", kind, space, compact)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(6, dtype="<i2"))


FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "gzip": {"compression": "gzip", "compression_opts": 7},
    "shuffle": {"shuffle": True},
    "fletcher32": {"fletcher32": True},
    "all three": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "zstd": dict(hdf5plugin.Zstd(clevel=5)),
    "shuffled zstd": {**hdf5plugin.Zstd(), "shuffle": True},
    "bzip2": dict(hdf5plugin.BZip2(blocksize=3)),
    **{
        f"blosc {name}": dict(hdf5plugin.Blosc(cname=name, clevel=5, shuffle=1 + number % 2))  # type: ignore[arg-type]
        for number, name in enumerate(("blosclz", "lz4", "lz4hc", "zlib", "zstd"))
    },
}


def refused() -> dict[str, tuple[Callable[[h5py.File], object], str]]:
    """What references cannot describe, by its name: how it is made, and words of the reason."""
    data, chunked = NUMBERS, {"chunks": (16, 25)}
    noise = np.random.default_rng(0).integers(0, 256, (16, 16), dtype="u1")

    def strings(padding: int) -> Callable[[h5py.File], object]:
        kind = h5py.h5t.C_S1.copy()
        kind.set_size(6)
        kind.set_strpad(padding)
        return lambda file: h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((3,)))

    def skipped(file: h5py.File) -> None:
        one = file.create_dataset("x", (32, 16), "u1", chunks=(16, 16), **hdf5plugin.Blosc())
        one[:16], one[16:] = noise, 1

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((60, 50), "i4")
        layout[:] = h5py.VirtualSource(file["source"])
        file.create_virtual_dataset("x", layout)

    def with_source(file: h5py.File) -> None:
        file["source"] = data
        virtual(file)

    def other_fill(file: h5py.File) -> None:
        one = file.create_dataset("x", (10,), "f4", chunks=(5,), fillvalue=1)
        one.attrs["_FillValue"] = np.float32(9)

    return {
        "lzf": (lambda file: file.create_dataset("x", data=data, **chunked, compression="lzf"), "the filter lzf"),
        "bitshuffle": (lambda f: f.create_dataset("x", data=data, **chunked, **hdf5plugin.Bitshuffle()), "no codec"),
        "blosc2": (lambda f: f.create_dataset("x", data=data, **chunked, **hdf5plugin.Blosc2()), "no codec"),
        "scaleoffset": (lambda f: f.create_dataset("x", data=data, **chunked, scaleoffset=12), "no codec"),
        "null": (lambda file: file.create_dataset("x", data=h5py.Empty("f4")), "empty dataspace"),
        "references": (lambda f: f.create_dataset("x", (3,), h5py.ref_dtype), "references of HDF5"),
        "rows": (lambda f: f.create_dataset("x", (3,), h5py.vlen_dtype("i4")), "variable length"),
        "padded": (
            lambda f: f.create_dataset("x", (3,), np.dtype([("a", "i1"), ("b", "f8")], align=True)),
            "unused bytes between its fields",
        ),
        "nested": (lambda f: f.create_dataset("x", (3,), np.dtype([("a", "i4", (2,))])), "the field a is an array"),
        "longdouble": (lambda f: f.create_dataset("x", (3,), np.longdouble), "zarr has no type"),
        "null-terminated": (strings(h5py.h5t.STR_NULLTERM), "end at a null byte"),
        "space-padded": (strings(h5py.h5t.STR_SPACEPAD), "padded with spaces"),
        "skipped": (skipped, "chunk 1 and others of /x differ in whether the filter blosc"),
        "virtual": (with_source, "virtual dataset"),
        "external": (lambda f: f.create_dataset("x", (5,), "i4", external=[("x.raw", 0, 20)]), "external files"),
        "two fill values": (other_fill, "zarr has only one such value"),
        "name": (lambda file: file.create_dataset("..", data=data), "cannot use this name"),
    }


def make(path: str | Path, output: str | Path, inline_nbytes: int = 500, skip_unsupported: bool = False) -> Any:
    """Make references in this process, and return the result."""
    return make_references(str(path), str(output), f"file://{path}", inline_nbytes, skip_unsupported)


def read(references: str | Path) -> dict[str, Any]:
    """Return all arrays that references describe."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return arrays_of(str(references))


def read_apart(references: str | Path, folder: Path) -> dict[str, Any]:
    """Return all arrays that a process reads which has no HDF5."""
    out = folder / "read.npz"
    path = parse_output("references", references)
    run = run_python("-W", "ignore", "-m", "tests.support.references.reader", path, out, timeout=60)
    assert run.returncode == 0, run.stderr
    with np.load(out) as found:
        return dict(found)


def expected(path: str | Path) -> dict[str, Any]:
    """Return all datasets of a file, as h5py reads them."""
    found: dict[str, Any] = {}

    def take(name: str, one: Any) -> None:
        if isinstance(one, h5py.Dataset) and one.shape is not None:
            text = h5py.check_string_dtype(one.dtype)
            value = one[()] if text is None or text.length is not None else one.asstr()[()]
            found[name] = np.asarray(value).astype("U") if one.dtype.kind == "O" else np.asarray(value)

    with h5py.File(path) as file:
        file.visititems(take)
    return found


def require_equal(found: dict[str, Any], right: dict[str, Any]) -> None:
    """Compare arrays by their names, with the bytes of their elements."""
    assert found.keys() == right.keys()
    for name, value in right.items():
        mine = found[name]
        assert (mine.shape, mine.dtype.kind) == (value.shape, value.dtype.kind), name
        if mine.dtype.kind == "U":
            assert mine.tolist() == value.tolist(), name
        else:
            assert mine.astype(value.dtype).tobytes() == value.tobytes(), name


def refs(path: str | Path) -> dict[str, Any]:
    """Return the references of a JSON file."""
    document = json.loads(Path(path).read_text())
    assert document["version"] == 1
    found: dict[str, Any] = document["refs"]
    return found
