"""The log: what one turn changes, whole or not at all.

A file of at most one record (`dask_chunkio.storage.records`): what the journal gains and what
HDF5 staged, with the checksum of what stood in each sector before.  Whoever finds a whole
record applies it again, which changes nothing if it was applied before; a torn one never
happened.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from dask_chunkio.errors import IntegrityError
from dask_chunkio.storage.files import pread_into, pwrite_all
from dask_chunkio.storage.records import TURN, checksum, first_record, pack_record
from dask_chunkio.storage.staging import Run

__all__ = ["SECTOR", "Turn", "read_turn"]

# What a disk writes whole or not at all, even when its power fails.
SECTOR = 512
_TURN = struct.Struct("<QQQQQQQ")
_RUN = struct.Struct("<QQ")
_SUM = struct.Struct("<Q")
_MOST = 1 << 62


@dataclass(frozen=True, slots=True)
class Turn:
    """What one commit changes: applied whole, or never.

    Parameters
    ----------
    journal_at : int
        Length of the journal before the turn.
    journal : bytes
        Records that it gains.
    old_size, size : int
        Bytes of the file before and after the turn.
    runs : list of (int, bytes)
        What HDF5 staged.
    before : list of int
        Checksum of what stood, before the turn, under each sector's part of the runs.
    device, inode : int
        Of the file, for whoever looks for it.
    """

    journal_at: int
    journal: bytes
    old_size: int
    size: int
    runs: list[Run] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    device: int = 0
    inode: int = 0

    @classmethod
    def on(cls, descriptor: int, journal_at: int, journal: bytes, size: int, runs: list[Run]) -> Turn:
        """Build the turn that changes a file as it stands."""
        found = os.fstat(descriptor)
        before = [checksum(_read(descriptor, offset, len(data))) for offset, data in _sectors(runs)]
        return cls(journal_at, journal, found.st_size, size, runs, before, found.st_dev, found.st_ino)

    def pack(self) -> bytes:
        """Return the record."""
        head = (self.journal_at, len(self.journal), self.old_size, self.size)
        parts = [_TURN.pack(*head, self.device, self.inode, len(self.runs)), self.journal]
        for offset, data in self.runs:
            parts += (_RUN.pack(offset, len(data)), data)
        parts += map(_SUM.pack, self.before)
        return pack_record(TURN, b"".join(parts))

    @classmethod
    def unpack(cls, body: bytes) -> Turn:
        """Read the body of a record.

        Raises
        ------
        ValueError, struct.error
            If it says what cannot be.
        """
        journal_at, length, old_size, size, device, inode, count = _TURN.unpack_from(body)
        at = _TURN.size + length
        journal, runs = body[_TURN.size : at], []
        for _ in range(count):
            offset, nbytes = _RUN.unpack_from(body, at)
            data = body[at + _RUN.size : at + _RUN.size + nbytes]
            if len(data) != nbytes or offset + nbytes > size:
                raise ValueError(f"bytes {offset} to {offset + nbytes} of a file of {size}")
            runs.append((offset, data))
            at += _RUN.size + nbytes
        before = [old for (old,) in _SUM.iter_unpack(body[at:])]
        if len(journal) != length or max(journal_at, old_size, size) > _MOST:
            raise ValueError(f"sizes of {max(journal_at, old_size, size)} bytes")
        if len(before) != sum(1 for _ in _sectors(runs)):
            raise ValueError("checksums that do not match its sectors")
        return cls(journal_at, journal, old_size, size, runs, before, device, inode)

    def require_applicable(self, descriptor: int, journal: int, name: str) -> None:
        """Make sure that nobody else has changed what this turn changes.

        Every sector must hold what stood there before the turn, or what it puts there.

        Raises
        ------
        IntegrityError
            If another program has; nothing is touched.
        """
        for old, (offset, data) in zip(self.before, _sectors(self.runs), strict=True):
            found = _read(descriptor, offset, len(data))
            if found != data and checksum(found) != old:
                raise IntegrityError(
                    f"{name} was changed by another program at byte {offset} while a turn of this write was cut off "
                    f"there; applied now, it would harm that change. Nothing was touched. If the file is good as it "
                    f"is, give the write up with 'dask-chunkio discard --force'; else restore the file first"
                )
        if os.fstat(journal).st_size < self.journal_at:
            raise IntegrityError(f"the journal of {name} is shorter than it was; discard the write and start it again")

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
        # What was torn behind the last whole record must not look like a record again.
        os.ftruncate(journal, self.journal_at + len(self.journal))


def read_turn(data: bytes, name: str = "the log") -> Turn | None:
    """Return the turn that a log holds, or None where it is torn.

    Raises
    ------
    IntegrityError
        If the record is whole, and yet none of ours.
    """
    record = first_record(data, name)
    if record is None:
        return None
    try:
        if record[0] != TURN:
            raise ValueError(f"the kind {record[0]}")
        return Turn.unpack(record[2])
    except (ValueError, struct.error, MemoryError) as error:
        raise IntegrityError(
            f"{name} holds what no turn can ({error}); discard the write and start it again"
        ) from error


def _sectors(runs: list[Run]) -> Iterator[Run]:
    """Cut runs where sectors meet."""
    for offset, data in runs:
        at = 0
        while at < len(data):
            end = min(len(data), at + SECTOR - (offset + at) % SECTOR)
            yield offset + at, data[at:end]
            at = end


def _read(descriptor: int, offset: int, nbytes: int) -> bytes:
    """Return what a file holds; beyond its end, zeros."""
    data = bytearray(nbytes)
    pread_into(descriptor, memoryview(data), offset)
    return bytes(data)
