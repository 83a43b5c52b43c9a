"""The journal: whose the write is, what it makes, and where every payload has its place.

An append-only file of records (`dask_chunkio.storage.records`):

========  ==================================================================================
OWNER     JSON: who writes from here on.  The last one owns the write; everybody else gives up.
CREATED   JSON: the datasets that were made, and the group in which they are hidden; again
          where one has another length.
RESERVED  dataset, buffer, epoch, time; for each chunk its number, place, checksum and mask.
VOIDED    the same, of chunks that hold the fill value in place of their data (`recover`).
FINISHED  empty: index and journal agreed, everything stands under its final name.
========  ==================================================================================

The last record of a chunk counts.
"""

from __future__ import annotations

import dataclasses
import getpass
import itertools
import json
import os
import re
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_chunkio.errors import ArgumentError, IntegrityError
from dask_chunkio.grid import ChunkGrid, Shape
from dask_chunkio.storage.files import pread_into
from dask_chunkio.storage.records import CREATED, FINISHED, OWNER, RESERVED, VOIDED, pack_record, read_records

__all__ = ["HELD", "ROW", "VOID", "Created", "CreatedDataset", "Entries", "Journal", "Owner", "Reservations"]

_BUFFER = struct.Struct("<QQQQ")
_ENTRY = np.dtype([("chunk", "<u8"), ("offset", "<u8"), ("nbytes", "<u8"), ("checksum", "<u8"), ("mask", "<u8")])
ROW = np.dtype([*((name, "<u8") for name in ("offset", "nbytes", "checksum", "mask")), ("state", "u1")])
_GROUP = re.compile(r"/\.dask_chunkio-[^/]+")
_MOST_CHUNKS = 1 << 40
_UNREADABLE = (ValueError, TypeError, KeyError, OverflowError, RecursionError, MemoryError, struct.error)

Entries = np.ndarray[Any, np.dtype[Any]]
# What a chunk's place is for; 0 where it has none.
HELD, VOID = 1, 2


@dataclass(frozen=True, slots=True)
class Owner:
    """Who writes, from a certain record of the journal on.

    Parameters
    ----------
    write_id : str
        Of one call of `to_hdf5`.
    epoch : int
        1 for the call that began the write, one more for each that resumed it.
    host, pid, user : str, int, str
        Where the call's first task ran.
    started : str
        When, with the time zone.
    exclusive : bool
        Whether one process alone takes all turns.
    """

    write_id: str
    epoch: int
    host: str
    pid: int
    user: str
    started: str
    exclusive: bool

    @classmethod
    def here(cls, write_id: str, epoch: int, exclusive: bool) -> Owner:
        """Return this process as the owner."""
        started = time.strftime("%Y-%m-%d %H:%M:%S %z")
        return cls(write_id, epoch, socket.gethostname(), os.getpid(), _user(), started, exclusive)

    def __str__(self) -> str:
        return f"started {self.started} by {self.user} on {self.host} (process {self.pid})"

    def pack(self) -> bytes:
        """Return the record."""
        return pack_record(OWNER, json.dumps(dataclasses.asdict(self)).encode())


@dataclass(frozen=True, slots=True)
class CreatedDataset:
    """What a resumed write must have in common with the one that was cut off.

    Parameters
    ----------
    name : str
        Absolute path in the file.
    shape, chunks : tuple of int
        In elements.
    dtype, source_dtype, filters, fillvalue : str
        As words, to be compared and shown.
    is_chunked : bool
        As `DatasetLayout.is_chunked`.
    region : tuple of tuple of int
        Start and stop of a part of a dataset that was there, and the dataset's shape before; else empty.
    open_ended : bool
        Whether its length may still change.
    """

    name: str
    shape: Shape
    chunks: Shape
    dtype: str
    source_dtype: str
    filters: str
    fillvalue: str
    is_chunked: bool
    region: tuple[Shape, ...] = ()
    open_ended: bool = False

    @property
    def chunk_count(self) -> int:
        """Number of its chunks; a dataset without axes counts as one."""
        return len(ChunkGrid(self.shape, self.chunks))

    def difference(self, other: CreatedDataset) -> str | None:
        """Return in words what differs, or None; of a length that was not known, nothing does."""
        if other.open_ended and other.shape and self.shape:
            other = dataclasses.replace(other, shape=(self.shape[0], *other.shape[1:]), open_ended=self.open_ended)
        for part in dataclasses.fields(self):
            mine, theirs = getattr(self, part.name), getattr(other, part.name)
            if mine != theirs:
                return f"{part.name.replace('_', ' ')} was {mine or 'none'} and is {theirs or 'none'} now"
        return None


