"""A transaction: lock, replay, open, stage, commit.

`Transactions` is what one process knows about the files of one write.  It is stateless between transactions,
so that any process may die at any moment and any other may take the next transaction.  Only if a
process is known to be the sole writer of a new file, it keeps HDF5 open.
"""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
from collections.abc import Iterator

from dask_chunkio.errors import IntegrityError, UnfinishedWriteError
from dask_chunkio.storage.filesystem.locks import locked
from dask_chunkio.storage.filesystem.placement_barrier import Lock, PlacementBarrier
from dask_chunkio.storage.filesystem.process_exit import inside_hdf5
from dask_chunkio.storage.filesystem.signals import deferred
from dask_chunkio.storage.hdf5.superblock import with_superblock
from dask_chunkio.storage.journal.journal import Journal, owners_in
from dask_chunkio.storage.journal.manifest import read_manifest
from dask_chunkio.storage.journal.owner import Owner
from dask_chunkio.storage.journal.redo_record import RedoRecord
from dask_chunkio.storage.open_files import OpenFiles
from dask_chunkio.storage.open_transaction import OpenTransaction
from dask_chunkio.storage.payload_file import PayloadFile
from dask_chunkio.storage.redo_log import RedoLog
from dask_chunkio.storage.target import Durability, Target

__all__ = ["PATIENCE", "Lock", "Transactions"]

# Seconds that a transaction waits for other programs that have an existing file open.
PATIENCE = 60.0


