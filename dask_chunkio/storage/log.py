"""Records beside the file: the journal of reservations, and the log of the turn in flight.

Both are files of records of one form, little-endian, without any pickle::

    magic  version kind  length  checksum  body
    4s     u2      u2    u8      u8        length bytes

``checksum`` is xxh3-64 of the header before it and of the body.  The *journal* is
append-only: one `Reservations` record for each buffer (and one ``CREATED``).  The *log* holds
at most one record, a `Turn`: what the journal gains and what HDF5 staged.  Whoever finds a
whole `Turn` in the log applies it again, which changes nothing if it was applied before; a
torn one never happened.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from dask_chunkio.errors import IntegrityError
from dask_chunkio.storage.files import pread_into, pwrite_all
from dask_chunkio.storage.staging import Run

__all__ = [
    "CREATED",
    "RESERVED",
    "TURN",
    "Journal",
    "Reservations",
    "Turn",
    "checksum",
    "pack_record",
    "read_records",
    "read_turn",
]

_MAGIC, _VERSION = b"DCIO", 1
_HEADER = struct.Struct("<4sHHQ")
_SUM = struct.Struct("<Q")
_PREFIX = _HEADER.size + _SUM.size
CREATED, RESERVED, TURN = 1, 2, 3

_BUFFER = struct.Struct("<QQQ")
_TURN = struct.Struct("<QQQQ")
_RUN = struct.Struct("<QQ")
_ENTRY = np.dtype([("chunk", "<u8"), ("offset", "<u8"), ("nbytes", "<u8"), ("checksum", "<u8"), ("mask", "<u8")])


def checksum(*parts: bytes | bytearray | memoryview) -> int:
    """Return the xxh3-64 checksum of `parts`, one after the other."""
    if len(parts) == 1:
        return int(xxhash.xxh3_64_intdigest(parts[0]))
    state = xxhash.xxh3_64()
    for part in parts:
        state.update(part)
    return int(state.intdigest())


def pack_record(kind: int, body: bytes) -> bytes:
    """Return a whole record."""
    header = _HEADER.pack(_MAGIC, _VERSION, kind, len(body))
    return header + _SUM.pack(checksum(header, body)) + body


def read_records(data: bytes, name: str) -> Iterator[tuple[int, int, bytes]]:
    """Return (kind, end, body) of the whole records at the start of `data`.

    A torn last record ends the iteration.

    Raises
    ------
    IntegrityError
        If a record that others follow is damaged.
    """
    at = 0
    while (record := _record_at(data, at)) is not None:
        kind, end, body = record
        yield kind, end, body
        at = end
    if _record_after(data, at):
        raise IntegrityError(
            f"{name} is damaged at byte {at}, before other records; what was written cannot be trusted. "
            f"Discard it (dask-chunkio discard) and write again"
        )


def _record_at(data: bytes, at: int) -> tuple[int, int, bytes] | None:
    if len(data) - at < _PREFIX:
        return None
    header = data[at : at + _HEADER.size]
    magic, version, kind, length = _HEADER.unpack(header)
    end = at + _PREFIX + length
    if (magic, version) != (_MAGIC, _VERSION) or end > len(data):
        return None
    body = data[at + _PREFIX : end]
    (expected,) = _SUM.unpack_from(data, at + _HEADER.size)
    return (kind, end, body) if checksum(header, body) == expected else None


def _record_after(data: bytes, at: int) -> bool:
    following = data.find(_MAGIC, at + 1)
    while following != -1:
        if _record_at(data, following) is not None:
            return True
        following = data.find(_MAGIC, following + 1)
    return False


@dataclass(frozen=True, slots=True)
class Reservations:
    """Where the payloads of one buffer are, or are going to be.

    Parameters
    ----------
    dataset, buffer : int
        Numbers of the dataset in the write and of the buffer in its grid.
    entries : numpy.ndarray
        One record for each chunk: ``chunk`` (its number), ``offset`` and ``nbytes`` in the
        file, ``checksum`` of the payload, ``mask``.
    epoch : int
        Counts the reservations of the same buffer.
    """

    dataset: int
    buffer: int
    entries: np.ndarray[Any, np.dtype[Any]]
    epoch: int = 0

    @classmethod
    def of(cls, dataset: int, buffer: int, rows: list[tuple[int, int, int, int, int]]) -> Reservations:
        """Build from (chunk, offset, nbytes, checksum, mask)."""
        return cls(dataset, buffer, np.array(rows, _ENTRY))

    @property
    def stored_nbytes(self) -> int:
        """Bytes of all payloads."""
        return int(self.entries["nbytes"].sum())

    def replaced(self, row: int, offset: int, nbytes: int, checksum: int, mask: int) -> Reservations:
        """Return these reservations with another place for one chunk, as the next epoch."""
        entries = self.entries.copy()
        entries[row] = (entries[row]["chunk"], offset, nbytes, checksum, mask)
        return Reservations(self.dataset, self.buffer, entries, self.epoch + 1)

    def pack(self) -> bytes:
        """Return the record."""
        head = _BUFFER.pack(self.dataset, self.buffer, self.epoch)
        return pack_record(RESERVED, head + self.entries.tobytes())

    @classmethod
    def unpack(cls, body: bytes) -> Reservations:
        """Read the body of a record."""
        dataset, buffer, epoch = _BUFFER.unpack_from(body)
        return cls(dataset, buffer, np.frombuffer(body, _ENTRY, offset=_BUFFER.size), epoch)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one commit changes: applied whole, or never.

    Parameters
    ----------
    journal_at : int
        Length of the journal before the turn.
    journal : bytes
        Records that it gains.
    size : int
        Bytes of the file after the turn.
    old_size : int
        Bytes of the file before the turn.
    runs : list of (int, bytes)
        What HDF5 staged.
    """

    journal_at: int
    journal: bytes
    old_size: int
    size: int
    runs: list[Run] = field(default_factory=list)

    def pack(self) -> bytes:
        """Return the record."""
        parts = [_TURN.pack(self.journal_at, len(self.journal), self.old_size, self.size), self.journal]
        for offset, data in self.runs:
            parts += (_RUN.pack(offset, len(data)), data)
        return pack_record(TURN, b"".join(parts))

    @classmethod
    def unpack(cls, body: bytes) -> Turn:
        """Read the body of a record."""
        journal_at, length, old_size, size = _TURN.unpack_from(body)
        at = _TURN.size + length
        journal, runs = body[_TURN.size : at], []
        while at < len(body):
            offset, nbytes = _RUN.unpack_from(body, at)
            runs.append((offset, body[at + _RUN.size : at + _RUN.size + nbytes]))
            at += _RUN.size + nbytes
        return cls(journal_at, journal, old_size, size, runs)

    def apply(self, descriptor: int, journal: int) -> None:
        """Write everything to the file and the journal.

        In this order almost every prefix is readable even to plain HDF5: extend, what is
        above the old end, the superblock, the rest.  The file is never cut.
        """
        if os.fstat(descriptor).st_size < self.size:
            os.ftruncate(descriptor, self.size)
        for offset, data in sorted(self.runs, key=lambda run: (run[0] < self.old_size, run[0])):
            pwrite_all(descriptor, data, offset)
        pwrite_all(journal, self.journal, self.journal_at)


