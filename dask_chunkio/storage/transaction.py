"""A transaction: lock, replay, open, stage, commit.

`Transactions` is what one process knows of the files of one write.  It is stateless between transactions,
so that any process may die at any moment and any other may take the next transaction; only where a
process is known to be the sole writer of a new file it keeps HDF5 open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import traceback
from collections.abc import Iterator, Sequence

import h5py

from dask_chunkio.errors import ChunkIOError, IntegrityError, TargetError, UnfinishedWriteError
from dask_chunkio.storage.activity.activity_lock import ActivityLock
from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.disk import Disk
from dask_chunkio.storage.filesystem.io import is_at, open_side_file, pread_into, pwrite_each, sync_folder
from dask_chunkio.storage.filesystem.locks import locked
from dask_chunkio.storage.filesystem.placement_barrier import Lock, PlacementBarrier
from dask_chunkio.storage.filesystem.process_exit import inside_hdf5
from dask_chunkio.storage.filesystem.side_folder import Folder
from dask_chunkio.storage.filesystem.signals import deferred
from dask_chunkio.storage.hdf5.staged_file import StagedFile
from dask_chunkio.storage.hdf5.staged_pages import Run
from dask_chunkio.storage.hdf5.superblock import GUARD, find_superblock, require_closed
from dask_chunkio.storage.journal.journal import Journal, owners_in
from dask_chunkio.storage.journal.manifest import read_manifest
from dask_chunkio.storage.journal.owner import Owner
from dask_chunkio.storage.journal.redo_record import RedoRecord
from dask_chunkio.storage.open_transaction import OpenTransaction
from dask_chunkio.storage.redo_log import RedoLog
from dask_chunkio.storage.target import Durability, Target

__all__ = ["PATIENCE", "Lock", "Transactions"]

# How long other programs may keep a file open that we add to, before a transaction gives up.
PATIENCE = 60.0


class Transactions:
    """Takes transactions on the files of one write, from any thread of this process.

    Parameters
    ----------
    target : Target
        What is written, in the mode that was found out.
    exclusive : bool
        Whether this process takes all transactions.
    holds_activity_lock : bool
        Whether the caller has the activity lock on the write, alone.

    Attributes
    ----------
    file : int
        Descriptor of the HDF5 file, to place payloads by.
    journal : Journal
        As it was at the end of the last transaction.
    activity lock : Activity lock
        Held while `used`.
    replayed_owners : list of Owner
        Whose transaction was cut off, before this transaction, as they took the write over.
    """

    def __init__(self, target: Target, exclusive: bool, holds_activity_lock: bool = False) -> None:
        self.target = target
        self.exclusive = exclusive
        self._shares_by_use = not exclusive and not holds_activity_lock
        self._mutex = threading.RLock()
        self._counting = threading.Condition()
        self._users = 0
        self._ended = False
        self._process = os.getpid()
        self._open: OpenTransaction | None = None
        self.replayed_owners: list[Owner] = []
        self._opened_descriptors: list[int] = []
        try:
            self.folder = Folder(target.folder)
            self._opened_descriptors += [] if self.folder.descriptor is None else [self.folder.descriptor]
            if self.folder.is_empty:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), target.folder)
            # Clients of NFS extend a write to the whole page, and lose what other hosts have written in it meanwhile,
            # but where the file is open for synchronous writes.
            exactly = getattr(os, "O_DSYNC", 0) if target.spans_hosts else 0
            self.file = self._descriptor(target.file, create=target.mode == "new", flags=exactly)
            self._journal_file = self._descriptor(target.journal)
            self._log = self._descriptor(target.log)
            applying = self._descriptor(target.applying)
            self.activity_lock = ActivityLock(target.lock)
            self._opened_descriptors.append(self.activity_lock.descriptor)
            if exclusive:
                self.activity_lock.share()
        except BaseException:
            self._close_descriptors()
            raise
        self.journal = Journal(self._journal_file, target.journal)
        self.barrier = PlacementBarrier(self._journal_file, target.path)
        self.disk = Disk(self.file, target.unsynced)
        self._redo_log = RedoLog(target, self._log, applying, self._journal_file, self.disk)
        self._in_file = threading.Lock()

    @property
    def is_durable(self) -> bool:
        """Whether a commit waits for the disk.

        Where several hosts write, it does in any case: `finish` flushes the page cache of its own host alone, and other
        hosts see the journal and the log only as far as they are flushed.
        """
        return self.target.durability == "power" or self.target.spans_hosts

    def close(self) -> None:
        """Abandon what is staged, and let go of the files when the last call has left them.

        A scheduler may give up a write while other threads still place: were a descriptor
        closed under them, its number could stand for another file when they use it.
        """
        with self._mutex, deferred():
            self.abandon()
        with self._counting:
            self._ended = True
            is_free = self._users == 0
        if is_free:
            self._close_descriptors()

    def end_if_unused(self) -> bool:
        """End the write if no task uses it, and return whether it has ended; the caller closes it."""
        # Whoever has this lock begins to use it, and may wait for another process.
        if not self._counting.acquire(blocking=False):
            return False
        try:
            self._ended = self._ended or self._users == 0
            return self._ended
        finally:
            self._counting.release()

    def close_at_exit(self) -> None:
        """Abandon what is staged, when no transaction can begin any more."""
        # Whoever has the lock then waits for another program's, and has nothing open.
        if self._mutex.acquire(blocking=False):
            self.abandon()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Hold the activity lock and keep the descriptors open; an error of the file system leaves as ours."""
        with self._counting:
            if self._ended:
                raise TargetError(f"the write of {self.target.path} has ended; nothing more is committed to it")
            if self._users == 0 and self._shares_by_use:
                self.activity_lock.share()
            self._users += 1
        try:
            yield
        except ChunkIOError:
            raise
        except OSError as error:
            raise self.target.refused(error) from error
        finally:
            if os.getpid() == self._process:
                self._unuse()

    def _unuse(self) -> None:
        with self._counting:
            self._users -= 1
            self._counting.notify_all()
            is_last = self._ended and self._users == 0
            if self._users == 0 and self._shares_by_use and not is_last:
                self.activity_lock.release()
        if is_last:
            self._close_descriptors()

    @property
    def is_used(self) -> bool:
        """Whether a task of this process uses the write; never waits for a lock."""
        return self._users > 0

    def wait_unused(self) -> None:
        """Wait until no task of this process uses the write."""
        with self._counting:
            self._counting.wait_for(lambda: self._users == 0)

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
            If another call has taken the write over, or the file was moved away.
        TargetBusyError
            If another program keeps the file open.
        IntegrityError
            If another program has changed what a transaction that was cut off was changing.
        """
        # Others of this write are waited for without end, but for a beginning; other programs for a while.
        with (
            self.used(),
            self._mutex,
            lock(),
            locked(self._log, self.target.log, patience if patience < PATIENCE else None),
            locked(self.file, self.target.file, None if self.target.wait else patience),
            deferred(),
            inside_hdf5(),
        ):
            self._require_in_place()
            self._see_other_hosts()
            replayed = self._redo_log.replay(self._durability_before)
            self.journal.refresh()
            self.replayed_owners = owners_in(replayed, self.target.log)
            if not anybody:
                self._require_ownership()
            yield

    @contextlib.contextmanager
    def opened(self, mode: str = "r+") -> Iterator[OpenTransaction]:
        """Open HDF5 inside a transaction, or take it as it stands open; any error abandons what is staged."""
        try:
            if self._open is None:
                self._open = self._open_hdf5(mode)
            yield self._open
        except BaseException as error:
            reason = self._open.staged.error if self._open is not None else None
            self.abandon()
            if reason is None or reason is error:
                raise
            # What HDF5 says of zeros in place of its metadata is not what went wrong.
            traceback.clear_frames(error.__traceback__)
            raise reason from None
        if not self._stays_open():
            self.abandon()

    def commit(self, state: OpenTransaction, records: bytes, close: bool = False, durable: bool = False) -> None:
        """Make everything staged, and the records, durable at once.

        Parameters
        ----------
        state : OpenTransaction
            The file.
        records : bytes
            What the journal gains.
        close : bool
            Whether to close the file in any case.
        durable : bool
            Whether to wait for the disk in any case, for the payloads too.

        Raises
        ------
        IntegrityError
            If HDF5 cannot write its metadata.
        """
        try:
            if self._stays_open() and not close:
                state.h5.flush()
            else:
                state.h5.close()
                self._open = None
        except (OSError, RuntimeError, ValueError) as error:
            state.staged.check()
            raise IntegrityError(
                f"{self.target.file}: HDF5 cannot write its metadata ({error}), which is damaged; discard the write "
                f"and start it again"
            ) from error
        state.staged.check()
        runs = self._guarded(state.staged.staged.runs())
        if durable:
            self.disk.sync(self.disk.begin())
        transaction = RedoRecord.on(self.file, self.journal.size, records, state.staged.size, runs)
        self._redo_log.commit(transaction, durable or self.is_durable)
        state.staged.staged.clear()
        self.journal.refresh()

    def refresh(self) -> None:
        """Read what other processes have added to the journal."""
        with self._mutex:
            self._see_other_hosts()
            self.journal.refresh()

    def _see_other_hosts(self) -> None:
        """Have the next read see what other hosts have written to the side files that no lock protects.

        Clients of NFS believe in the length and the content that they know for up to a minute; but they ask when a file
        is opened, or locked.
        """
        if self.target.spans_hosts:
            for path in (self.target.journal, self.target.applying):
                close_descriptor(open_side_file(path, create=False))

    def record(self, records: bytes) -> None:
        """Add to the journal alone, inside a transaction."""
        size = os.fstat(self.file).st_size
        transaction = RedoRecord.on(self.file, self.journal.size, records, size, self._guarded([]))
        self._redo_log.commit(transaction, self.is_durable)
        self.journal.refresh()

    def abandon(self) -> None:
        """Close HDF5 without a trace of what is staged."""
        state, self._open = self._open, None
        if state is not None:
            state.staged.abandon()
            # A dead file makes HDF5 complain about what it cannot read back; the committed state is not touched.
            with contextlib.suppress(Exception):
                state.h5.close()

    def trim(self, size: int) -> None:
        """Cut what is behind HDF5's end of the file, after the last commit, and wait for the disk."""
        if os.fstat(self.file).st_size > size:
            os.ftruncate(self.file, size)
        self.disk.sync(self.disk.begin())

    def settle(self) -> None:
        """Write everything again that an ``fsync`` that failed has dropped, in a transaction in which nobody places."""
        self.disk.settle(self._journal_file)

    def sync_all(self) -> None:
        """Have everything that an earlier call committed reach the disk, where this one promises it.

        Inside a transaction, while nobody else is at work on the write.
        """
        if self.is_durable:
            self.settle()
            self.disk.sync(self.disk.begin())
            try:
                os.fsync(self._journal_file)
            except OSError:
                self.disk.doubt()
                raise
            sync_folder(self.target.folder)
            sync_folder(os.path.dirname(self.target.path))

    def place(self, pieces: Sequence[tuple[int, bytes | memoryview]]) -> None:
        """Put payloads in their places; wait for the disk where a commit is to survive a power failure."""
        while True:
            begun = self.disk.begin()
            # The system lets one writer at a time into a file; threads that wait here sleep, there they spin.
            with self._in_file:
                pwrite_each(self.file, pieces)
            if not self.is_durable or self.disk.is_synced(begun):
                return

    # Steps of a transaction

    def _open_hdf5(self, mode: str) -> OpenTransaction:
        staged = StagedFile(self.file)
        try:
            return OpenTransaction(staged, h5py.File(staged, mode, libver=self.target.libver))
        except Exception as error:
            # h5py's frames hold property lists that point to `staged`: kept until the interpreter ends, they crash it.
            traceback.clear_frames(error.__traceback__)
            staged.check()
            raise IntegrityError(f"HDF5 cannot open {self.target.file}: {error}") from None

    def _stays_open(self) -> bool:
        # Others may write an existing file between transactions.  HDF5 marks as open only what it can lock: a staged
        # file is never marked, and opens again if this process dies while it keeps it open.
        return self.exclusive and self.target.mode == "new"

    def _guarded(self, runs: list[Run]) -> list[Run]:
        """Have the superblock among the runs, so that a replay sees whether others have moved the end of the file."""
        at = find_superblock(self.file)
        if at is None or any(offset <= at < offset + len(data) for offset, data in runs):
            return runs
        guard = bytearray(GUARD)
        pread_into(self.file, memoryview(guard), at)
        return [(at, bytes(guard)), *runs]

    def _durability_before(self) -> Durability:
        """Return what the last owner promised."""
        self.journal.refresh()
        owner, manifest = self.journal.owner, read_manifest(self.target.manifest)
        promised = owner or manifest
        return "power" if promised is not None and promised.durability == "power" else "process"

    def _require_ownership(self) -> None:
        owner = self.journal.owner
        if owner is not None and owner.write_id != self.target.write_id:
            raise UnfinishedWriteError(
                f"the write of {self.target.path} was taken over by another, {owner}; this one gives up, and what "
                f"it has committed is kept there"
            )

    def _require_in_place(self) -> None:
        if not self.folder.is_there or not is_at(self._log, self.target.log):
            raise TargetError(f"the write of {self.target.path} was finished or discarded meanwhile")
        if self.target.mode != "existing":
            return
        if not is_at(self.file, self.target.path):
            raise TargetError(
                f"{self.target.path} was moved away or replaced during the write; put it back and go on with "
                f"resume=True, or discard the write"
            )
        require_closed(self.target.path)

    def path_of(self, dataset: int) -> str:
        """Return where in the file a dataset of this write is until it has its name.

        Raises
        ------
        IntegrityError
            If the journal does not say.
        """
        created = self.journal.created
        if created is None:
            raise IntegrityError(f"{self.target.journal} does not say what was made; discard the write")
        return created.path(dataset)

    # Descriptors

    def _descriptor(self, path: str, create: bool = True, flags: int = 0) -> int:
        descriptor = open_side_file(path, create, flags=flags)
        self._opened_descriptors.append(descriptor)
        return descriptor

    def _close_descriptors(self) -> None:
        while self._opened_descriptors:
            close_descriptor(self._opened_descriptors.pop())
