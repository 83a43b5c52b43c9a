"""Files as other libraries make them, for copies of whole files; and the comparison of copies."""

from __future__ import annotations

import importlib
import re
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.support.drafts.structures import make_reference

MATLAB_HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Fri Nov 27 02:00:00 2026 HDF5 schema 1.00 ."


def _numbers(shape: tuple[int, ...], dtype: str = "<i2") -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).integers(-99, 99, shape).astype(dtype)


def _every_kind(libver: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        make_reference(path)
        with h5py.File(path, "r+", libver=libver) as file:
            _more_kinds(file)

    return make


def _more_kinds(file: h5py.File) -> None:
    """Add what the structure of drafts does not have: deep types, comments, anonymous types, references in fields."""
    group = file.create_group("more", track_order=True)
    group["z"], group["a"] = _numbers((300, 20)), h5py.SoftLink("/more/z")
    h5py.h5o.set_comment(group.id, b"a comment on a group")
    h5py.h5o.set_comment(group["z"].id, b"a comment on a dataset")
    refers = np.dtype(
        [("ref", h5py.ref_dtype), ("at", "<i4"), ("region", h5py.regionref_dtype), ("text", h5py.string_dtype())]
    )
    rows = group.create_dataset("refers", (3,), refers, chunks=(2,))
    rows[0] = (group.ref, 1, group["z"].regionref[3:9, 2], "first")
    rows[2] = (rows.ref, 2, group["z"].regionref[[1, 5, 7], 1], "third")
    group["z"].attrs["list"] = np.array([group.ref, rows.ref], h5py.ref_dtype)
    lists = np.empty(2, object)
    lists[:] = [np.array([group.ref], h5py.ref_dtype), np.array([rows.ref, group["z"].ref], h5py.ref_dtype)]
    group.attrs.create("lists", lists, dtype=h5py.vlen_dtype(h5py.ref_dtype))
    vlen = group.create_dataset("vlen", (4,), h5py.vlen_dtype("<f8"), chunks=(3,), compression="gzip")
    vlen[1], vlen[3] = np.arange(5.0), np.arange(2.0)
    group["array"] = np.zeros(3, np.dtype(("<i4", (2, 2))))
    group.create_dataset("opaque", data=np.array([b"abc", b"def"], "V3"))
    file["named"] = np.dtype("<f4")
    typed = h5py.h5d.create(group.id, b"typed", file["named"].id, h5py.h5s.create_simple((5,)))
    typed.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(5, dtype="f4"))
    group.attrs.create("typed", 7, dtype=file["named"])
    file["named"].attrs["of a type"] = "yes"
    bits = h5py.h5d.create(group.id, b"bits", h5py.h5t.STD_B16BE, h5py.h5s.create_simple((6,)))
    bits.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(6, dtype=">u2"), h5py.h5t.STD_B16BE)
    for n in range(40):
        group.attrs[f"attribute {n:02d}"] = n
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_external(b"outside.raw", 0, 80)
    (Path(file.filename).parent / "outside.raw").write_bytes(bytes(80))
    h5py.h5d.create(group.id, b"external", h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((10,)), plist)
    many = group.create_group("many")
    for n in range(60):
        many.create_group(f"{n}").attrs["n"] = n
    group["loop"] = group
    many["root"] = file["/"]


def _old_and_plain(path: Path) -> None:
    with h5py.File(path, "w", libver="earliest") as file:
        file["x"] = _numbers((100, 7))
        file.create_dataset("y", data=_numbers((64, 64)), chunks=(16, 16), compression="gzip", fletcher32=True)
        file.create_group("g").attrs["a"] = [1, 2]


def _of_libver(libver: str, most_of_attribute: int = 20_000) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with h5py.File(path, "w", libver=(libver, "latest") if libver != "latest" else libver) as file:
            for n, most in enumerate([(None, 30), (90, 30), (None, None)]):
                file.create_dataset(f"x{n}", data=_numbers((90, 30)), chunks=(20, 8), maxshape=most, compression="gzip")
            file.create_dataset("single", data=_numbers((20, 8)), chunks=(20, 8), shuffle=True, compression=1)
            file.attrs["large"] = np.zeros(most_of_attribute, "<i8")
            dense = file.create_group("dense", track_order=True)
            for n in reversed(range(50)):
                dense[f"link {n}"] = h5py.SoftLink("/x0")

    return make