def read_turn(data: bytes) -> Turn | None:
    """Return the turn that a log holds, or None where it is torn."""
    record = _record_at(data, 0)
    return Turn.unpack(record[2]) if record is not None and record[0] == TURN else None


class Journal:
    """What is reserved, read from an append-only file of records.

    Only the part that grew since the last look is read again.

    Parameters
    ----------
    descriptor : int
        Of the file.
    name : str
        For messages.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor, self._name = descriptor, name
        self._found: dict[tuple[int, int], Reservations] = {}
        self.size = 0
        self.created = False

    def refresh(self) -> None:
        """Read what others have added."""
        grown = os.fstat(self._descriptor).st_size - self.size
        if grown <= 0:
            return
        data = bytearray(grown)
        count = pread_into(self._descriptor, memoryview(data), self.size)
        base = self.size
        for kind, end, body in read_records(bytes(data[:count]), self._name):
            self._add(kind, body)
            self.size = base + end

    def find(self, dataset: int, buffer: int) -> Reservations | None:
        """Return the reservations of a buffer, if it has any."""
        return self._found.get((dataset, buffer))

    def of_dataset(self, dataset: int) -> list[Reservations]:
        """Return all reservations of a dataset."""
        return [found for (number, _), found in self._found.items() if number == dataset]

    def _add(self, kind: int, body: bytes) -> None:
        if kind == CREATED:
            self.created = True
        elif kind == RESERVED:
            found = Reservations.unpack(body)
            self._found[found.dataset, found.buffer] = found
