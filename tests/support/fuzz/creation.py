"""Random datasets, created and written by plain h5py and by us with the same keywords: they must not differ.

::

    python -m tests.support.fuzz.creation --runs 1000 [--seed 1]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

import dask_chunkio as dcio
from dask_chunkio.errors import ChunkIOError
from tests.support.iterators import FromArray
from tests.support.processes import ROOT

DOCUMENTS = ROOT / "docs" / "differences.md"
INTEGERS = [order + kind for order in "<>" for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")]
FLOATS = [order + kind for order in "<>" for kind in ("f2", "f4", "f8")]
OTHERS = ["g", "<c8", ">c8", "<c16", "G", "?", "S1", "S7", "V3"]
INNER = np.dtype([("t", "<f8"), ("channel", ">u2"), ("label", "S3")])
NAMED: dict[str, np.dtype[Any]] = {
    "compound": INNER,
    "nested": np.dtype([("at", INNER), ("pixels", ">i2", (2, 3)), ("on", "?")]),
    "padded": np.dtype([("a", "i1"), ("b", [("c", "f8"), ("d", "S3")]), ("e", "g")], align=True),
    "holes": np.dtype({"names": ["a", "b"], "formats": ["u1", "<f4"], "offsets": [2, 8], "itemsize": 16}),
    "complex in it": np.dtype([("z", "c8"), ("n", h5py.enum_dtype({"A": 0, "B": 1}, "i2"))]),
    "enum": h5py.enum_dtype({"OFF": 0, "ON": 1, "UNKNOWN": 40}, basetype="i2"),
    "UTF-8": h5py.string_dtype("utf-8", 5),
    "ASCII": h5py.string_dtype("ascii", 9),
    "time": h5py.opaque_dtype("M8[us]"),
    "strings": h5py.string_dtype(),
    "ASCII strings": h5py.string_dtype("ascii"),
    "lists": h5py.vlen_dtype("i4"),
    "lists of compounds": h5py.vlen_dtype(INNER),
    "record": np.dtype([("name", h5py.string_dtype()), ("hits", h5py.vlen_dtype("f4")), ("x", "i2")]),
    "StringDType": np.dtypes.StringDType(),
    "references": h5py.ref_dtype,
    "U": np.dtype("U4"),
    "M8": np.dtype("M8[s]"),
}
# With what `dtype=` says, where it is not the source's.
STORED: dict[str, list[Any]] = {
    "compound": [np.dtype([("label", "S5"), ("t", "<f4"), ("channel", "<u4")]), np.dtype([("t", "f8")])],
    "nested": [np.dtype([("on", "u1"), ("at", [("label", "S2"), ("t", "<f8")])])],
    "padded": [np.dtype([("e", "f8"), ("a", "i2")])],
    "enum": ["i4", "i1", "f4"],
    "U": [h5py.string_dtype()],
    "S7": ["S3", "S9", h5py.string_dtype(), h5py.string_dtype("utf-8", 7), "i4"],
    "M8": [h5py.opaque_dtype("M8[s]")],
}
PLUGINS: dict[str, list[dict[str, Any]]] = {
    "zstd": [{}, {"clevel": 9}],
    "lz4": [{}, {"nbytes": 1024}],
    "bitshuffle": [
        {},
        {"cname": "zstd", "clevel": 3},
        {"cname": "none"},
        {"nelems": 8, "cname": "none"},
        {"nelems": 64},
    ],
    "blosc": [{}, {"cname": "zlib", "shuffle": 2}, {"cname": "zstd", "clevel": 0}],
    "blosc2": [{}, {"cname": "zstd", "filters": 2}],
    "bzip2": [{}, {"blocksize": 2}],
    "zfp": [{"reversible": True}, {"rate": 16}, {"accuracy": 0.01}],
    "sz3": [{"absolute": 0.01}],
}
CLASSES = {
    "zstd": hdf5plugin.Zstd,
    "lz4": hdf5plugin.LZ4,
    "bitshuffle": hdf5plugin.Bitshuffle,
    "blosc": hdf5plugin.Blosc,
    "blosc2": hdf5plugin.Blosc2,
    "bzip2": hdf5plugin.BZip2,
    "zfp": hdf5plugin.Zfp,
    "sz3": hdf5plugin.SZ3,
    "fcidecomp": hdf5plugin.FciDecomp,
}
VERSIONS: list[Any] = [
    None,
    None,
    "earliest",
    "v108",
    "v110",
    "v112",
    "v114",
    "latest",
    ("earliest", "v110"),
    ("v108", "latest"),
]

# A name of a filter, and its parameters.
Plugin = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One dataset, as both are told to make it."""

    seed: int
    name: str
    shape: tuple[int, ...]
    chunks: Any
    buffer_shape: tuple[int, ...] | None
    stored: Any
    options: dict[str, Any]
    plugin: Plugin | None
    libver: Any
    source: str
    scheduler: str

    @property
    def dtype(self) -> np.dtype[Any]:
        return NAMED.get(self.name) or np.dtype(self.name)

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        return self.dtype if self.stored is None else np.dtype(self.stored)

    @property
    def is_variable(self) -> bool:
        return self.stored_dtype.hasobject

    @property
    def keywords(self) -> dict[str, Any]:
        """For h5py."""
        found = dict(self.options)
        if self.plugin:
            found |= CLASSES[self.plugin[0]](**self.plugin[1])
        if self.shape:
            found["chunks"] = self.chunks
        return found

    @property
    def ours(self) -> dict[str, Any]:
        found = dict(self.options)
        if self.plugin:
            found |= {"compression": self.plugin[0], "compression_opts": dict(self.plugin[1])}
        if self.shape:
            found |= {"chunks": self.chunks, "buffer_shape": self.buffer_shape}
        return found if self.stored is None else {**found, "dtype": self.stored}


