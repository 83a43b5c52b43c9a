"""The redo log, which makes a transaction durable: it is written, applied, and applied again after a crash.

Each step begins when the one before it is done, and with ``durability="power"`` has reached the disk::

    log       write the record of the whole transaction
    applying  write the mark of the transaction
    file      write what HDF5 staged
    journal   append the records of the transaction
    log       empty it

So a transaction without its mark was never applied, and one whose records are in the journal is applied completely.
Between these two steps the log is the only copy of what the file needs.  There it is either complete or damaged, and
it is never dropped.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable

from dask_chunkio.errors import IntegrityError
from dask_chunkio.printable import printable
from dask_chunkio.storage.filesystem.disk import Disk
from dask_chunkio.storage.filesystem.io import (
    copy_whole_file,
    flush,
    is_at,
    memory_nbytes,
    pread_into,
    pwrite_all,
    rewrite_file,
    sync_folder,
)
from dask_chunkio.storage.journal.records import HEADER_NBYTES, REDO, is_cut_off
from dask_chunkio.storage.journal.redo_record import Mark, RedoRecord, load_redo_record, read_mark
from dask_chunkio.storage.side_paths import DAMAGED_LOG
from dask_chunkio.storage.target import Durability, Target

__all__ = ["RedoLog"]

logger = logging.getLogger("dask_chunkio")

_MARK_NBYTES = 512


class RedoLog:
    """The redo log of one write, and the mark of the transaction that is being applied.

    Parameters
    ----------
    target : Target
        The target of the write.
    log, applying, journal : int
        Descriptors of the side files.
    disk : Disk
        The HDF5 file.
    """

    def __init__(self, target: Target, log: int, applying: int, journal: int, disk: Disk) -> None:
        self._target, self._disk = target, disk
        self._log, self._applying, self._journal = log, applying, journal
        self._is_named = False

    def commit(self, redo: RedoRecord, durable: bool) -> None:
        """Write a transaction to the log, and apply it; `durable` waits for the disk at each step."""
        if not redo.journal:
            raise ValueError("a transaction without records cannot be told from one that was not applied")
        self._write(redo.pack(), durable)
        self._apply(redo, durable)

    def replay(self, durability: Callable[[], Durability], is_open: bool = False) -> bytes:
        """Apply the transaction of a process that died while it applied it, or drop one that was never applied.

        Then the superblock of a new file is what the last transaction has written.

        Parameters
        ----------
        durability : callable
            Returns the durability of the write that wrote the log; only called if no transaction is being applied.
        is_open : bool
            Whether HDF5 has the file open since the last transaction, and needs nothing of it.

        Returns
        -------
        bytes
            The records that the journal has gained.

        Raises
        ------
        IntegrityError
            If the log is damaged, or another program has changed what it would write; nothing is changed then.
        """
        replayed = self._replayed(durability)
        if not is_open:
            self._restore_superblock()
        return replayed

    def _replayed(self, durability: Callable[[], Durability]) -> bytes:
        size = os.fstat(self._log).st_size
        if size == 0:
            self._require_nothing_applied()
            return b""
        redo = load_redo_record(self._log, self._target.log)
        if redo is None:
            self._drop_unapplied(size, durability)
        elif redo.mark.is_entered(self._journal):
            # Its records may be only in the page cache, and marked clean: until they are on the disk, only the log
            # tells that the transaction is applied.
            pwrite_all(self._journal, redo.journal, redo.journal_at)
            flush(self._journal)
            os.ftruncate(self._log, 0)
        else:
            redo.require_applicable(self._disk.descriptor, self._journal, self._target.file)
            # The log may be only in the page cache, and marked clean after a failed fsync: so it is written again.
            # If the changes reached the disk before the log, the transaction could not be applied again.
            rewrite_file(self._log)
            self._sync()
            self._apply(redo, durable=True)
            return redo.journal
        return b""

    def _restore_superblock(self) -> None:
        """Undo a change of the superblock since the last transaction, in a new file; other programs may change others.

        A superblock of version 0 has no checksum.  If the end of the file that it records is too low, HDF5 gives space
        away in which there are payloads.
        """
        mark, _ = self._read_mark() if self._target.mode == "new" else (None, False)
        if mark is None or not mark.superblock:
            return
        found = bytearray(len(mark.superblock))
        pread_into(self._disk.descriptor, memoryview(found), 0)
        # (The mark of a transaction whose records a power failure took is of a later state than the file.)
        if found != mark.superblock and mark.is_last(self._journal) and self._is_hidden():
            pwrite_all(self._disk.descriptor, mark.superblock, 0)
            words = "its superblock is not what was committed (a damaged disk?), and was written again"
            logger.warning("%s", printable(f"{self._target.file}: {words}"))

    def _is_hidden(self) -> bool:
        """Return whether the file has no name yet by which other programs may have opened it."""
        return os.fstat(self._disk.descriptor).st_nlink == 1 and is_at(self._disk.descriptor, self._target.file)

    def _write(self, record: bytes, durable: bool) -> None:
        pwrite_all(self._log, record, 0)
        if durable:
            self._sync()

    def _sync(self) -> None:
        flush(self._log)
        if not self._is_named:
            sync_folder(self._target.folder)
            self._is_named = True

    def _apply(self, redo: RedoRecord, durable: bool) -> None:
        pwrite_all(self._applying, redo.mark.pack(), 0)
        if durable:
            flush(self._applying)
        begun = self._disk.begin()
        redo.apply(self._disk.descriptor)
        if durable:
            self._disk.sync(begun)
        self._enter(redo, durable)
        os.ftruncate(self._log, 0)

    def _enter(self, redo: RedoRecord, durable: bool) -> None:
        try:
            redo.enter(self._journal)
            if durable:
                flush(self._journal)
        except OSError:
            # Records that may not be on the disk must not state that the transaction is applied: apply it again then.
            with contextlib.suppress(OSError):
                os.ftruncate(self._journal, redo.journal_at)
            raise

    # A log without a complete transaction

    def _drop_unapplied(self, size: int, durability: Callable[[], Durability]) -> None:
        mark, is_damaged = self._read_mark()
        if is_damaged or (mark is not None and not mark.is_entered(self._journal)):
            raise self._damaged("the transaction that it holds was being applied when its writer died")
        start = bytearray(min(size, HEADER_NBYTES))
        pread_into(self._log, memoryview(start), 0)
        if not is_cut_off(bytes(start), size, REDO):
            if durability() != "power":
                raise self._damaged("no process that was killed leaves it like that")
            # If a log has not reached the disk, a power failure may leave it with any content, and any length up to
            # that of a transaction, which is built in memory.
            if size > memory_nbytes():
                raise self._damaged(f"it has {size} bytes, more than memory")
            copy_whole_file(self._log, self._target.folder, DAMAGED_LOG)
        os.ftruncate(self._log, 0)

    def _require_nothing_applied(self) -> None:
        # A new file that lost the end of its journal in a power failure can still be recovered: no reader has
        # seen its content, and `finish` compares it with the journal.
        if self._target.mode != "existing":
            return
        mark, _ = self._read_mark()
        if mark is not None and not mark.is_entered(self._journal):
            raise self._damaged(
                f"it is empty, and either its transaction was being applied when its writer died, or "
                f"{self._target.journal} has lost its end"
            )

    def _read_mark(self) -> tuple[Mark | None, bool]:
        """Return the mark of the last transaction that was applied, and whether it is damaged."""
        data = bytearray(_MARK_NBYTES)
        count = pread_into(self._applying, memoryview(data), 0)
        mark = read_mark(bytes(data[:count]), self._target.applying)
        return mark, mark is None and count > 0

    def _damaged(self, why: str) -> IntegrityError:
        return IntegrityError(
            f"{self._target.log} is damaged: {why}. Nothing was changed, and the log is kept: {self._target.file} may "
            f"need it. Restore the folder from a copy and go on with resume=True; or, if the file is good as it is, "
            f"abandon the write with 'dask-chunkio discard --force'"
        )
