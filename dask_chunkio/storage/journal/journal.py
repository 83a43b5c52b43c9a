"""The journal: the owner of a write, the datasets that it creates, and the location of every payload.

An append-only file of records (`dask_chunkio.storage.journal.records`):

========  ==================================================================================
OWNER     JSON: the call that writes from here on.  The last one owns the write; all other
          calls give up.
CREATED   JSON: the datasets that were created, and the group in which they are hidden;
          recorded again when the length of one changes.
RESERVED  dataset, buffer, epoch, time; for each chunk its number, location, checksum and
          mask.  No bytes: the chunk reads as the fill value without being stored.
FILLED    the same, for chunks that hold the fill value instead of their data (`recover`).
FINISHED  empty: index and journal agreed, and everything has its final name.
DISCARDED empty: the datasets that were hidden in an existing file have been removed.
PART      JSON: a job began its part of the write, or has committed all of it.
========  ==================================================================================

The last record of a chunk is the valid one.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_chunkio.errors import ArgumentError, IntegrityError, TargetError
from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.io import memory_nbytes, open_side_file, pread_into
from dask_chunkio.storage.journal.created import Created, CreatedDataset
from dask_chunkio.storage.journal.owner import Owner
from dask_chunkio.storage.journal.part import PartState, enter_part
from dask_chunkio.storage.journal.records import (
    CREATED,
    DISCARDED,
    FILLED,
    FINISHED,
    HEADER_NBYTES,
    OWNER,
    PART,
    RESERVED,
    claimed_nbytes,
    damaged_before_others,
    pack_record,
    read_records,
)

__all__ = ["HELD", "ROW", "VOID", "Entries", "Journal", "Reservations", "owners_in", "read_journal"]
__all__ += ["require_chunk_counts"]

_BUFFER = struct.Struct("<QQQQ")
_ENTRY = np.dtype([("chunk", "<u8"), ("offset", "<u8"), ("nbytes", "<u8"), ("checksum", "<u8"), ("mask", "<u8")])
ROW = np.dtype([*((name, "<u8") for name in ("offset", "nbytes", "checksum", "mask")), ("state", "u1")])
# The most chunks of a table, which takes memory for each chunk.
_MOST_CHUNKS = min(1 << 40, memory_nbytes() // ROW.itemsize)
_BLOCK_NBYTES, _MOST_NBYTES = 32 << 20, 1 << 30
_UNREADABLE = (ValueError, TypeError, KeyError, OverflowError, RecursionError, MemoryError, struct.error)

Entries = np.ndarray[Any, np.dtype[Any]]
# States of a chunk: its space is for its data, or for the fill value.  State 0: it has no space.
HELD, VOID = 1, 2


@dataclass(frozen=True, slots=True)
class Reservations:
    """The locations of the payloads of one buffer.

    Parameters
    ----------
    dataset, buffer : int
        Numbers of the dataset in the write, and of the buffer in the grid of the call that wrote it.
    entries : numpy.ndarray
        One record for each chunk: ``chunk`` (its number), ``offset`` and ``nbytes`` in the
        file, ``checksum`` of the payload, ``mask``.
    epoch : int
        Epoch of the owner.
    time : int
        Time of the reservation, in nanoseconds since 1970.
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
        """Build from rows of (chunk, offset, nbytes, checksum, mask)."""
        return cls(dataset, buffer, np.array(rows, _ENTRY), epoch, time)

    def pack(self, kind: int = RESERVED) -> bytes:
        """Return the record."""
        head = _BUFFER.pack(self.dataset, self.buffer, self.epoch, self.time)
        return pack_record(kind, head + self.entries.tobytes())