@dataclass(frozen=True, slots=True)
class Created:
    """What the write made when it began.

    Parameters
    ----------
    datasets : tuple of CreatedDataset
        In the order of their numbers.
    group : str
        The hidden group that holds them until they are whole; empty where the file itself is hidden.
    """

    datasets: tuple[CreatedDataset, ...]
    group: str = ""

    def pack(self) -> bytes:
        """Return the record."""
        return pack_record(CREATED, json.dumps(dataclasses.asdict(self)).encode())

    def path(self, number: int) -> str:
        """Return where dataset `number` is in the HDF5 file while it is written."""
        made = self.datasets[number]
        return f"{self.group}/{number}" if self.group and not made.region else made.name


@dataclass(frozen=True, slots=True)
class Reservations:
    """Where payloads of one buffer are, or are going to be.

    Parameters
    ----------
    dataset, buffer : int
        Numbers of the dataset in the write, and of the buffer in the grid of whoever wrote it.
    entries : numpy.ndarray
        One record for each chunk: ``chunk`` (its number), ``offset`` and ``nbytes`` in the
        file, ``checksum`` of the payload, ``mask``.
    epoch : int
        The owner's.
    time : int
        When, in nanoseconds since 1970.
    """

    dataset: int
    buffer: int
    entries: Entries
    epoch: int = 0
    time: int = 0

    @classmethod
    def of(
        cls, dataset: int, buffer: int, rows: Sequence[tuple[int, int, int, int, int]], epoch: int = 0, time: int = 0
    ) -> Reservations:
        """Build from (chunk, offset, nbytes, checksum, mask)."""
        return cls(dataset, buffer, np.array(rows, _ENTRY), epoch, time)

    def pack(self, kind: int = RESERVED) -> bytes:
        """Return the record."""
        head = _BUFFER.pack(self.dataset, self.buffer, self.epoch, self.time)
        return pack_record(kind, head + self.entries.tobytes())

    @classmethod
    def unpack(cls, body: bytes) -> Reservations:
        """Read the body of a record."""
        dataset, buffer, epoch, time = _BUFFER.unpack_from(body)
        return cls(dataset, buffer, np.frombuffer(body, _ENTRY, offset=_BUFFER.size), epoch, time)


