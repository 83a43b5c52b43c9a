"""Random writes into files of other libraries, each compared with numpy through plain h5py; seeded, to be run again.

Usage: python -m tests.support.fuzz.existing_files [--runs N] [--seed S] [--makers NAME,NAME]

A file is made by h5py (every format, index, maxshape pattern, filter, skipped masks, partial chunks, user blocks, paged
file space), PyTables, netCDF4, h5netcdf or pandas.  Then regions, appends, overwrites and new datasets are written.
After each: the content is the model's; chunks that were not touched have the same bytes and masks; other datasets,
names, their order, attributes and what h5dump says of their structure are as they were; the index finds each chunk.
"""

import argparse
import ctypes
import importlib
import itertools
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

import dask_chunkio as dcio
from tests.support.files import MEMORY

LIBVERS = ("earliest", "v108", "v110", "v112", "v114", "v200", "latest")
DTYPES: tuple[Any, ...] = ("i2", "u1", ">i4", "f4", ">f8", "c8", "S5", [("a", "<i2"), ("b", ">f4")], "?")
NUMBERS = ("i2", "u1", ">i4", "f4", ">f8")
OTHERS = {"pytables": "tables", "netcdf4": "netCDF4", "h5netcdf": "h5netcdf", "pandas": "pandas"}


@dataclass
class Model:
    """What a dataset holds, how far each axis may grow, and what new elements are."""

    data: NDArray[Any]
    maxshape: tuple[int | None, ...]
    fill: Any


# The name of a dataset, and the box that was written; None for all of it.
Touched = tuple[str, tuple[slice, ...] | None]


def values(draw: random.Random, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Elements of any type, of which some compress and some do not."""
    rng = np.random.default_rng(draw.randrange(1 << 30))
    dtype = np.dtype(dtype)
    if dtype.names:
        made = np.zeros(shape, dtype)
        for name in dtype.names:
            made[name] = values(draw, shape, dtype[name])
        return made
    if dtype.kind == "S":
        return rng.integers(0, 10**dtype.itemsize, shape).astype(dtype)
    most = 2 if dtype.kind == "b" else draw.choice((3, 100))
    return rng.integers(0, most, shape).astype(dtype)


# Files of others


def make_h5py(path: Path, draw: random.Random) -> None:
    """Datasets of every layout, in a file of every format."""
    options: dict[str, Any] = {"libver": draw.choice(LIBVERS)}
    if draw.random() < 0.3:
        options["track_order"] = True
    if draw.random() < 0.4:
        options["fs_strategy"] = draw.choice(("page", "fsm", "aggregate", "none"))
        if options["fs_strategy"] in ("page", "fsm"):
            options["fs_persist"] = draw.random() < 0.5
        if options["fs_strategy"] == "page":
            options["fs_page_size"] = draw.choice((512, 4096))
    if draw.random() < 0.2:
        options["userblock_size"] = draw.choice((4096, 8192) if options.get("fs_strategy") == "page" else (512, 4096))
    with h5py.File(path, "w", **options) as file:
        file.attrs["title"] = "theirs"
        for number in range(draw.randint(1, 3)):
            make_dataset(file, draw.choice((f"d{number}", f"g/d{number}")), draw)
    if size := options.get("userblock_size"):
        with path.open("r+b") as raw:
            raw.write(bytes(range(256)) * (size // 256))


def make_dataset(file: h5py.File, name: str, draw: random.Random) -> None:
    """A dataset by h5py's low-level calls, which show all that HDF5 has."""
    rank = draw.randint(1, 4)
    shape = tuple(draw.randint(1, (14, 10, 6, 4)[rank - 1]) for _ in range(rank))
    dtype = np.dtype(draw.choice(DTYPES))
    kind = draw.choice(("chunked",) * 8 + ("contiguous", "compact"))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if draw.random() < 0.5:
        plist.set_fill_value(values(draw, (), dtype))
    limits: tuple[int | None, ...] = shape
    is_partial = False
    if kind == "chunked":
        chunks = tuple(draw.randint(1, n + 2) for n in shape)
        limits = tuple(draw.choice((n, 2 * n + 3, None)) for n in shape)
        limits = shape if draw.random() < 0.3 else limits
        # HDF5 takes chunks that are longer than a fixed axis only where that can grow.
        chunks = tuple(c if end is None else min(c, end) for c, end in zip(chunks, limits, strict=True))
        plist.set_chunk(chunks)
        add_filters(plist, dtype, draw)
        if draw.random() < 0.2:
            plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        # HDF5 2.0 itself cannot extend a dataset whose chunks at the edge skip the pipeline.
        if is_partial := draw.random() < 0.2 and limits == shape:
            library = ctypes.CDLL(h5py.defs.__file__)
            library.H5Pset_chunk_opts(ctypes.c_int64(plist.id), ctypes.c_uint(2))
    else:
        plist.set_layout(h5py.h5d.CONTIGUOUS if kind == "contiguous" else h5py.h5d.COMPACT)
    most = tuple(h5py.h5s.UNLIMITED if end is None else end for end in limits)
    space = h5py.h5s.create_simple(shape, most)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, plist, lcpl=links)
    dataset = file[name]
    dataset.attrs["unit"] = "mV"
    # (HDF5 2.0 itself cannot extend a dataset with that option and no chunks.)
    if is_partial or draw.random() < 0.8:
        dataset[some_region(draw, shape)] = values(draw, (), dtype)
    if kind == "chunked" and draw.random() < 0.5:
        skip_filters(dataset, draw)