def _matlab(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        x = file.create_dataset("x", data=_numbers((50, 4), "<f8"), chunks=(10, 4), compression="gzip")
        x.attrs["MATLAB_class"] = np.bytes_("double")
        words = file.create_dataset("#refs#/a", data=np.frombuffer(b"h\0i\0", "<u2").reshape(2, 1))
        words.attrs["MATLAB_class"], words.attrs["MATLAB_int_decode"] = np.bytes_("char"), np.int32(2)
        file["#refs#/b"] = np.arange(3.0)
        cells = file.create_dataset("cells", (2, 1), h5py.ref_dtype)
        cells[:, 0] = [words.ref, file["#refs#/b"].ref]
        cells.attrs["MATLAB_class"] = np.bytes_("cell")
        file.create_group("s")["field"] = np.ones((1, 1))
        file["s"].attrs["MATLAB_class"] = np.bytes_("struct")
        fields = np.empty(1, object)
        fields[0] = np.array([b"f", b"i"], "S1")
        file["s"].attrs.create("MATLAB_fields", fields, dtype=h5py.vlen_dtype(np.dtype("S1")))
    with open(path, "r+b") as file:
        file.write(MATLAB_HEADER.ljust(124) + b"\0\2IM")


def _pytables_layout(path: Path) -> None:
    """As PyTables writes a table and an array that can grow (see also `_pytables`, by the library itself)."""
    with h5py.File(path, "w", libver=("earliest", "latest")) as file:
        file.attrs["TITLE"], file.attrs["CLASS"] = np.bytes_("t"), np.bytes_("GROUP")
        rows = np.zeros(500, np.dtype([("index", "<i8"), ("values_block_0", "<f8", (3,)), ("name", "S8")]))
        rows["index"], rows["values_block_0"] = np.arange(500), _numbers((500, 3), "<f8")
        table = file.create_dataset("df/table", data=rows, chunks=(100,), maxshape=(None,), shuffle=True, compression=5)
        table.attrs["CLASS"], table.attrs["VERSION"] = np.bytes_("TABLE"), np.bytes_("2.7")
        table.attrs["FIELD_0_FILL"] = np.int64(0)
        file.create_dataset("earray", data=_numbers((64, 5)), chunks=(16, 5), maxshape=(None, 5))


def _pytables(path: Path) -> None:
    tables = importlib.import_module("tables")
    with tables.open_file(str(path), "w", filters=tables.Filters(complevel=5, complib="zlib", shuffle=True)) as file:
        file.create_carray("/", "c", obj=_numbers((100, 10)))
        file.create_vlarray("/", "v", tables.Int32Atom()).append([1, 2, 3])
        file.create_table("/", "t", np.zeros(10, [("a", "<i4"), ("b", "S3")]))


def _pandas(path: Path) -> None:
    importlib.import_module("tables")
    pandas = importlib.import_module("pandas")
    frame = pandas.DataFrame({"a": np.arange(100), "b": ["x"] * 100})
    frame.to_hdf(path, key="df", format="table", complevel=4)


def _netcdf4(path: Path) -> None:
    netcdf4 = importlib.import_module("netCDF4")
    with netcdf4.Dataset(path, "w") as file:
        file.createDimension("t", None)
        file.createDimension("x", 12)
        file.createVariable("x", "f4", ("x",))[:] = np.arange(12)
        data = file.createVariable("data", "i2", ("t", "x"), zlib=True, chunksizes=(10, 12), fill_value=-9)
        data[:] = _numbers((50, 12))
        data.units = "mV"
        file.createVariable("names", str, ("x",))[0] = "first"
        kind = file.createCompoundType(np.dtype([("a", "f4"), ("b", "i4")]), "pair")
        file.createVariable("pairs", kind, ("x",))[:] = np.zeros(12, [("a", "f4"), ("b", "i4")])
        file.createGroup("inner").createVariable("y", "f8", ("t",))[:] = np.arange(50)


def _h5netcdf(path: Path) -> None:
    h5netcdf = importlib.import_module("h5netcdf")
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"x": 40, "t": None}
        file.create_variable("v", ("x",), data=np.arange(40.0), chunks=(10,), compression="gzip")
        file.create_variable("/g/w", ("x",), data=np.arange(40)).attrs["n"] = 3