class Journal:
    """What is reserved, read from an append-only file of records.

    Only the part that grew since the last look is read again.

    Parameters
    ----------
    descriptor : int
        Of the file.
    name : str
        For messages.

    Attributes
    ----------
    size : int
        Bytes of whole records.
    owner : Owner or None
        The last one.
    owners : list of Owner
        All of them, in order.
    created : Created or None
        What was made.
    finished : bool
        Whether there is nothing left to do but to clean up.
    last_commit : int
        Time of the last reservations, in nanoseconds since 1970; 0 without any.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor, self._name = descriptor, name
        self._tables: list[Entries] = []
        self.size = 0
        self.owners: list[Owner] = []
        self.created: Created | None = None
        self.finished = False
        self.last_commit = 0

    @property
    def owner(self) -> Owner | None:
        """Who writes."""
        return self.owners[-1] if self.owners else None

    def refresh(self) -> None:
        """Read what others have added.

        Raises
        ------
        IntegrityError
            If a record is damaged, or says what cannot be.
        """
        grown = os.fstat(self._descriptor).st_size - self.size
        if grown <= 0:
            return
        try:
            data = bytearray(grown)
        except MemoryError as error:
            raise IntegrityError(f"{self._name} has {grown} bytes, more than memory; discard the write") from error
        count = pread_into(self._descriptor, memoryview(data), self.size)
        base = self.size
        for kind, end, body in read_records(bytes(data[:count]), self._name):
            try:
                self._add(kind, body)
            except (*_UNREADABLE, ArgumentError) as error:
                raise IntegrityError(
                    f"{self._name} holds a record that cannot be read ({error}) before byte {base + end}; discard "
                    f"the write (dask-chunkio discard) and start it again"
                ) from error
            self.size = base + end

    def find(self, dataset: int, chunks: Sequence[int]) -> Entries | None:
        """Return the places of these chunks, if all of them have one that is to hold their data."""
        rows = self.rows(dataset, chunks)
        return rows if (rows["state"] == HELD).all() else None

    def rows(self, dataset: int, chunks: Sequence[int]) -> Entries:
        """Return a copy of what is known of these chunks; ``state`` is 0 where nothing is."""
        rows: Entries = self._tables[dataset][np.asarray(chunks, np.intp)]
        return rows

    def table(self, dataset: int) -> Entries:
        """Return what is known of every chunk of a dataset."""
        return self._tables[dataset]

    def missing(self, dataset: int) -> int:
        """Return how many chunks of a dataset have no place, or hold the fill value in place of data."""
        return int(np.count_nonzero(self._tables[dataset]["state"] != HELD))

    def _add(self, kind: int, body: bytes) -> None:
        if kind == OWNER:
            self.owners.append(_owner(body))
        elif kind == CREATED:
            # Again, where one has another length; what is known of its chunks stays.
            self.created = _created(body)
            counts = [_bounded(made.chunk_count) for made in self.created.datasets]
            tables = [*self._tables, *([np.zeros(0, ROW)] * len(counts))]
            self._tables = list(map(_resized, tables, counts))
        elif kind in (RESERVED, VOIDED):
            self._enter(Reservations.unpack(body), HELD if kind == RESERVED else VOID)
        elif kind == FINISHED:
            self.finished = True
        else:
            raise ValueError(f"of the unknown kind {kind}")

    def _enter(self, found: Reservations, state: int) -> None:
        entries = found.entries
        if found.dataset >= len(self._tables):
            raise ValueError(f"of dataset {found.dataset} of {len(self._tables)}")
        table = self._tables[found.dataset]
        if len(entries) and int(entries["chunk"].max()) >= len(table):
            raise ValueError(f"of chunk {entries['chunk'].max()} of {len(table)}")
        rows = np.empty(len(entries), ROW)
        for name in ("offset", "nbytes", "checksum", "mask"):
            rows[name] = entries[name]
        if len(rows) and max(map(int, (rows["offset"].max(), rows["nbytes"].max()))) >= 1 << 62:
            raise ValueError("of a place that no file has")
        if self.created is not None and self.created.datasets[found.dataset].is_chunked and not rows["nbytes"].all():
            raise ValueError("of a payload without bytes")
        if len(rows) and int(rows["mask"].max()) >= 1 << 32:
            raise ValueError("of a mask that no chunk has")
        rows["state"] = state
        table[entries["chunk"].astype(np.intp)] = rows
        self.last_commit = max(self.last_commit, found.time)


def _resized(table: Entries, count: int) -> Entries:
    if len(table) == count:
        return table
    resized = np.zeros(count, ROW)
    resized[: len(table)] = table[:count]
    return resized


def _bounded(count: int) -> int:
    if count > _MOST_CHUNKS:
        raise ValueError(f"of a dataset with {count} chunks")
    return count


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"


def _owner(body: bytes) -> Owner:
    owner = Owner(**_object(body))
    for part in dataclasses.fields(owner):
        kind = {"int": int, "bool": bool}.get(str(part.type), str)
        if type(getattr(owner, part.name)) is not kind:
            raise ValueError(f"whose {part.name} is {getattr(owner, part.name)!r}")
    if not 0 <= owner.epoch < 1 << 62:
        raise ValueError(f"of epoch {owner.epoch}")
    return owner


def _created(body: bytes) -> Created:
    found = _object(body)
    datasets = found["datasets"]
    if set(found) != {"datasets", "group"} or type(found["group"]) is not str or not isinstance(datasets, list):
        raise ValueError("that names no datasets")
    # It is removed by whoever discards the write.
    if found["group"] and not _GROUP.fullmatch(found["group"]):
        raise ValueError(f"with the group {found['group']!r}, which no write makes")
    return Created(tuple(map(_dataset, datasets)), found["group"])


def _dataset(found: Any) -> CreatedDataset:
    shapes = {name: tuple(found[name]) for name in ("shape", "chunks")}
    made = CreatedDataset(**{**found, **shapes, "region": tuple(map(tuple, found["region"]))})
    if len(made.region) not in (0, 3) or any(len(one) != len(made.shape) for one in made.region):
        raise ValueError("of a region that is none")
    if (
        not all(type(n) is int for n in itertools.chain(made.shape, made.chunks, *made.region))
        or type(made.is_chunked) is not bool
        or type(made.open_ended) is not bool
    ):
        raise ValueError("of a dataset whose shape is none")
    if not all(type(word) is str for word in (made.name, made.dtype, made.source_dtype, made.filters, made.fillvalue)):
        raise ValueError("of a dataset without words")
    made.name.encode()
    return made


def _object(body: bytes) -> dict[str, Any]:
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("that is no JSON object")
    return found