def add_filters(plist: Any, dtype: np.dtype[Any], draw: random.Random) -> None:
    """A pipeline that the type allows."""
    choice = draw.choice(("none", "gzip", "gzip", "shuffle gzip", "lzf", "fletcher32", "scaleoffset", "plugin"))
    if "shuffle" in choice:
        plist.set_shuffle()
    if "gzip" in choice:
        plist.set_deflate(draw.randint(0, 9))
    if choice == "lzf":
        plist.set_filter(h5py.h5z.FILTER_LZF, h5py.h5z.FLAG_OPTIONAL)
    if choice == "scaleoffset" and dtype.kind in "iu":
        plist.set_scaleoffset(h5py.h5z.SO_INT, 0)
    if choice == "plugin" and dtype.kind in "iuf":
        made = draw.choice(
            (
                hdf5plugin.Zstd(),
                hdf5plugin.LZ4(),
                hdf5plugin.Blosc(cname="lz4"),
                hdf5plugin.Blosc2(cname="zstd"),
                hdf5plugin.Bitshuffle(nelems=8, cname="none"),
                hdf5plugin.Bitshuffle(cname="lz4"),
                hdf5plugin.BZip2(),
            )
        )
        plist.set_filter(made.filter_id, h5py.h5z.FLAG_OPTIONAL, made.filter_options)
    if choice == "fletcher32" or draw.random() < 0.2:
        plist.set_fletcher32()


def skip_filters(dataset: h5py.Dataset, draw: random.Random) -> None:
    """Store some chunks past every filter, with a mask that says so."""
    filters = dataset.id.get_create_plist().get_nfilters()
    if not filters or partial_unfiltered(dataset):
        return
    for origin in origins(dataset):
        if draw.random() < 0.4:
            chunk = np.ascontiguousarray(values(draw, dataset.chunks, dataset.dtype))
            # What lies beyond the dataset comes to light when it grows.
            padded = np.full(dataset.chunks, dataset.fillvalue, dataset.dtype)
            inside = tuple(slice(0, end - at) for at, end in zip(origin, dataset.shape, strict=True))
            padded[inside] = chunk[inside]
            dataset.id.write_direct_chunk(origin, padded.tobytes(), (1 << filters) - 1)