def case_of(seed: int, processes: bool = False) -> Case:
    """Return the case that a seed stands for."""
    rng = random.Random(seed)
    name = rng.choice([*INTEGERS, *FLOATS, *OTHERS, *OTHERS, *NAMED])
    shape = tuple(rng.choice([rng.randint(1, 9), rng.randint(0, 14)]) for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 4])))
    while math.prod(shape) > 900:
        shape = shape[:-1]
    maxshape: tuple[int | None, ...] | None
    maxshape = rng.choice([None, tuple(rng.choice([None, n, n + 3]) for n in shape)]) if shape else None
    chunks: tuple[int, ...] | bool = True
    buffer: tuple[int, ...] | None = None
    if shape and not (0 in shape and maxshape is None):
        chunks = tuple(
            rng.randint(max(1, -(-n // 4)), max(1, n) + (5 if limit is None else 0))
            for n, limit in zip(shape, maxshape or shape, strict=True)
        )
        if rng.random() < 0.6:
            buffer = tuple(rng.choice([c * rng.randint(1, 3), max(n, 1)]) for c, n in zip(chunks, shape, strict=True))
            buffer = tuple(
                b if b % c == 0 or b >= n else -(-b // c) * c for b, c, n in zip(buffer, chunks, shape, strict=True)
            )
    dtype = NAMED.get(name) or np.dtype(name)
    stored: Any = None
    if rng.random() < 0.35:
        others = STORED.get(name) or (INTEGERS + FLOATS + ["c16", "?", "S4"] if dtype.kind in "biufc" else [None])
        stored = rng.choice(others)
    target = dtype if stored is None else np.dtype(stored)
    options, plugin = _filters(rng, target, shape)
    if maxshape is not None:
        options["maxshape"] = maxshape
    if rng.random() < 0.4 and target.kind not in "OMT" and not target.hasobject:
        options["fillvalue"] = _fill(rng, target)
    if rng.random() < 0.3:
        options["fill_time"] = rng.choice(["alloc", "never", "ifset"])
    for keyword in ("track_times", "track_order"):
        if rng.random() < 0.3:
            options[keyword] = rng.choice([True, False])
    source = rng.choice(["array", "array", "Fortran", "iterator", "dask", "serial"])
    scheduler = "processes" if processes else rng.choice(["synchronous", "threads"])
    libver = rng.choice(VERSIONS)
    return Case(seed, name, shape, chunks, buffer, stored, options, plugin, libver, source, scheduler)


def _filters(  # noqa: C901
    rng: random.Random, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> tuple[dict[str, Any], Plugin | None]:
    found: dict[str, Any] = {}
    if not shape or rng.random() < 0.25:
        return found, None
    plugin = None
    kind = rng.choice(["gzip", "level", "lzf", "szip", "plugin", "plugin", "none"])
    if kind == "gzip":
        found["compression"] = "gzip"
        if rng.random() < 0.7:
            found["compression_opts"] = rng.randint(0, 9)
    elif kind == "level":
        found["compression"] = rng.randint(0, 9)
    elif kind == "lzf":
        found["compression"] = "lzf"
    elif kind == "szip":
        found["compression"] = "szip"
        if rng.random() < 0.7:
            found["compression_opts"] = (rng.choice(["nn", "ec"]), rng.choice([2, 4, 8, 16, 32]))
    elif kind == "plugin":
        name = rng.choice(list(PLUGINS))
        if name in ("zfp", "sz3") and dtype.kind not in "f" and rng.random() < 0.9:
            name = "zstd"
        plugin = name, rng.choice(PLUGINS[name])
    if rng.random() < 0.4:
        found["shuffle"] = rng.choice([True, True, False])
    if rng.random() < 0.25:
        found["fletcher32"] = True
    elif rng.random() < 0.25:
        found["scaleoffset"] = rng.choice([0, 3, True] if dtype.kind in "iu" else [0, 2, 5])
    return found, plugin


def _fill(rng: random.Random, dtype: np.dtype[Any]) -> Any:
    value = content(dtype, (1,), rng.randint(0, 99))[0]
    if dtype.kind in "iufb" and rng.random() < 0.5:
        return rng.choice([0, 1, 3, value.item(), np.nan if dtype.kind == "f" else 2])
    return value


# Data


def content(dtype: Any, shape: tuple[int, ...], seed: int) -> Any:  # noqa: PLR0911
    """Return elements: small, of any bits, or zeros."""
    rng = np.random.default_rng(seed)
    count = math.prod(shape)
    if dtype.names is not None:
        data = np.zeros(shape, dtype)
        for number, name in enumerate(dtype.names):
            inner = dtype[name]
            data[name] = content(inner.base, shape + inner.shape, seed + number)
        return data
    if dtype.hasobject or dtype.kind in "TU":
        return _objects(dtype, count, rng).reshape(shape)
    kind = seed % 3
    if kind == 0:
        return np.zeros(shape, dtype)
    if dtype.kind in "Mm":
        return rng.integers(0, 1000, shape).astype("i8").view(dtype)
    if dtype.char in "gG" or kind == 1 or dtype.kind == "b":
        if dtype.kind == "V":
            return rng.integers(0, 50, (count, dtype.itemsize), "u1").reshape(-1).view(dtype).reshape(shape)
        return rng.integers(0, 2 if dtype.kind == "b" else 50, shape).astype(dtype)
    raw = np.frombuffer(bytearray(rng.bytes(count * dtype.itemsize)), "u1")
    return (np.maximum(raw & 127, 1) if dtype.kind == "S" else raw).view(dtype).reshape(shape)


def _objects(dtype: np.dtype[Any], count: int, rng: np.random.Generator) -> NDArray[Any]:
    found = np.empty(count, dtype)
    base = h5py.check_vlen_dtype(dtype) if dtype.kind == "O" else None
    for number in range(count):
        length = int(rng.integers(0, 4))
        if h5py.check_ref_dtype(dtype):
            found[number] = None
        elif base in (None, str, bytes) or dtype.kind in "TU":
            found[number] = (b"ab" if base is bytes else "aä") * length
        else:
            found[number] = content(np.dtype(base), (length,), number % 2 + 1)
    return found


class Serial:
    """A source that nobody knows: read one buffer at a time."""

    def __init__(self, data: Any) -> None:
        self.data, self.shape, self.dtype = data, data.shape, data.dtype

    def __getitem__(self, selection: Any) -> Any:
        return self.data[selection]


def source_of(case: Case, data: NDArray[Any]) -> Any:
    if case.source == "dask" and data.dtype.kind != "T" and (not data.dtype.metadata or data.dtype.kind == "O"):
        return da.from_array(data, chunks=max(1, max(data.shape, default=1) // 2))
    if case.source == "iterator" and data.shape and 0 not in data.shape:
        return FromArray(data)
    if case.source == "serial":
        return Serial(data)
    return np.array(data, order="F") if case.source == "Fortran" and data.dtype.names is None else data


# Comparison

# What we refuse and h5py stores: the words that say so in docs/differences.md.
DOCUMENTED = {
    "would be lost": "what loses signs, fractions or imaginary parts",
    "numbers would become truth values": "what loses signs, fractions or imaginary parts",
    "names FALSE and TRUE": "truth values into enumerations",
    "no type for datetime64": "`datetime64` and `timedelta64`",
    "no type for numpy's": "`<U`",
    "their bytes mean different things": "strings into opaque",
}
# h5py does not look at dtypes where there are no elements.
OF_NO_ELEMENTS = {"cannot be stored as": "arrays without elements too"}
# What we store and h5py refuses.
MORE = {
    "M8": "`datetime64` and `timedelta64` are stored where `dtype=h5py.opaque_dtype(...)` is given",
}


REFUSED: list[tuple[str, str]] = []


class DiffersError(AssertionError):
    """Ours is not h5py's."""


def require(condition: object, what: str, *values: object) -> None:
    if not condition:
        raise DiffersError(f"{what}: {' | '.join(map(repr, values))}")


def check(case: Case) -> str:
    """Return what came of a case: stored, or refused by both, or by us and the documents."""
    data = content(case.dtype, case.shape, case.seed)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, ours = os.path.join(folder, "theirs.h5"), os.path.join(folder, "ours.h5")
        error = by_h5py(case, data, theirs)
        try:
            with dask.config.set(num_workers=2):
                dcio.to_hdf5(
                    ours, "/x", source_of(case, data), libver=case.libver, scheduler=case.scheduler, **case.ours
                )
        except ChunkIOError as refused:
            require(not set(os.listdir(folder)) - {"theirs.h5"}, "left behind", os.listdir(folder))
            if error is not None:
                REFUSED.append((str(error)[:90], str(refused)[:160]))
                return "refused by both"
            known = DOCUMENTED if data.size else {**DOCUMENTED, **OF_NO_ELEMENTS}
            words = [document for part, document in known.items() if part in str(refused)]
            require(words, "refused by us only", str(refused))
            return "refused by us, as documented"
        if error is not None:
            require(case.name in MORE, "refused by h5py only", repr(error))
            return "stored by us, as documented"
        compare(case, ours, theirs)
    return "stored by both"


def by_h5py(case: Case, data: NDArray[Any], path: str) -> Exception | None:
    """Write by plain h5py; return its error."""
    has_no_size = case.stored_dtype.kind in "OT" and h5py.check_ref_dtype(case.stored_dtype) is None
    if case.plugin and case.plugin[0].startswith("blosc") and has_no_size and case.shape:
        return RuntimeError("it divides by zero, which ends the process")
    is_packed = "scaleoffset" in case.options and (case.plugin or (case.options.get("compression"),))[0]
    if case.shape and is_packed in ("szip", "zfp", "sz3"):
        return RuntimeError("it writes beyond its memory")
    dtype, plugin = case.stored_dtype, case.plugin[0] if case.plugin and case.shape else None
    if (
        plugin == "sz3"
        and dtype.itemsize <= 2
        and math.prod(case.chunks if isinstance(case.chunks, tuple) else case.shape) * dtype.itemsize < 128
    ):
        return RuntimeError("it writes beyond its memory")
    is_number = dtype.kind in "iu" or (dtype.kind == "f" and dtype.itemsize in (4, 8))
    is_swapped = dtype.kind in "iuf" and dtype != native(dtype)
    if (plugin == "sz3" and not is_number) or (plugin in ("sz3", "zfp") and is_swapped):
        return RuntimeError("it ends the process, or loses the values")
    try:
        with h5py.File(path, "w", libver=case.libver) as file:
            made = file.create_dataset("x", case.shape, case.stored_dtype, **case.keywords)
            if made.dtype.hasobject or data.dtype.kind == "T":
                _write_objects(made, data)
            else:
                made[...] = data
    except (TypeError, ValueError, OSError, RuntimeError, NotImplementedError, OverflowError) as error:
        return error
    return None


def _write_objects(made: h5py.Dataset, data: NDArray[Any]) -> None:
    """Write element by element: h5py takes arrays of objects for other things."""
    if data.dtype.kind in "STU" or h5py.check_string_dtype(made.dtype) is not None:
        made[...] = data
        return
    made.id.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(data))


def is_exact(case: Case) -> bool:
    """Whether HDF5 converts nothing by the software that errs."""
    parts = [part for dtype in (case.dtype, case.stored_dtype) for part in flat(dtype)]
    return case.dtype == case.stored_dtype or all(part == part.newbyteorder("=") for part in parts)


def depends_on_memory(case: Case) -> bool:
    """Whether lossy values depend on what HDF5 leaves behind the edge of a dataset that is never filled."""
    is_lossy = case.plugin is not None and case.plugin[0] in ("sz3", "zfp")
    return is_lossy and bool(case.shape) and case.options.get("fill_time") == "never"


def flat(dtype: Any) -> list[Any]:
    if dtype.names is None:
        return [dtype.base] if dtype.kind in "iufc" else []
    return [part for name in dtype.names for part in flat(dtype[name].base)]


def compare(case: Case, ours: str, theirs: str) -> None:
    with h5py.File(ours) as mine, h5py.File(theirs) as yours:
        a, b = mine["x"], yours["x"]
        require(mine.libver == yours.libver, "libver", mine.libver, yours.libver)
        require(a.id.get_type().equal(b.id.get_type()), "type", a.dtype, b.dtype)
        require((a.shape, a.maxshape) == (b.shape, b.maxshape), "shape", a.shape, b.shape)
        compare_properties(case, a, b)
        expected = b[() if not case.shape else ...] if is_exact(case) else through_native(case)
        if not depends_on_memory(case):
            compare_values(a[()] if not case.shape else a[...], expected)
        if case.chunks is not True and case.shape and not case.is_variable:
            compare_chunks(case, a, b)
    compare_dumps(ours, theirs)


def through_native(case: Case) -> Any:
    """Return what h5py stores of native numbers as native numbers, in the order of the dataset."""
    data = content(case.dtype, case.shape, case.seed)
    with h5py.File("oracle", "w", driver="core", backing_store=False, rdcc_nbytes=0) as file:
        lossy = {key: value for key, value in case.keywords.items() if key in ("scaleoffset", "fillvalue", "maxshape")}
        lossy = lossy if case.chunks is not True and case.shape else {}
        plugin = case.plugin and case.plugin[0] in ("zfp", "sz3")
        if plugin:
            return None
        made = file.create_dataset(
            "x", case.shape, native(case.stored_dtype), chunks=case.chunks if lossy else None, **lossy
        )
        made[...] = data.astype(native(data.dtype))
        return made[()] if not case.shape else made[...]


def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("=")


def compare_properties(case: Case, a: h5py.Dataset, b: h5py.Dataset) -> None:
    mine, yours = a.id.get_create_plist(), b.id.get_create_plist()
    if case.chunks is not True:
        require(a.chunks == b.chunks, "chunks", a.chunks, b.chunks)
    for get in ("get_layout", "get_fill_time", "get_alloc_time", "get_obj_track_times", "get_attr_creation_order"):
        require(getattr(mine, get)() == getattr(yours, get)(), get, getattr(mine, get)(), getattr(yours, get)())
    require(mine.fill_value_defined() == yours.fill_value_defined(), "fill value defined")
    filters = [[plist.get_filter(n) for n in range(plist.get_nfilters())] for plist in (mine, yours)]
    if case.chunks is True:  # Some filters' numbers tell the chunk shape.
        filters = [[one[0] for one in found] for found in filters]
    require(filters[0] == filters[1], "filters", *filters)
    if not case.is_variable:
        compare_values(a.fillvalue, b.fillvalue)


def compare_values(found: Any, expected: Any) -> None:
    if expected is None:
        return
    found, expected = np.asarray(found), np.asarray(expected)
    if expected.dtype.names is not None:
        for name in expected.dtype.names:
            compare_values(found[name], expected[name])
        return
    if not expected.dtype.hasobject:
        require(bits(found) == bits(expected), "values", found, expected)
        return
    require(found.shape == expected.shape, "shape of values", found.shape, expected.shape)
    for one, other in zip(found.reshape(-1), expected.reshape(-1), strict=True):
        if isinstance(other, np.ndarray):
            require(one.dtype == other.dtype, "dtype of an element", one.dtype, other.dtype)
            compare_values(one, other)
        elif isinstance(other, h5py.Reference):
            require(bool(one) == bool(other), "reference", one, other)
        else:
            require(one == other, "element", one, other)


def bits(values: Any) -> bytes:
    data: NDArray[Any] = np.ascontiguousarray(values.astype(native(values.dtype)))
    if data.dtype.char == "G":
        return bits(data.real) + bits(data.imag)
    if data.dtype.char == "g" and np.finfo("g").nmant == 63:
        data = data.reshape(-1).view("u1").reshape(-1, data.itemsize)[:, :10]
    return data.tobytes()


def compare_chunks(case: Case, a: h5py.Dataset, b: h5py.Dataset) -> None:
    mine, yours = chunks_of(case, a), chunks_of(case, b)
    require(mine.keys() == yours.keys(), "chunks that are there", mine.keys(), yours.keys())
    compression = case.options.get("compression")
    for origin, (mask, payload) in mine.items():
        other = yours[origin]
        if compression == "lzf":
            continue  # h5py's own payloads differ.
        is_same = isinstance(compression, str) and compression == "gzip"
        is_same |= isinstance(compression, int) and not isinstance(compression, bool)
        is_padded = any(part.char in "gG" for part in flat(case.stored_dtype)) or case.name in ("padded", "holes")
        # HDF5 leaves what was in memory behind the edge of a dataset that is never filled.
        is_cut = any(at + c > n for at, c, n in zip(origin, case.chunks, case.shape, strict=True))
        is_padded |= is_cut and case.options.get("fill_time") == "never"
        if is_exact(case):
            # A filter that makes data longer is skipped, which depends on these bytes too.
            wanted = mask_of_whole(case, a, origin) if is_padded and mask != other[0] else other[0]
            require(mask == wanted, "mask", origin, mask, wanted)
        if not is_same and is_exact(case) and not is_padded:
            require(payload == other[1], "payload", origin, payload[:40], other[1][:40])


def mask_of_whole(case: Case, dataset: h5py.Dataset, origin: tuple[int, ...]) -> int:
    """Return the mask that h5py gives a whole chunk of the same elements, of which none lies behind an edge."""
    keywords = {key: value for key, value in case.keywords.items() if key != "maxshape"}
    start, content = (0,) * len(case.chunks), io.BytesIO()
    mask, payload = dataset.id.read_direct_chunk(origin)
    with h5py.File(content, "w", libver=case.libver) as file:
        file.create_dataset("mine", case.chunks, case.stored_dtype, **keywords)
        file["mine"].id.write_direct_chunk(start, payload, mask)
    # Opened again: HDF5 does not know at once which filters a chunk has that was written past them.
    with h5py.File(content, "r+", libver=case.libver) as file:
        elements = file["mine"][...]
        made = file.create_dataset("made", case.chunks, case.stored_dtype, data=elements, **keywords)
        file.flush()
        return int(made.id.read_direct_chunk(start)[0])


def chunks_of(case: Case, dataset: h5py.Dataset) -> dict[tuple[int, ...], tuple[int, bytes]]:
    """Return {origin: (mask, payload)}, asked by coordinate."""
    found: dict[tuple[int, ...], tuple[int, bytes]] = {}
    for origin in itertools.product(*(range(0, n, c) for n, c in zip(case.shape, case.chunks, strict=True))):
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            found[origin] = dataset.id.read_direct_chunk(origin)
    return found


def compare_dumps(ours: str, theirs: str) -> None:
    if shutil.which("h5dump") is None:
        return
    dumps = [
        subprocess.run(
            ["h5dump", "-pH", os.path.basename(path)], cwd=os.path.dirname(path), capture_output=True, check=False
        )
        for path in (ours, theirs)
    ]
    require(dumps[0].returncode == dumps[1].returncode, "h5dump ends", dumps[0].stderr, dumps[1].stderr)
    texts = [_without_sizes(dump.stdout.decode("utf-8", "replace")) for dump in dumps]
    require(texts[0] == texts[1], "h5dump -pH", *texts)


def _without_sizes(text: str) -> list[str]:
    """Leave out what depends on the engine of deflate, on the file's layout, and on its name."""
    words = ("HDF5 ", "SIZE ", "OFFSET ")
    return [line for line in text.splitlines() if not line.strip().startswith(words)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--verbose", action="store_true", help="say what was refused, and how")
    parser.add_argument("--processes", type=int, default=400, help="one case of so many is written by processes")
    chosen = parser.parse_args()
    first = int.from_bytes(os.urandom(4), "little") if chosen.seed is None else chosen.seed
    failed, begun = 0, time.time()
    counts: dict[str, int] = {}
    for seed in range(first, first + chosen.runs):
        case = case_of(seed, seed % chosen.processes == chosen.processes - 1)
        try:
            came = check(case)
        except Exception as error:  # Of any kind: each is a finding.
            failed += 1
            came = "DIFFERS"
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:1500]}\n  {case}\n", flush=True)  # noqa: T201
        counts[came] = counts.get(came, 0) + 1
    print(f"{chosen.runs} cases from seed {first}, {time.time() - begun:.0f} s: {counts}")  # noqa: T201
    if chosen.verbose:
        print(*sorted(set(REFUSED)), sep="\n")  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
