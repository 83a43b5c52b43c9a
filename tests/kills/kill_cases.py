"""What is written while something is killed: cases drawn by seed, the data in them, what a file holds."""

import hashlib
import json
import math
import os
import random
from dataclasses import dataclass, field

import dask.array as da
import h5py
import numpy as np

from dask_chunkio import GenericDataChunkIterator

LOCAL = ("synchronous", "threads", "processes")
FILTERS = (
    {},
    {"compression": "gzip", "compression_opts": 1},
    {"compression": "gzip", "compression_opts": 4, "shuffle": True},
    {"shuffle": True, "compression": "gzip", "fletcher32": True},
    {"compression": "lzf"},
)
DTYPES = ("i2", "u1", "f4", "f8", ">i4", "u8")
# What stands under the final name before: nothing; other people's data; those and a dataset that is replaced; only that.
OLD = ("none", "others", "replaced among others", "replaced alone")
HIDDEN = "/.dask_chunkio-"


def append_line(path, line):
    """Add a line to a log of the test; with calls that are never counted among the moments of a kill."""
    descriptor = _os_open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(descriptor, (json.dumps(line) + "\n").encode())
    os.close(descriptor)


_os_open = os.open


def read_lines(path):
    try:
        with open(path) as file:
            return [json.loads(line) for line in file]
    except FileNotFoundError:
        return []


def bounds(selection):
    return [[axis.start, axis.stop] for axis in selection]