class Journal:
    """The reservations of a write, read from an append-only file of records.

    Each refresh reads only the part that was added since the last one.

    Parameters
    ----------
    descriptor : int
        Descriptor of the file.
    name : str
        Name of the file, for messages.

    Attributes
    ----------
    size : int
        Bytes of the complete records that were read.
    owner : Owner or None
        The last owner.
    owners : list of Owner
        All owners, in order.
    created : Created or None
        The datasets that were created.
    finished : bool
        Whether only the clean-up is left to do.
    discarded : bool
        Whether the datasets that the write had created are removed.
    parts : dict of int to PartState
        By their numbers, the parts that jobs have begun, each with its last job; a finished part stays finished.
    last_commit : int
        Time of the last reservations, in nanoseconds since 1970; 0 without any.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor, self._name = descriptor, name
        self._tables: list[Entries] = []
        self.size = 0
        self.owners: list[Owner] = []
        self.created: Created | None = None
        self.finished = self.discarded = False
        self.parts: dict[int, PartState] = {}
        self.last_commit = 0

    @property
    def owner(self) -> Owner | None:
        """The call that owns the write; None before the first."""
        return self.owners[-1] if self.owners else None

    def may_be_of(self, write_id: str) -> bool:
        """Return whether a call owns the write, or no call owns it yet."""
        return self.owner is None or self.owner.write_id == write_id

    def path_of(self, dataset: int) -> str:
        """Return the path that a dataset of this write has in the file until it gets its final name.

        Raises
        ------
        IntegrityError
            If the journal does not record what was created.
        """
        if self.created is None:
            raise IntegrityError(f"{self._name} does not record what was created; discard the write")
        return self.created.path(dataset)

    def refresh(self) -> None:
        """Read the records that other processes have added.

        Raises
        ------
        IntegrityError
            If a record is damaged, or its content is impossible.
        """
        end = os.fstat(self._descriptor).st_size
        while self.size < end:
            stop = self._block_end(end)
            self._read(stop)
            if self.size < stop < end:
                raise damaged_before_others(self._name, self.size)
            if stop == end:
                break

    def _block_end(self, end: int) -> int:
        """Return the end of the next block to read: complete records, as their headers claim, or all that is left."""
        stop = self.size
        while end - self.size > _BLOCK_NBYTES and stop - self.size < _BLOCK_NBYTES:
            header = bytearray(HEADER_NBYTES)
            count = pread_into(self._descriptor, memoryview(header), stop)
            # A damaged or truncated record may span the rest of the file.
            following = min(stop + (claimed_nbytes(bytes(header[:count])) or end), end)
            if following - stop > _MOST_NBYTES:
                raise IntegrityError(
                    f"{self._name} holds {following - stop} bytes from byte {stop} on that are not a record; discard "
                    f"the write (dask-chunkio discard) and start it again"
                )
            stop = following
            if stop == end:
                break
        return stop if stop > self.size else end

    def _read(self, stop: int) -> None:
        """Enter the records up to a byte of the file."""
        data = memoryview(bytearray(stop - self.size))
        count = pread_into(self._descriptor, data, self.size)
        base = self.size
        records = read_records(bytes(data[:count]), self._name)
        # Every worker reads the records of all others: enter all of one kind at once, which is faster.
        for kind, group in itertools.groupby(records, key=operator.itemgetter(0)):
            _, ends, bodies = zip(*group, strict=True)
            try:
                self._add(kind, bodies)
            except (*_UNREADABLE, ArgumentError) as error:
                raise IntegrityError(
                    f"{self._name} holds a record that cannot be read ({error}) before byte {base + ends[-1]}; discard "
                    f"the write (dask-chunkio discard) and start it again"
                ) from error
            self.size = base + ends[-1]

    def find(self, dataset: int, chunks: Sequence[int]) -> Entries | None:
        """Return the rows of these chunks if all of them have space for their data; else None."""
        rows = self.rows(dataset, chunks)
        return rows if (rows["state"] == HELD).all() else None

    def rows(self, dataset: int, chunks: Sequence[int] | Entries) -> Entries:
        """Return a copy of the rows of these chunks; ``state`` is 0 for a chunk without space."""
        rows: Entries = self._tables[dataset][np.asarray(chunks, np.intp)]
        return rows

    @property
    def tables(self) -> tuple[Entries, ...]:
        """The tables of all datasets, each with one row for every chunk."""
        return tuple(self._tables)

    def table(self, dataset: int) -> Entries:
        """Return the table of a dataset, with one row for every chunk."""
        return self._tables[dataset]

    def missing(self, dataset: int) -> int:
        """Return how many chunks of a dataset have no space, or hold the fill value instead of their data."""
        return int(np.count_nonzero(self._tables[dataset]["state"] != HELD))

    def _add(self, kind: int, bodies: Sequence[bytes]) -> None:
        """Enter the bodies of records of one kind, in their order."""
        if kind == OWNER:
            self.owners += map(Owner.unpack, bodies)
        elif kind == CREATED:
            for body in bodies:
                self._create(Created.unpack(body))
        elif kind in (RESERVED, FILLED):
            for dataset, mine in _by_dataset(bodies).items():
                self._enter(dataset, mine, HELD if kind == RESERVED else VOID)
            self.last_commit = max(self.last_commit, *(_BUFFER.unpack_from(body)[3] for body in bodies))
        elif kind == PART:
            for body in bodies:
                enter_part(self.parts, PartState.unpack(body))
        elif kind == FINISHED:
            self.finished = True
        elif kind == DISCARDED:
            self.discarded = True
        else:
            raise ValueError(f"the kind {kind} is unknown")

    def _create(self, created: Created) -> None:
        # Recorded again when the length of a dataset changes; the rows of its chunks stay.
        self.created = created
        counts = [_bounded(made.chunk_count) for made in created.datasets]
        tables = [*self._tables, *([np.zeros(0, ROW)] * len(counts))]
        self._tables = list(map(_resized, tables, counts))

    def _enter(self, dataset: int, bodies: Sequence[bytes], state: int) -> None:
        if dataset >= len(self._tables):
            raise ValueError(f"dataset {dataset} of only {len(self._tables)}")
        if any((len(body) - _BUFFER.size) % _ENTRY.itemsize for body in bodies):
            raise ValueError("the entry of a chunk is cut off")
        entries = np.frombuffer(b"".join([body[_BUFFER.size :] for body in bodies]), _ENTRY)
        made = None if self.created is None else self.created.datasets[dataset]
        _require_possible(entries, len(self._tables[dataset]), made)
        rows = np.empty(len(entries), ROW)
        for name in ("offset", "nbytes", "checksum", "mask"):
            rows[name] = entries[name]
        rows["state"] = state
        _assign(self._tables[dataset], entries["chunk"].astype(np.intp), rows)


@contextlib.contextmanager
def read_journal(path: str) -> Iterator[Journal]:
    """Open the journal of a write and read it; yield an empty one if the file does not exist.

    Raises
    ------
    TargetError
        If it cannot be read.
    IntegrityError
        If it is damaged.
    """
    try:
        descriptor = open_side_file(path, write=False)
    except FileNotFoundError:
        yield Journal(-1, path)
        return
    except OSError as error:
        raise TargetError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        journal = Journal(descriptor, path)
        journal.refresh()
        yield journal
    finally:
        close_descriptor(descriptor)


def owners_in(records: bytes, name: str) -> list[Owner]:
    """Return the owners that records name; `name` is that of the file, for messages."""
    return [Owner.unpack(body) for kind, _, body in read_records(records, name) if kind == OWNER]


def require_chunk_counts(created: Created) -> None:
    """Refuse datasets with more chunks than a journal can be read with.

    Raises
    ------
    ArgumentError
        If there is one.
    """
    for made in created.datasets:
        if made.chunk_count > _MOST_CHUNKS:
            raise ArgumentError(
                f"{made.name}: an array of {made.shape} in chunks of {made.chunks} has {made.chunk_count} chunks, and "
                f"this machine has memory for the places of {_MOST_CHUNKS}; give it larger chunks"
            )


def _by_dataset(bodies: Sequence[bytes]) -> dict[int, list[bytes]]:
    """Return the bodies of reservations by the number of their dataset, each in their order."""
    found: dict[int, list[bytes]] = {}
    for body in bodies:
        found.setdefault(_BUFFER.unpack_from(body)[0], []).append(body)
    return found


def _require_possible(entries: Entries, chunks: int, made: CreatedDataset | None) -> None:
    if not len(entries):
        return
    most = {name: int(entries[name].max()) for name in ("chunk", "offset", "nbytes", "mask")}
    if most["chunk"] >= chunks:
        raise ValueError(f"chunk {most['chunk']} of only {chunks}")
    if max(most["offset"], most["nbytes"]) >= 1 << 62:
        raise ValueError("an offset that no file has")
    if (made is None or made.is_chunked) and not entries["nbytes"].all():
        # Only a dataset of the structure of a draft may have chunks that need no space.
        is_empty = entries["nbytes"] == 0
        if made is None or not made.is_filled or entries["offset"][is_empty].any() or entries["mask"][is_empty].any():
            raise ValueError("a payload without bytes")
    if most["mask"] >= 1 << 32:
        raise ValueError("a mask that no chunk has")


def _assign(table: Entries, chunks: Entries, rows: Entries) -> None:
    """Assign rows to chunks; the last of several rows for one chunk stays."""
    table[chunks] = rows
    # numpy does not define which of several rows for one chunk it keeps.
    if table[chunks].tobytes() != rows.tobytes():
        for chunk, row in zip(chunks.tolist(), rows, strict=True):
            table[chunk] = row


def _resized(table: Entries, count: int) -> Entries:
    if len(table) == count:
        return table
    resized = np.zeros(count, ROW)
    resized[: len(table)] = table[:count]
    return resized


def _bounded(count: int) -> int:
    if count > _MOST_CHUNKS:
        raise ValueError(f"a dataset with {count} chunks, of which only {_MOST_CHUNKS} fit into memory")
    return count
