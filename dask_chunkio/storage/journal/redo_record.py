"""The redo record: the changes of one transaction, which are applied completely or not at all.

The redo log is a file of at most one record (`dask_chunkio.storage.journal.records`).  It holds what the journal
gains, what HDF5 staged, and the bytes which that replaces.  `dask_chunkio.storage.redo_log` defines when it is
written, applied, applied again and dropped.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from dask_chunkio.errors import IntegrityError
from dask_chunkio.storage.filesystem.io import memory_nbytes, pread_into, pwrite_all
from dask_chunkio.storage.journal.checksum import Bytes, checksum, checksum_at
from dask_chunkio.storage.journal.records import (
    APPLYING,
    HEADER_NBYTES,
    REDO,
    claimed_nbytes,
    first_record,
    is_whole_at,
    pack_record,
)

__all__ = ["SECTOR", "Mark", "RedoRecord", "load_redo_record", "read_mark", "read_redo_record"]

# A disk writes a sector completely or not at all, even on a power failure.  A killed process may tear even a sector.
SECTOR = 512
_HEAD = struct.Struct("<QQQQQQQ")
_RUN = struct.Struct("<QQ")
_MARK = struct.Struct("<QQQ")
# The start of a superblock, up to the end of the file that it records: as much as every transaction writes.
_SUPERBLOCK_NBYTES = 48
_MOST = 1 << 62
_AT_ONCE = 1 << 20
# Memory that a run takes besides its bytes.
_RUN_NBYTES = 600

Run = tuple[int, bytes | memoryview]


@dataclass(frozen=True, slots=True)
class RedoRecord:
    """The changes of one commit, which are applied completely or not at all.

    Parameters
    ----------
    journal_at : int
        Length of the journal before the transaction.
    journal : bytes
        Records that the journal gains.
    old_size, size : int
        Bytes of the file before and after the transaction.
    runs : sequence of (int, bytes)
        Offset and bytes of what HDF5 staged.
    before : sequence of bytes
        For each run, the content of the file before the transaction, as far as the file reached.
    device, inode : int
        Device and inode of the file, for people who look for it.
    """

    journal_at: int
    journal: bytes
    old_size: int
    size: int
    runs: Sequence[Run] = ()
    before: Sequence[bytes | memoryview] = ()
    device: int = 0
    inode: int = 0

    @classmethod
    def on(cls, descriptor: int, journal_at: int, journal: bytes, size: int, runs: Sequence[Run]) -> RedoRecord:
        """Build the record of a change to a file in its current state."""
        found = os.fstat(descriptor)
        before = [_read(descriptor, offset, _covered(offset, data, found.st_size)) for offset, data in runs]
        return cls(journal_at, journal, found.st_size, size, runs, before, found.st_dev, found.st_ino)

    def pack(self) -> bytes:
        """Return the record."""
        head = (self.journal_at, len(self.journal), self.old_size, self.size)
        parts: list[bytes | memoryview] = [_HEAD.pack(*head, self.device, self.inode, len(self.runs)), self.journal]
        for offset, data in self.runs:
            parts += (_RUN.pack(offset, len(data)), data)
        parts += self.before
        return pack_record(REDO, b"".join(parts))

    @classmethod
    def unpack(cls, body: bytes | memoryview) -> RedoRecord:
        """Read the body of a record, without a copy of its content.

        Raises
        ------
        ValueError, struct.error
            If its content is impossible.
        """
        journal_at, length, old_size, size, device, inode, count = _HEAD.unpack_from(body)
        at = _HEAD.size + length
        journal = bytes(body[_HEAD.size : at])
        runs: list[Run] = []
        for _ in range(count):
            offset, nbytes = _RUN.unpack_from(body, at)
            data = body[at + _RUN.size : at + _RUN.size + nbytes]
            if len(data) != nbytes or offset + nbytes > size:
                raise ValueError(f"bytes {offset} to {offset + nbytes} of a file of {size}")
            runs.append((offset, data))
            at += _RUN.size + nbytes
        before: list[bytes | memoryview] = []
        for offset, data in runs:
            end = at + _covered(offset, data, old_size)
            before.append(body[at:end])
            at = end
        if len(journal) != length or max(journal_at, old_size, size) > _MOST:
            raise ValueError(f"sizes of {max(journal_at, old_size, size)} bytes")
        if at != len(body):
            raise ValueError(f"{at} bytes, in a body of {len(body)}")
        return cls(journal_at, journal, old_size, size, runs, before, device, inode)

    def require_applicable(self, descriptor: int, journal: int, name: str) -> None:
        """Make sure that no other program has changed the bytes that this transaction changes.

        Every sector must hold its content from before the transaction, or its new content, or, if it is torn,
        the beginning of one and the end of the other.

        Raises
        ------
        IntegrityError
            If another program has changed one; the file stays as it is.
        """
        for (offset, data), old in zip(self.runs, self.before, strict=True):
            if (at := _changed(descriptor, offset, data, old)) is not None:
                raise IntegrityError(
                    f"{name} was changed by another program at byte {at} after a transaction of this write stopped "
                    f"there; to apply the transaction now would destroy that change. Nothing was changed. If the "
                    f"file is good as it is, abandon the write with 'dask-chunkio discard --force'; else restore the "
                    f"file first"
                )
        if os.fstat(journal).st_size < self.journal_at:
            raise IntegrityError(f"the journal of {name} is shorter than it was; discard the write and start it again")

    def apply(self, descriptor: int) -> None:
        """Write everything to the file.

        The order is: extend the file, write what lies above the old end, the superblock, the rest.  In this order
        almost every prefix is readable even by plain HDF5.  The file is never truncated.
        """
        if os.fstat(descriptor).st_size < self.size:
            os.ftruncate(descriptor, self.size)
        for offset, data in sorted(self.runs, key=lambda run: (run[0] < self.old_size, run[0])):
            pwrite_all(descriptor, data, offset)

    def enter(self, journal: int) -> None:
        """Write the records to the journal, which states by them that the file has all changes."""
        pwrite_all(journal, self.journal, self.journal_at)
        # A torn record behind the last complete one must never look like a record again.
        os.ftruncate(journal, self.journal_at + len(self.journal))

    @property
    def mark(self) -> Mark:
        """The mark that identifies this transaction among all of the same write."""
        return Mark(self.journal_at, len(self.journal), checksum(self.journal), self._superblock)

    @property
    def _superblock(self) -> bytes:
        first = (bytes(data[:_SUPERBLOCK_NBYTES]) for offset, data in self.runs if not offset)
        return next(first, b"")


@dataclass(frozen=True, slots=True)
class Mark:
    """The identity of the transaction that is being applied.

    It names the records that the journal gains only after the whole transaction is applied.

    Parameters
    ----------
    journal_at, nbytes : int
        Offset of these records in the journal, and their length.
    sum : int
        Their checksum.
    superblock : bytes
        The first bytes of the file after the transaction, if it writes them.
    """

    journal_at: int
    nbytes: int
    sum: int
    superblock: bytes = b""

    def pack(self) -> bytes:
        """Return the record."""
        return pack_record(APPLYING, _MARK.pack(self.journal_at, self.nbytes, self.sum) + self.superblock)

    def is_entered(self, journal: int) -> bool:
        """Return whether the journal has the records."""
        if self.journal_at + self.nbytes > os.fstat(journal).st_size:
            return False
        return checksum_at(journal, self.journal_at, self.nbytes) == self.sum

    def is_last(self, journal: int) -> bool:
        """Return whether these are the last records of the journal."""
        return self.journal_at + self.nbytes == os.fstat(journal).st_size and self.is_entered(journal)


def read_mark(data: bytes, name: str) -> Mark | None:
    """Return the mark that a file holds, or None if it is not complete.

    Raises
    ------
    IntegrityError
        If another version of this package wrote it.
    """
    record = first_record(data, name)
    if record is None or record[0] != APPLYING or not 0 <= len(record[2]) - _MARK.size <= _SUPERBLOCK_NBYTES:
        return None
    journal_at, nbytes, records_sum = _MARK.unpack_from(record[2])
    return Mark(journal_at, nbytes, records_sum, bytes(record[2][_MARK.size :]))


def read_redo_record(data: Bytes, name: str = "the log") -> RedoRecord | None:
    """Return the transaction that a log holds, or None if the record is torn.

    Raises
    ------
    IntegrityError
        If the record is complete but is not a valid transaction of this version.
    """
    record = first_record(data, name)
    if record is None:
        return None
    try:
        if record[0] != REDO:
            raise ValueError(f"the kind {record[0]}")
        return RedoRecord.unpack(record[2])
    except (ValueError, OverflowError, struct.error, MemoryError) as error:
        raise IntegrityError(
            f"{name} holds an invalid transaction ({error}); discard the write and start it again"
        ) from error


def load_redo_record(descriptor: int, name: str) -> RedoRecord | None:
    """Return the transaction that a log holds, or None if the record is torn; only a complete record is loaded.

    Parameters
    ----------
    descriptor : int
        Descriptor of the log.
    name : str
        Name of the log, for messages.

    Raises
    ------
    IntegrityError
        If the record is complete but is not a valid transaction of this version, or does not fit into memory.
    """
    size = os.fstat(descriptor).st_size
    start = _read(descriptor, 0, min(size, HEADER_NBYTES + _HEAD.size))
    nbytes = claimed_nbytes(start)
    if nbytes is None or nbytes > size:
        return None
    # (A shorter body holds no transaction.)
    count = _HEAD.unpack_from(start, HEADER_NBYTES)[-1] if len(start) == HEADER_NBYTES + _HEAD.size else 0
    _require_memory(nbytes + _RUN_NBYTES * min(count, nbytes // _RUN.size), name)
    if not is_whole_at(descriptor, start):
        return None
    try:
        data = memoryview(bytearray(nbytes))
    except MemoryError as error:
        raise _too_large(nbytes, name) from error
    pread_into(descriptor, data, 0)
    return read_redo_record(data, name)


def _require_memory(nbytes: int, name: str) -> None:
    if nbytes > memory_nbytes():
        raise _too_large(nbytes, name)


def _too_large(nbytes: int, name: str) -> IntegrityError:
    return IntegrityError(
        f"{name} takes {nbytes} bytes of memory, more than this machine has. Nothing was changed; go on with "
        f"resume=True on a larger machine, or abandon the write with 'dask-chunkio discard --force'"
    )


def _covered(offset: int, data: bytes | memoryview, size: int) -> int:
    """Return how many bytes of a run lie inside a file of `size` bytes."""
    return min(len(data), max(0, size - offset))


def _changed(descriptor: int, offset: int, new: bytes | memoryview, old: bytes | memoryview) -> int | None:
    """Return the offset of the first sector that holds neither the new nor the old bytes; compare block by block."""
    start = 0
    while start < len(new):
        # Whole sectors, except at the ends.
        end = min(len(new), start + _AT_ONCE - (offset + start) % SECTOR)
        found, block = _read(descriptor, offset + start, end - start), bytes(new[start:end])
        if (at := _foreign(offset + start, found, block, bytes(old[start:end]).ljust(len(block), b"\0"))) is not None:
            return at
        start = end
    return None


def _foreign(offset: int, found: bytes, new: bytes, old: bytes) -> int | None:
    """Return the offset of the first sector that holds neither `old`, `new` nor a torn write of them, or None."""
    if found in (new, old):
        return None
    at = 0
    while at < len(new):
        end = min(len(new), at + SECTOR - (offset + at) % SECTOR)
        parts = found[at:end], new[at:end], old[at:end]
        if not _is_torn(*parts) and not _is_torn(parts[0], parts[2], parts[1]):
            return offset + at
        at = end
    return None


def _is_torn(found: bytes, first: bytes, last: bytes) -> bool:
    """Return whether `found` begins like `first` and goes on like `last`."""
    same = next((at for at, (one, other) in enumerate(zip(found, first, strict=True)) if one != other), len(found))
    return found[same:] == last[same:]


def _read(descriptor: int, offset: int, nbytes: int) -> bytes:
    """Return bytes of a file, and zeros beyond its end."""
    data = bytearray(nbytes)
    pread_into(descriptor, memoryview(data), offset)
    return bytes(data)