@dataclass(frozen=True)
class Numbers:
    """An array that is computed where it is read, with no two chunks alike, and that keeps a log of its reads."""

    shape: tuple
    type: str
    salt: int
    log: str = ""
    number: int = 0

    @property
    def dtype(self):
        return np.dtype(self.type)

    @property
    def ndim(self):
        return len(self.shape)

    def __getitem__(self, selection):
        if self.log:
            append_line(self.log, [self.number, bounds(selection), os.getpid()])
        return self.at(selection)

    def at(self, selection):
        strides = [math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        flat = np.zeros([axis.stop - axis.start for axis in selection], np.int64)
        for axis, (span, stride) in enumerate(zip(selection, strides, strict=True)):
            along = np.arange(span.start, span.stop, dtype=np.int64) * stride
            flat += along.reshape([-1 if n == axis else 1 for n in range(len(self.shape))])
        # Compressible, and by a different amount everywhere.
        mixed = (flat + 1) * 2654435761 % 65521
        values = np.where(mixed % 7 < 3, mixed + self.salt, self.salt + flat // 3)
        return values.astype(np.int64).astype(self.dtype)

    def whole(self):
        return self.at(tuple(slice(0, n) for n in self.shape))


class NumbersIterator(GenericDataChunkIterator):
    def __init__(self, numbers, **keywords):
        self.numbers = numbers
        super().__init__(**keywords)

    def _get_data(self, selection):
        return self.numbers[selection]

    def _get_maxshape(self):
        return self.numbers.shape

    def _get_dtype(self):
        return self.numbers.dtype


@dataclass(frozen=True)
class Dataset:
    name: str
    numbers: Numbers
    chunks: tuple
    source: str
    read: str | None
    options: dict
    attrs: dict = field(default_factory=dict)

    def made(self, buffer, log, number):
        """The source and the keywords for it."""
        logged = Numbers(self.numbers.shape, self.numbers.type, self.numbers.salt, log, number)
        keywords = {**self.options, "attrs": self.attrs}
        if self.source == "scalar":
            return logged.at(()), keywords
        if self.source == "iterator":
            source = NumbersIterator(logged, chunk_shape=self.chunks, buffer_shape=buffer)
            return source, {**keywords, "buffer_shape": buffer, "read": self.read}
        keywords |= {"chunks": self.chunks, "buffer_shape": buffer}
        if self.source == "array":
            return logged, {**keywords, "read": self.read}
        if self.source == "memory":
            return self.numbers.whole(), keywords
        return da.from_array(logged, chunks=buffer, name=f"numbers-{number}-{self.numbers.salt}"), keywords

    @property
    def counts_reads(self):
        return self.source in ("iterator", "array") and self.read != "ordered"

    def chunks_in(self, selection):
        """The origins of the chunks that a selection, as bounds, touches."""
        spans = [
            range(start // n * n, max(stop, start + 1), n)
            for (start, stop), n in zip(selection, self.chunks, strict=True)
        ]
        found = [()]
        for span in spans:
            found = [(*one, at) for one in found for at in span]
        return set(found)


@dataclass(frozen=True)
class Case:
    """One write, and how it is run; all of it follows from the seed."""

    seed: int
    scheduler: str
    libver: str
    old: str
    durability: str
    datasets: tuple
    workers: int
    fuse: bool

    @property
    def overwrite(self):
        return self.old.startswith("replaced")

    def __str__(self):
        made = ", ".join(
            f"{one.name} {one.numbers.shape} {one.numbers.type} chunks {one.chunks} {one.source} {one.read} {one.options}"
            for one in self.datasets
        )
        return (
            f"seed {self.seed}: {self.scheduler} x {self.workers}, libver={self.libver}, old: {self.old}, "
            f"{self.durability}, fuse={self.fuse}; {made}"
        )


def draw(seed, scheduler=None):
    """The case of a seed."""
    rng = random.Random(seed)
    scheduler = scheduler or rng.choice(("synchronous", "threads", "threads", "processes"))
    libver = rng.choice(("earliest", "v110"))
    old = rng.choice(("none", "none", "others", "others", "replaced among others", "replaced alone"))
    count = 1 if old == "replaced alone" else rng.choice((1, 1, 2, 3))
    datasets = tuple(_dataset(rng, number, count, old) for number in range(count))
    durability = rng.choice(("process", "process", "process", "power"))
    return Case(seed, scheduler, libver, old, durability, datasets, rng.choice((2, 3)), rng.random() < 0.85)


def _dataset(rng, number, count, old):
    if number == 0 and old.startswith("replaced"):
        name = "/measured"
    else:
        name = rng.choice(("/new", "/deep/down/new", "/group/new")) + str(number)
    salt, attrs = rng.randrange(1000), {"unit": rng.choice("VAK"), "scale": rng.random()}
    if number == 2 and rng.random() < 0.3:
        return Dataset(name, Numbers((), "f8", salt), (), "scalar", None, {}, attrs)
    rank = rng.choice((1, 2, 2, 3))
    if rank == 1:
        chunk, shape = (rng.randrange(20, 400),), (rng.randrange(2000, 6000),)
    elif rank == 2:
        chunk, shape = (rng.randrange(3, 9), rng.randrange(8, 60)), (rng.randrange(30, 60), rng.randrange(40, 150))
    else:
        chunk = tuple(rng.randrange(2, 8) for _ in range(3))
        shape = (rng.randrange(16, 25), rng.randrange(8, 14), rng.randrange(6, 12))
    if rng.random() < 0.15:
        # Payloads of many pages.
        chunk, shape = (rng.randrange(2000, 9000), *chunk[1:]), (shape[0] * 800, *(min(n, 12) for n in shape[1:]))
    chunk = tuple(map(min, chunk, shape))
    type_ = rng.choice(DTYPES)
    options = dict(rng.choice(FILTERS))
    if rng.random() < 0.3:
        options["maxshape"] = tuple(None if axis <= rng.randrange(rank) else n for axis, n in enumerate(shape))
    if rng.random() < 0.3:
        options["fillvalue"] = rng.randrange(1, 100)
    source = rng.choice(("array", "array", "iterator", "iterator", "memory", "dask"))
    read = {"array": rng.choice((None, "concurrent")), "iterator": rng.choice((None, None, "serial", "ordered"))}
    return Dataset(name, Numbers(shape, type_, salt), chunk, source, read.get(source), options, attrs)


def buffers(rng, case):
    """Shapes of buffers, one for each dataset: of whole chunks, most with partial ones at the edges."""
    found = []
    for one in case.datasets:
        cells = [-(-n // c) for n, c in zip(one.numbers.shape, one.chunks, strict=True)]
        share = [rng.choice((2, 3, 4)) if axis == 0 else rng.choice((1, 2)) for axis in range(len(cells))]
        if math.prod(cells) < 12:
            share = cells
        buffer = [c * max(1, n // s) for c, n, s in zip(one.chunks, cells, share, strict=True)]
        found.append(tuple(map(min, buffer, one.numbers.shape)))
    return found


def arguments(case, buffer_shapes, log=""):
    """What `to_hdf5` is called with, but for the path and how to run."""
    data, encoding = {}, {}
    for number, (one, buffer) in enumerate(zip(case.datasets, buffer_shapes, strict=True)):
        source, keywords = one.made(buffer, log, number)
        data[one.name] = source
        encoding[one.name] = {key: value for key, value in keywords.items() if value is not None}
    return data, encoding


def make_old_file(path, case):
    """Make what other people have put there."""
    if case.old == "none":
        return
    rng = np.random.default_rng(case.seed)
    libver = random.Random(case.seed).choice(("earliest", "v110", "latest"))
    with h5py.File(path, "w", libver=libver) as file:
        if case.overwrite:
            stored = random.Random(case.seed).choice(({}, {"chunks": (5, 4), "compression": "gzip"}))
            file.create_dataset("measured", data=rng.integers(0, 50, (23, 9), "i4"), **stored)
        if case.old == "replaced alone":
            return
        file.attrs["who"] = "somebody else"
        file.create_dataset("plain", data=rng.random(300))
        file.create_dataset("packed", data=rng.integers(0, 9, (70, 30), "i2"), chunks=(8, 7), compression="gzip")
        file.create_dataset("growing", data=rng.integers(0, 9, 500, "u1"), chunks=(64,), maxshape=(None,))
        file["words"] = np.array(["one", "two", "three"], dtype=h5py.string_dtype())
        file["group/inner/deep"] = rng.random((4, 5))
        file["group/inner"].attrs["list"] = np.arange(40)
        file["group/scalar"] = 3.5
        file["plain"].attrs["unit"] = "mV"
        file["link"] = h5py.SoftLink("/group/inner/deep")
        for n in range(12):
            file[f"many/d{n}"] = np.arange(n + 3)


def snapshot(path, locking=None):
    """Everything that HDF5 shows of a file: for each name what is there, as strings that can be compared."""
    found = {}
    with h5py.File(path, "r", locking=locking) as file:
        found["/"] = {"kind": "group", "attrs": _attrs(file)}
        file.visititems_links(lambda name, link: found.update({"/" + name: _described(file, "/" + name, link)}))
    return found


def _described(file, name, link):
    if not isinstance(link, h5py.HardLink):
        return {"kind": type(link).__name__, "to": link.path}
    one = file[name]
    if isinstance(one, h5py.Group):
        return {"kind": "group", "attrs": _attrs(one)}
    plist = one.id.get_create_plist()
    return {
        "kind": "dataset",
        "attrs": _attrs(one),
        "shape": str((one.shape, one.maxshape, one.chunks)),
        "dtype": repr(one.dtype),
        "filters": [repr(plist.get_filter(n)) for n in range(plist.get_nfilters())],
        "fill": repr(one.fillvalue),
        "layout": str((plist.get_layout(), plist.get_fill_time())),
        "stored chunks": one.id.get_num_chunks() if one.chunks else 0,
        "values": _digest(one[()]),
    }


def _attrs(one):
    return {name: f"{one.attrs.get_id(name).dtype} {_digest(value)}" for name, value in sorted(one.attrs.items())}


def _digest(value):
    array = np.asarray(value)
    if array.dtype.hasobject or array.ndim == 0:
        return repr(array.tolist())
    return f"{array.dtype.str} {array.shape} {hashlib.blake2b(array.tobytes(), digest_size=12).hexdigest()}"


def lost(old, found, but=()):
    """In words, what of an old snapshot is not in another."""
    return [
        f"{name} is {'gone' if name not in found else 'another: ' + _difference(old[name], found[name])}"
        for name in old
        if name not in but and found.get(name) != old[name]
    ]


def _difference(was, now):
    return ", ".join(f"{key} was {was.get(key)} is {now.get(key)}" for key in was | now if was.get(key) != now.get(key))


def unequal(wanted, found):
    """In words, how two snapshots differ."""
    return lost(wanted, found) + [f"{name} is there and should not be" for name in found if name not in wanted]