class Transactions:
    """Takes transactions on the files of one write, from any thread of this process.

    Parameters
    ----------
    target : Target
        The target of the write, with its mode.
    exclusive : bool
        Whether this process takes all transactions.
    holds_activity_lock : bool
        Whether the caller holds the activity lock of the write exclusively.

    Attributes
    ----------
    files : OpenFiles
        The open files of the write.
    payloads : PayloadFile
        The HDF5 file, to place payloads in.
    barrier : PlacementBarrier
        Shared while payloads are placed.
    journal : Journal
        The journal at the end of the last transaction.
    replayed_owners : list of Owner
        Owners whose take-over was interrupted in the transaction that this one has replayed.
    """

    def __init__(self, target: Target, exclusive: bool, holds_activity_lock: bool = False) -> None:
        self.target = target
        self.exclusive = exclusive
        self._mutex = threading.RLock()
        self._open: OpenTransaction | None = None
        self.replayed_owners: list[Owner] = []
        self.files = files = OpenFiles(target, exclusive, holds_activity_lock)
        self.journal = Journal(files.journal, target.journal)
        self.barrier = PlacementBarrier(files.journal, target.path)
        self.payloads = PayloadFile(target, files)
        self._redo_log = RedoLog(target, files.log, files.applying, files.journal, self.payloads.disk)

    def close(self) -> None:
        """Abandon what is staged, and close the files when the last call has left them."""
        with self._mutex, deferred():
            self.abandon()
        self.files.end()

    def close_at_exit(self) -> None:
        """Abandon what is staged, when no transaction can begin any more."""
        # A thread that holds the mutex then waits for the lock of another program, and has nothing open.
        if self._mutex.acquire(blocking=False):
            self.abandon()

    @contextlib.contextmanager
    def transaction(self, lock: Lock, anybody: bool = False, patience: float = PATIENCE) -> Iterator[None]:
        """Hold every lock, with the log replayed and the journal read.

        Parameters
        ----------
        lock : callable
            Returns the scheduler's lock.
        anybody : bool
            Whether the transaction may be taken by a call that does not own the write.
        patience : float
            Seconds to wait for other programs that have the file open.

        Raises
        ------
        TargetError
            If another call has taken the write over, the write has ended, or the file was moved away.
        TargetBusyError
            If another program keeps the file open.
        IntegrityError
            If another program has changed what an interrupted transaction was changing, or side files are damaged.
        """
        # Wait without limit for other processes of this write, except when it begins; wait a while for other programs.
        with (
            self.files.used(),
            self._mutex,
            lock(),
            locked(self.files.log, self.target.log, patience if patience < PATIENCE else None),
            locked(self.files.file, self.target.file, None if self.target.wait else patience),
            deferred(),
            inside_hdf5(),
        ):
            self.files.require_in_place()
            self.files.see_other_hosts()
            replayed = self._redo_log.replay(self._durability_before, self._open is not None)
            self.journal.refresh()
            self.replayed_owners = owners_in(replayed, self.target.log)
            if not anybody:
                self._require_ownership()
            yield

    @contextlib.contextmanager
    def opened(self, mode: str = "r+") -> Iterator[OpenTransaction]:
        """Open HDF5 inside a transaction, or use it if it is still open; any error abandons what is staged."""
        try:
            if self._open is None:
                self._open = OpenTransaction.on(self.files.file, self.target, mode)
            yield self._open
        except BaseException as error:
            reason = self._open.staged.error if self._open is not None else None
            self.abandon()
            if reason is None or reason is error:
                raise
            # HDF5 only complains about zeros in place of its metadata: raise the error that caused it.
            traceback.clear_frames(error.__traceback__)
            raise reason from None
        if not self._stays_open():
            self.abandon()

    def commit(self, state: OpenTransaction, records: bytes, close: bool = False, durable: bool = False) -> None:
        """Make the staged writes and the records durable together.

        Parameters
        ----------
        state : OpenTransaction
            The open file.
        records : bytes
            Records that the journal gains.
        close : bool
            Whether to close the file in any case.
        durable : bool
            Whether to wait for the disk in any case, also for the payloads.

        Raises
        ------
        IntegrityError
            If HDF5 cannot write its metadata.
        """
        try:
            if self._stays_open() and not close:
                state.h5.flush()
            else:
                state.close()
                self._open = None
        except (OSError, RuntimeError, ValueError) as error:
            state.staged.check()
            raise IntegrityError(
                f"{self.target.file}: HDF5 cannot write its metadata ({error}), which is damaged; discard the write "
                f"and start it again"
            ) from error
        state.staged.check()
        runs = with_superblock(self.files.file, state.staged.staged.runs())
        if durable:
            self.payloads.sync()
        redo = RedoRecord.on(self.files.file, self.journal.size, records, state.staged.size, runs)
        self._redo_log.commit(redo, durable or self.payloads.is_durable)
        state.staged.staged.clear()
        self.journal.refresh()

    def refresh(self) -> None:
        """Read what other processes have added to the journal."""
        with self._mutex:
            self.files.see_other_hosts()
            self.journal.refresh()

    def is_finished_by_this(self) -> bool:
        """Return whether a process of this very write has finished it; the folder may be removed already."""
        with self._mutex:
            self.journal.refresh()
        return self.journal.finished and self.journal.may_be_of(self.target.owner_id)

    def record(self, records: bytes) -> None:
        """Add records to the journal only, inside a transaction."""
        size = os.fstat(self.files.file).st_size
        runs = with_superblock(self.files.file, [])
        redo = RedoRecord.on(self.files.file, self.journal.size, records, size, runs)
        self._redo_log.commit(redo, self.payloads.is_durable)
        self.journal.refresh()

    def abandon(self) -> None:
        """Close HDF5, and discard everything that is staged."""
        state, self._open = self._open, None
        if state is not None:
            state.staged.abandon()
            # A dead file makes HDF5 complain about what it cannot read back; the committed state is not touched.
            with contextlib.suppress(Exception):
                state.h5.close()

    # Steps of a transaction

    def _stays_open(self) -> bool:
        # Other programs may write an existing file between transactions, also that of a draft, so only a new file stays
        # open.  HDF5 marks as open only files that it can lock: a staged file is never marked, and can be opened again
        # if this process dies.  Only when it closes a file with pages, HDF5 stores where they have free space.
        return self.exclusive and self.target.mode == "new" and self.target.layout is None

    def _durability_before(self) -> Durability:
        """Return the durability that the last owner promised."""
        self.journal.refresh()
        owner, manifest = self.journal.owner, read_manifest(self.target.manifest)
        promised = owner or manifest
        return "power" if promised is not None and promised.durability == "power" else "process"

    def _require_ownership(self) -> None:
        owner = self.journal.owner
        if owner is not None and owner.write_id != self.target.owner_id:
            raise UnfinishedWriteError(
                f"the write of {self.target.path} was taken over by another, {owner}; this one gives up, and what "
                f"it has committed is kept there"
            )