def _nwb(path: Path) -> None:
    pynwb = importlib.import_module("pynwb")
    from datetime import UTC, datetime

    nwb = pynwb.NWBFile(
        session_description="a session", identifier="id", session_start_time=datetime(2026, 11, 27, tzinfo=UTC)
    )
    raw = pynwb.TimeSeries(
        name="raw", data=pynwb.H5DataIO(_numbers((200, 4)), chunks=(50, 4), compression="gzip"), unit="V", rate=1.0
    )
    nwb.add_acquisition(raw)
    nwb.add_trial_column(name="series", description="where")
    nwb.add_trial(start_time=0.0, stop_time=1.0, timeseries=[raw], series="a")
    nwb.add_trial(start_time=1.0, stop_time=2.0, timeseries=[raw], series="b")
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(nwb)


def _anndata(path: Path) -> None:
    anndata, sparse = importlib.import_module("anndata"), importlib.import_module("scipy.sparse")
    pandas = importlib.import_module("pandas")
    cells = pandas.DataFrame({"kind": pandas.Categorical(["a", "b"] * 25)}, index=[f"c{n}" for n in range(50)])
    anndata.AnnData(sparse.csr_matrix(_numbers((50, 30), "<f4")), cells).write_h5ad(path, compression="gzip")


def _repacked_by_h5repack(options: Sequence[str]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        before = path.with_suffix(".before")
        _of_libver("v110", 100)(before)
        subprocess.run(["h5repack", *options, str(before), str(path)], check=True, capture_output=True)
        before.unlink()

    return make


# Each file, the modules that it needs, and who makes it.
FILES: dict[str, tuple[tuple[str, ...], Callable[[Path], None]]] = {
    "every kind, as it is": ((), _every_kind(None)),
    "every kind, latest": ((), _every_kind("latest")),
    "old": ((), _old_and_plain),
    "v108": ((), _of_libver("v108")),
    "v110": ((), _of_libver("v110")),
    "v112": ((), _of_libver("v112")),
    "v114": ((), _of_libver("v114")),
    "latest": ((), _of_libver("latest")),
    "matlab": ((), _matlab),
    "layout of PyTables": ((), _pytables_layout),
    "pytables": (("tables",), _pytables),
    "pandas": (("tables", "pandas"), _pandas),
    "netcdf4": (("netCDF4",), _netcdf4),
    "h5netcdf": (("h5netcdf",), _h5netcdf),
    "nwb": (("pynwb",), _nwb),
    "anndata": (("anndata", "scipy"), _anndata),
    "h5repack": ((), _repacked_by_h5repack([])),
    "h5repack -L": ((), _repacked_by_h5repack(["-L"])),
    "h5repack -f": ((), _repacked_by_h5repack(["-f", "SHUF", "-f", "GZIP=2"])),
    "h5repack -S PAGE": ((), _repacked_by_h5repack(["-S", "PAGE", "-G", "8192"])),
}

_PLACES = re.compile(r"(OFFSET|SIZE|DATASET|GROUP|DATATYPE) \d+")
_PASSING = ("HDF5 ", "OFFSET ", "SIZE ", "USERBLOCK_SIZE")


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """Run one of HDF5's tools in the folder of the file that it looks at."""
    folder = Path(str(words[-1])).parent
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, cwd=folder)


def is_readable(path: Path) -> bool:
    """Return whether HDF5's tools can read a file; those of 1.10 do not know the latest format."""
    return run("h5dump", path).returncode == 0


def dumped(path: Path, *options: str) -> list[str]:
    """Return what h5dump says of a file, without the places of objects."""
    told = run("h5dump", "-p", *options, path)
    lines = (_PLACES.sub(r"\1", line) for line in told.stdout.splitlines())
    return [line for line in lines if not line.strip().startswith(_PASSING)]


def require_alike(path: Path, other: Path, *options: str) -> None:
    """Compare two files by h5diff and h5dump.

    Raises
    ------
    AssertionError
        If they differ.
    """
    told = run("h5diff", "-v", path, other)
    # h5diff of HDF5 1.10 crashes on fields of references beside text; h5dump shows the same elements.
    assert told.returncode in (0, -signal.SIGSEGV), told.stdout[-3000:] + told.stderr
    mine, theirs = dumped(path, *options), dumped(other, *options)
    differing = [pair for pair in zip(mine, theirs, strict=False) if pair[0] != pair[1]]
    assert mine == theirs, differing[:5]