def partial_unfiltered(dataset: h5py.Dataset) -> bool:
    """Whether chunks at the edge skip the pipeline."""
    options = ctypes.c_uint()
    library, plist = ctypes.CDLL(h5py.defs.__file__), dataset.id.get_create_plist()
    library.H5Pget_chunk_opts(ctypes.c_int64(plist.id), ctypes.byref(options))
    return bool(options.value & 2)


def make_pytables(path: Path, draw: random.Random) -> None:
    """Carrays, earrays and arrays, whose growing axis may be any."""
    import tables

    with tables.open_file(str(path), "w") as file:
        for number in range(draw.randint(1, 3)):
            rank = draw.randint(1, 3)
            shape = tuple(draw.randint(1, 9) for _ in range(rank))
            dtype = np.dtype(draw.choice(NUMBERS)).newbyteorder("<")
            filters = tables.Filters(
                complevel=draw.randint(0, 9),
                complib=draw.choice(("zlib", "blosc", "bzip2", "blosc2:zstd")),
                shuffle=draw.random() < 0.5,
                fletcher32=draw.random() < 0.3,
            )
            data, kind = values(draw, shape, dtype), draw.choice(("array", "carray", "earray"))
            if kind == "array":
                file.create_array("/", f"d{number}", data)
            elif kind == "carray":
                file.create_carray("/", f"d{number}", obj=data, filters=filters)
            else:
                axis = draw.randrange(rank)
                grows = tuple(0 if n == axis else length for n, length in enumerate(shape))
                made = file.create_earray("/", f"d{number}", tables.Atom.from_dtype(dtype), grows, filters=filters)
                made.append(data)


def make_netcdf4(path: Path, draw: random.Random) -> None:
    """Variables with dimension scales, of which any dimension may be unlimited."""
    import netCDF4

    with netCDF4.Dataset(path, "w", format="NETCDF4") as file:
        for number in range(draw.randint(1, 3)):
            names = []
            shape = tuple(draw.randint(1, 9) for _ in range(draw.randint(1, 3)))
            for axis, length in enumerate(shape):
                names.append(f"n{number}{axis}")
                file.createDimension(names[-1], draw.choice((None, length)))
            options: dict[str, Any] = {"zlib": draw.random() < 0.5, "shuffle": draw.random() < 0.5}
            options["fletcher32"] = draw.random() < 0.3
            if draw.random() < 0.4:
                options["fill_value"] = 7
            made = file.createVariable(f"d{number}", draw.choice(("i2", "u1", "f4", "f8")), names, **options)
            made.set_auto_maskandscale(False)
            made[...] = values(draw, shape, made.dtype)
            made.units = "mV"


