"""A turn: lock, replay, open, reserve, commit; and then, outside the lock, place.

A `Writer` is what one process knows of one write.  It is stateless between turns, so that
any process may die at any moment and any other may take the next turn; only where a process
is known to be the sole writer (`exclusive`) it keeps the file open.
"""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import h5py

from dask_chunkio.errors import ChunkIOError, IntegrityError, TargetError
from dask_chunkio.filters.pipeline import Payload
from dask_chunkio.grid import Array
from dask_chunkio.storage.dataset import DatasetLayout, DatasetSpec, describe, make_dataset, verify_index
from dask_chunkio.storage.files import pread_into, pwrite_all, pwrite_each
from dask_chunkio.storage.flock import locked
from dask_chunkio.storage.hdf5_file import StagedFile
from dask_chunkio.storage.log import CREATED, Journal, Reservations, Turn, checksum, pack_record, read_turn
from dask_chunkio.storage.signals import deferred
from dask_chunkio.storage.target import Target

__all__ = ["Lock", "Writer"]

Lock = Callable[[], AbstractContextManager[object]]
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A payload, the number of its chunk, and its checksum."""

    chunk: int
    payload: Payload
    sum: int


@dataclass(frozen=True, slots=True)
class _Open:
    """The HDF5 file while it is open."""

    staged: StagedFile
    h5: h5py.File
    ids: dict[str, h5py.h5d.DatasetID] = field(default_factory=dict)

    def id_of(self, name: str) -> h5py.h5d.DatasetID:
        """Return a dataset's handle; looked up by name once, which takes longer than to reserve a place."""
        if name not in self.ids:
            self.ids[name] = self.h5[name].id
        return self.ids[name]