def make_h5netcdf(path: Path, draw: random.Random) -> None:
    """The same by h5netcdf."""
    import h5netcdf

    with h5netcdf.File(path, "w") as file:
        for number in range(draw.randint(1, 3)):
            shape = tuple(draw.randint(1, 9) for _ in range(draw.randint(1, 3)))
            names = tuple(f"n{number}{axis}" for axis in range(len(shape)))
            for name, length in zip(names, shape, strict=True):
                file.dimensions[name] = length
            data = values(draw, shape, draw.choice(NUMBERS))
            file.create_variable(f"d{number}", names, data=data, chunks=tuple(max(1, n // 2) for n in shape))


def make_pandas(path: Path, draw: random.Random) -> None:
    """A frame as fixed arrays."""
    import pandas

    rows = draw.randint(1, 30)
    frame = pandas.DataFrame({name: values(draw, (rows,), "f8") for name in "abc"[: draw.randint(1, 3)]})
    frame.to_hdf(path, key="frame", mode="w", format="fixed", complevel=draw.choice((0, 5)))


MAKERS: dict[str, Callable[[Path, random.Random], None]] = {
    "h5py": make_h5py,
    "pytables": make_pytables,
    "netcdf4": make_netcdf4,
    "h5netcdf": make_h5netcdf,
    "pandas": make_pandas,
}


# What a file is


def origins(dataset: h5py.Dataset) -> Iterator[tuple[int, ...]]:
    """The first element of each chunk of the grid."""
    return itertools.product(
        *(range(0, end, length) for end, length in zip(dataset.shape, dataset.chunks, strict=True))
    )


def chunk_bytes(dataset: h5py.Dataset) -> dict[tuple[int, ...], tuple[int, bytes]]:
    """Mask and bytes of each chunk that is found by its coordinates."""
    found: dict[tuple[int, ...], tuple[int, bytes]] = {}
    if dataset.chunks is None or not dataset.shape or not dataset.id.get_num_chunks():
        return found
    for origin in origins(dataset):
        try:
            mask, data = dataset.id.read_direct_chunk(origin)
        except (RuntimeError, OSError):
            continue
        found[origin] = mask, bytes(data)
    return found


def looked_at(path: Path) -> dict[str, Any]:
    """Everything of a file that a write must keep or change rightly."""
    seen: dict[str, dict[str, Any]] = {}
    with h5py.File(path) as file:
        names: list[str] = []
        file.visit(names.append)
        for name in names:
            found = file[name]
            attrs = {key: attribute_bytes(found, key) for key in found.attrs}
            if isinstance(found, h5py.Dataset) and found.shape is not None:
                plist = found.id.get_create_plist()
                filters = [plist.get_filter(n) for n in range(plist.get_nfilters())]
                how = found.dtype, found.chunks, found.maxshape, filters, repr(found.fillvalue), plist.get_layout()
                data = found[()] if found.dtype.hasobject else np.asarray(found[()]).tobytes()
                seen[name] = {"attrs": attrs, "how": how, "data": data, "chunks": chunk_bytes(found)}
            else:
                seen[name] = {"attrs": attrs, "order": list(found) if isinstance(found, h5py.Group) else None}
        block = path.read_bytes()[: file.userblock_size]
        return {"names": names, "objects": seen, "block": block, "top": list(file), "attrs": list(file.attrs)}


def attribute_bytes(found: Any, key: str) -> Any:
    """An attribute as it is stored; references and text as h5py shows them."""
    try:
        value = found.attrs[key]
    except (OSError, TypeError):
        return "unreadable by h5py"
    return value.tobytes() if isinstance(value, np.ndarray) and not value.dtype.hasobject else repr(type(value))


def dumped(path: Path, name: str) -> list[str] | None:
    """What HDF5's own tool says of a dataset's structure, without its place and size; None where it cannot read it."""
    done = subprocess.run(["h5dump", "-p", "-H", "-d", f"/{name}", path], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    lines = done.stdout.splitlines()[1:]
    return [line for line in lines if not line.strip().startswith(("SIZE", "OFFSET", "DATASPACE"))]


def models_of(path: Path) -> dict[str, Model]:
    """The datasets that can be written."""
    found: dict[str, Model] = {}
    with h5py.File(path) as file:

        def take(name: str, one: Any) -> None:
            if not isinstance(one, h5py.Dataset) or not one.shape or not one.size:
                return
            is_plain = one.dtype.kind in "iufcbS" or (one.dtype.names and not one.dtype.hasobject)
            # (Of text that ends in a zero HDF5 stores one byte less than numpy has, for h5py as for us.)
            is_cut = one.dtype.kind == "S" and one.id.get_type().get_strpad() == h5py.h5t.STR_NULLTERM
            is_scale = "CLASS" in one.attrs and b"DIMENSION_SCALE" in bytes(one.attrs["CLASS"])
            if is_plain and not is_cut and not is_scale:
                found[name] = Model(one[()], one.maxshape, one.fillvalue)

        file.visititems(take)
    return found


# Writes


def some_region(draw: random.Random, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """A box, aligned with nothing."""
    ends = [sorted((draw.randint(0, n), draw.randint(0, n))) for n in shape]
    return tuple(
        slice(low, high if high > low else min(n, low + 1)) for (low, high), n in zip(ends, shape, strict=True)
    )


def write(path: Path, *args: Any, **keywords: Any) -> Any:
    """One call, on a random scheduler."""
    return dcio.to_hdf5(path, *args, progress=False, **keywords)


def step(path: Path, models: dict[str, Model], draw: random.Random) -> Touched:
    """Write something, and change the model in the same way; return the dataset's name and the box that was written."""
    scheduler = draw.choice(("synchronous", "threads"))
    kind = draw.choice(("region", "region", "append", "append", "overwrite", "new"))
    name = draw.choice(sorted(models))
    model = models[name]
    shape, dtype = model.data.shape, model.data.dtype
    if kind == "append":
        axes = [n for n, end in enumerate(model.maxshape) if end is None or end > shape[n]]
        if not axes:
            kind = "region"
        else:
            axis = draw.choice(axes)
            end = model.maxshape[axis]
            rows = draw.randint(1, 7) if end is None else draw.randint(1, end - shape[axis])
            more = values(draw, (*shape[:axis], rows, *shape[axis + 1 :]), dtype)
            write(path, name, more, append=axis, scheduler=scheduler)
            model.data = np.concatenate([model.data, more], axis=axis).astype(dtype)
            return name, tuple(slice(end, end + rows) if n == axis else slice(0, end) for n, end in enumerate(shape))
    if kind == "region":
        where = some_region(draw, shape)
        if draw.random() < 0.2:
            where = tuple(slice(0, n) for n in shape)
        new = values(draw, tuple(one.stop - one.start for one in where), dtype)
        write(path, name, new, region=where, scheduler=scheduler)
        model.data = model.data.copy()
        model.data[where] = new
        return name, where
    if kind == "new":
        name = f"ours{draw.randrange(1 << 30)}"
    rank = draw.randint(1, 3)
    data = values(draw, tuple(draw.randint(1, 9) for _ in range(rank)), draw.choice(NUMBERS))
    maxshape = tuple(draw.choice((n, n + 4, None)) for n in data.shape)
    chunks = tuple(draw.randint(1, n) for n in data.shape)
    options = dict(draw.choice(({}, {"compression": "gzip"}, {"compression": "lzf", "shuffle": True})))
    keywords = {"chunks": chunks, "maxshape": maxshape, "scheduler": scheduler, **options}
    write(path, name, data, overwrite=kind == "overwrite", **keywords)
    models[name] = Model(data, maxshape, np.zeros((), data.dtype)[()])
    return name, None


def check(path: Path, before: dict[str, Any], models: dict[str, Model], touched: Touched) -> None:
    """Compare with the model and with what was there before."""
    after = looked_at(path)
    name, where = touched
    for one, model in models.items():
        found = after["objects"][one]
        assert found["data"] == model.data.tobytes(), f"{one} differs from the model{differing(found, model)}"
    assert after["block"] == before["block"], "the user block was changed"
    assert after["attrs"] == before["attrs"], "attributes of the file"
    assert set(before["names"]) | {name} == set(after["names"]), "names"
    # An overwritten dataset is a new link, and stands last where the order is kept.
    assert [n for n in after["top"] if n != name] == [n for n in before["top"] if n != name], "the order of names"
    for one, was in before["objects"].items():
        now = after["objects"][one]
        if one != name:
            if "order" not in was or one != name.rpartition("/")[0]:
                assert now == was, f"{one} was changed"
        elif where is not None:
            assert now["attrs"] == was["attrs"], "attributes"
            assert now["how"] == was["how"], f"how {one} is stored: {was['how']} {now['how']}"
            kept_chunks(path, one, was["chunks"], now["chunks"], where)
    assert not (path.parent / f"{path.name}.writing").exists()


def differing(found: dict[str, Any], model: Model) -> str:
    """Where the first differences are."""
    if len(found["data"]) != model.data.nbytes:
        return f" in size; {found['how']}"
    made = np.frombuffer(found["data"], model.data.dtype).reshape(model.data.shape)
    return f" at {np.argwhere(made != model.data)[:4].tolist()} of {model.data.shape}; {found['how']}"


def kept_chunks(path: Path, name: str, was: dict[Any, Any], now: dict[Any, Any], where: tuple[slice, ...]) -> None:
    """What the box does not touch has the same bytes and masks."""
    with h5py.File(path) as file:
        chunks = file[name].chunks
        optional = chunks is not None and partial_unfiltered(file[name])
    for origin, stored in was.items():
        touched = all(
            at < part.stop and at + length > part.start for at, length, part in zip(origin, chunks, where, strict=True)
        )
        # Growing makes a chunk whole that skipped the pipeline as a part: HDF5 stores it anew.
        if not touched and not optional:
            assert now.get(origin) == stored, f"{name}: the chunk at {origin} was changed"


def grow(path: Path, models: dict[str, Model]) -> None:
    """Have h5py grow everything: what lies beyond the edge comes to light."""
    with h5py.File(path, "r+") as file:
        for name, model in models.items():
            shape = model.data.shape
            larger = tuple(n + 3 if end is None else end for n, end in zip(shape, model.maxshape, strict=True))
            if file[name].chunks is None or larger == shape:
                continue
            file[name].resize(larger)
            expected = np.full(larger, model.fill, model.data.dtype)
            expected[tuple(map(slice, shape))] = model.data
            assert np.asarray(file[name][()]).tobytes() == expected.tobytes(), f"{name} after growing"


def run(seed: int, maker: str, folder: str) -> int:
    """One file and some writes; return what was done."""
    draw = random.Random(seed)
    path = Path(folder) / "x.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MAKERS[maker](path, draw)
    models = models_of(path)
    if not models:
        return 0
    steps = draw.randint(1, 4)
    for _ in range(steps):
        before = looked_at(path)
        dumps = {name: dumped(path, name) for name in models} if draw.random() < 0.15 else {}
        touched = step(path, models, draw)
        check(path, before, models, touched)
        for name, was in dumps.items():
            if was is not None and (name != touched[0] or touched[1] is not None):
                assert dumped(path, name) == was, f"h5dump of {name}"
    # Once, because each step has read all chunks: this starts a process.
    report = dcio.verify(path)
    assert report.ok, report.problems
    grow(path, models)
    return steps


def available() -> list[str]:
    """The makers whose library is here."""
    found = ["h5py"]
    for maker, module in OTHERS.items():
        try:
            importlib.import_module(module)
        except ImportError:
            continue
        if maker != "pandas" or "pytables" in found:
            found.append(maker)
    return found


def fuzz(runs: int, seed: int, makers: Sequence[str]) -> tuple[int, list[tuple[int, str, str]]]:
    """Run so many cases; return the count of steps and the failures."""
    steps = 0
    failures: list[tuple[int, str, str]] = []
    for number in range(seed, seed + runs):
        maker = makers[number % len(makers)]
        folder = tempfile.mkdtemp(dir=MEMORY)
        try:
            steps += run(number, maker, folder)
        except Exception:
            failures.append((number, maker, traceback.format_exc()))
        finally:
            shutil.rmtree(folder)
    return steps, failures


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.fuzz.existing_files", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, help="of the first run (default: any)")
    parser.add_argument("--makers", help="h5py, pytables, netcdf4, h5netcdf, pandas (default: all that are here)")
    options = parser.parse_args(argv)
    seed = random.randrange(1 << 40) if options.seed is None else options.seed
    makers = options.makers.split(",") if options.makers else available()
    steps, failures = fuzz(options.runs, seed, makers)
    for number, maker, words in failures[:20]:
        sys.stdout.write(f"--runs 1 --seed {number} --makers {maker}\n{words}\n")
    names = ", ".join(makers)
    sys.stdout.write(f"{options.runs} files of {names} from seed {seed}, {steps} writes, {len(failures)} failures\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