class Writer:
    """Commits buffers of one write, from any thread of this process.

    Parameters
    ----------
    target : Target
        What is written.
    exclusive : bool
        Whether no other process takes turns, so that the file may stay open between them.
    """

    def __init__(self, target: Target, exclusive: bool) -> None:
        self.target = target
        self.exclusive = exclusive
        self._turns = threading.RLock()
        self._counting = threading.Lock()
        self._placing = threading.Lock()
        self._users = 0
        self._ended = False
        self._open: _Open | None = None
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        self._file = os.open(target.file, flags, 0o666)
        self._journal_file = os.open(target.journal, flags, 0o666)
        self._log = os.open(target.log, flags, 0o666)
        self._journal = Journal(self._journal_file, target.journal)

    # What tasks call

    def create(self, specs: Sequence[DatasetSpec], lock: Lock) -> tuple[DatasetLayout, ...]:
        """Make the file and its datasets, or find them made."""
        with self._turn(lock), self._opened("r+" if self._journal.created else "w") as state:
            if self._journal.created:
                return tuple(describe(state.h5[spec.name]) for spec in specs)
            layouts = tuple(describe(make_dataset(state.h5, spec)) for spec in specs)
            self._commit(state, pack_record(CREATED, b""))
            return layouts

    def stored(self, dataset: int, buffer: int) -> Reservations | None:
        """Return the reservations of a buffer whose payloads are all in place.

        Compares each payload in the file with its recorded checksum: a retry, a duplicate
        and a resumed write find out here that there is nothing left to do.
        """
        with self._used():
            with self._turns:
                self._journal.refresh()
                found = self._journal.find(dataset, buffer)
            return found if found is not None and self._is_placed(found) else None

    def commit(
        self, place: Place, layout: DatasetLayout, chunks: Sequence[int], payloads: Sequence[Payload], lock: Lock
    ) -> Reservations:
        """Reserve, make the metadata durable, and place.

        Parameters
        ----------
        place : tuple of int
            Numbers of the dataset and of the buffer.
        layout : DatasetLayout
            The dataset.
        chunks : sequence of int
            Numbers of the buffer's chunks.
        payloads : sequence of Payload
            One for each chunk.
        lock : callable
            Returns the scheduler's lock, entered around the turn.

        Returns
        -------
        Reservations
            Where the payloads are.
        """
        _require_payloads(layout, payloads)
        encoded = [Encoded(*pair, checksum(pair[1].data)) for pair in zip(chunks, payloads, strict=True)]
        with self._used():
            with self._turn(lock):
                reserved = self._reserve(place, layout, encoded)
            # Placed only now: until the turn is durable, the last commit may still own these bytes.
            offsets = reserved.entries["offset"].tolist()
            # The system lets one writer at a time into a file; threads that wait here sleep, there they spin.
            with self._placing:
                pwrite_each(self._file, [(at, payload.data) for at, payload in zip(offsets, payloads, strict=True)])
        return reserved

    def commit_whole(self, place: Place, layout: DatasetLayout, data: Array, lock: Lock) -> Reservations:
        """Write a dataset that has no chunks, by HDF5 itself, in a turn of its own."""
        with self._turn(lock):
            reserved = Reservations.of(*place, [])
            with self._opened() as state:
                state.h5[layout.name][()] = data
                self._commit(state, reserved.pack())
        return reserved

    def finish(self, layouts: Sequence[DatasetLayout], buffers: Sequence[int], lock: Lock) -> list[int]:
        """Check index against journal, trim the file and make it durable.

        Parameters
        ----------
        layouts : sequence of DatasetLayout
            The datasets.
        buffers : sequence of int
            How many buffers each has.
        lock : callable
            As for `commit`.

        Returns
        -------
        list of int
            Stored bytes of each dataset.

        Raises
        ------
        IntegrityError
            If the file does not hold every chunk as it was committed.
        """
        with self._turn(lock):
            with self._opened() as state:
                counted = enumerate(zip(layouts, buffers, strict=True))
                stored = [self._verify(state, number, layout, count) for number, (layout, count) in counted]
                self._commit(state, b"", close=True)
                os.ftruncate(self._file, state.staged.size)
            # Our own lock would refuse HDF5's; nobody else can have this file open for writing.
            with h5py.File(self.target.file, "r", locking=False) as plain:
                for layout in layouts:
                    plain[layout.name].id.get_space_status()
            os.fsync(self._file)
        return stored

    def close(self) -> None:
        """Abandon what is staged, and let go of the files when the last call has left them.

        A scheduler may give up a write while other threads still place: were a descriptor
        closed under them, its number could stand for another file when they use it.
        """
        with self._turns, deferred():
            self._abandon()
        with self._counting:
            self._ended, was_ended = True, self._ended
            is_free = self._users == 0 and not was_ended
        if is_free:
            self._close_descriptors()

    @contextlib.contextmanager
    def _used(self) -> Iterator[None]:
        """Keep the descriptors open; an error of the file system leaves as ours."""
        with self._counting:
            if self._ended:
                raise TargetError(f"the write of {self.target.path} has ended; nothing more is committed to it")
            self._users += 1
        try:
            yield
        except ChunkIOError:
            raise
        except OSError as error:
            raise TargetError(f"cannot write {self.target.path}: {error.strerror or error}") from error
        finally:
            with self._counting:
                self._users -= 1
                is_last = self._ended and self._users == 0
            if is_last:
                self._close_descriptors()

    def _close_descriptors(self) -> None:
        for descriptor in (self._file, self._journal_file, self._log):
            os.close(descriptor)

    @contextlib.contextmanager
    def _turn(self, lock: Lock) -> Iterator[None]:
        """Hold every lock, with the log replayed and the journal read."""
        with self._used(), self._turns, lock(), locked(self._file), deferred():
            self._replay()
            self._journal.refresh()
            yield

    # Inside a turn

    def _reserve(self, place: Place, layout: DatasetLayout, encoded: Sequence[Encoded]) -> Reservations:
        before = self._journal.find(*place)
        if before is not None:
            return self._reserve_again(before, layout, encoded)
        with self._opened() as state:
            dataset, origins = state.id_of(layout.name), layout.chunks.origins([one.chunk for one in encoded])
            rows = []
            for one, origin in zip(encoded, origins, strict=True):
                nbytes, mask = one.payload.nbytes, one.payload.mask
                rows.append((one.chunk, state.staged.reserve(dataset, origin, nbytes, mask), nbytes, one.sum, mask))
            reserved = Reservations.of(*place, rows)
            self._commit(state, reserved.pack())
        return reserved

    def _reserve_again(self, before: Reservations, layout: DatasetLayout, encoded: Sequence[Encoded]) -> Reservations:
        """Adapt the reservations of a buffer that was encoded before, by a task that did not come to its end.

        A payload of another length takes a turn of its own, after which the file is closed:
        HDF5 frees the old place, and must not hand it out to a chunk on which a late writer
        of the old payload could land.
        """
        reserved = before
        for row, one in enumerate(encoded):
            was = reserved.entries[row]
            if (was["nbytes"], was["mask"]) != (one.payload.nbytes, one.payload.mask):
                _require_other_length(layout, was, one)
                with self._opened() as state:
                    origin, nbytes, mask = layout.chunks.origin(one.chunk), one.payload.nbytes, one.payload.mask
                    offset = state.staged.reserve(state.id_of(layout.name), origin, nbytes, mask)
                    reserved = reserved.replaced(row, offset, nbytes, one.sum, mask)
                    self._commit(state, reserved.pack(), close=True)
            elif was["checksum"] != one.sum:
                reserved = reserved.replaced(row, was["offset"], one.payload.nbytes, one.sum, one.payload.mask)
        if reserved is not before:
            with self._opened() as state:
                self._commit(state, reserved.pack())
        return reserved

    @contextlib.contextmanager
    def _opened(self, mode: str = "r+") -> Iterator[_Open]:
        """Open HDF5, or take it as it stands open; any error abandons what is staged."""
        try:
            if self._open is None:
                self._open = self._open_hdf5(mode)
            yield self._open
        except BaseException as error:
            reason = self._open.staged.error if self._open is not None else None
            self._abandon()
            if reason is None or reason is error:
                raise
            # What HDF5 says of zeros in place of its metadata is not what went wrong.
            traceback.clear_frames(error.__traceback__)
            raise reason from None
        if not self.exclusive:
            self._abandon()

    def _open_hdf5(self, mode: str) -> _Open:
        staged = StagedFile(self._file)
        try:
            return _Open(staged, h5py.File(staged, mode, libver=self.target.libver))
        except Exception as error:
            # h5py's frames hold property lists that point to `staged`: kept until the interpreter ends, they crash it.
            traceback.clear_frames(error.__traceback__)
            staged.check()
            raise IntegrityError(f"HDF5 cannot open {self.target.file}: {error}") from None

    def _commit(self, state: _Open, records: bytes, close: bool = False) -> None:
        """Make everything staged, and the records, durable at once."""
        if self.exclusive and not close:
            state.h5.flush()
        else:
            state.h5.close()
            self._open = None
        state.staged.check()
        old_size = os.fstat(self._file).st_size
        turn = Turn(self._journal.size, records, old_size, state.staged.size, state.staged.staged.runs())
        pwrite_all(self._log, turn.pack(), 0)
        turn.apply(self._file, self._journal_file)
        os.ftruncate(self._log, 0)
        state.staged.staged.clear()
        self._journal.refresh()

    def _replay(self) -> None:
        """Apply the turn of a process that died in the middle of it."""
        size = os.fstat(self._log).st_size
        if not size:
            return
        data = bytearray(size)
        pread_into(self._log, memoryview(data), 0)
        turn = read_turn(bytes(data))
        if turn is not None:
            turn.apply(self._file, self._journal_file)
        os.ftruncate(self._log, 0)

    def _abandon(self) -> None:
        state, self._open = self._open, None
        if state is not None:
            state.staged.abandon()
            # A dead file makes HDF5 complain about what it cannot read back; the committed state is not touched.
            with contextlib.suppress(Exception):
                state.h5.close()

    def _verify(self, state: _Open, number: int, layout: DatasetLayout, buffers: int) -> int:
        reserved = self._journal.of_dataset(number)
        if len(reserved) != buffers:
            raise IntegrityError(
                f"{layout.name}: {len(reserved)} of {buffers} buffers are committed; run the write again"
            )
        verify_index(state.h5[layout.name], layout, reserved)
        return sum(found.stored_nbytes for found in reserved) if layout.is_chunked else layout.nbytes

    def _is_placed(self, found: Reservations) -> bool:
        for _, offset, nbytes, expected, _ in found.entries.tolist():
            data = bytearray(nbytes)
            if pread_into(self._file, memoryview(data), offset) < nbytes or checksum(data) != expected:
                return False
        return True


def _require_payloads(layout: DatasetLayout, payloads: Sequence[Payload]) -> None:
    # HDF5 2.0 stores a payload of any length for an unfiltered chunk, and an empty one frees the chunk.
    for payload in payloads:
        if payload.nbytes == 0 or (not layout.form.filters and payload.nbytes != layout.form.nbytes):
            raise IntegrityError(
                f"{layout.name}: a payload of {payload.nbytes} bytes for {layout.form.nbytes} of chunk"
            )


def _require_other_length(layout: DatasetLayout, was: Any, one: Encoded) -> None:
    # HDF5 keeps the old mask where a chunk is overwritten with the same length.
    if was["nbytes"] == one.payload.nbytes:
        raise IntegrityError(
            f"{layout.name}: the chunk at {layout.chunks.origin(one.chunk)} was encoded again with another filter mask "
            f"and the same length, which HDF5 cannot record; discard the write and start it again"
        )
