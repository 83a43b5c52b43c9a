"""The writer: commits the buffers of one write, from any process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dask_chunkio.errors import IntegrityError, TargetError
from dask_chunkio.filters.chunk_format import Payload
from dask_chunkio.geometry.grid import Array, Selection
from dask_chunkio.storage.hdf5.dataset import DatasetLayout
from dask_chunkio.storage.hdf5.elements import write_elements
from dask_chunkio.storage.journal.checksum import checksum
from dask_chunkio.storage.journal.journal import HELD, Entries, Reservations
from dask_chunkio.storage.journal.payloads import is_placed, read_payload
from dask_chunkio.storage.journal.records import FILLED, RESERVED
from dask_chunkio.storage.target import Target
from dask_chunkio.storage.transaction import Lock, Transactions
from dask_chunkio.storage.visible_chunks import Change, needs_no_space, place_visible, reserve_over

__all__ = ["Lock", "Writer"]

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The number of a chunk, its payload, and the checksum of the payload."""

    chunk: int
    payload: Payload
    sum: int


class Writer:
    """Commits buffers of one write, from any thread of this process.

    Parameters
    ----------
    target : Target
        The target of the write, with its mode.
    exclusive : bool
        Whether no other process takes transactions, so that the file may stay open between them.
    holds_activity_lock : bool
        Whether the caller holds the activity lock of the write exclusively.
    """

    def __init__(self, target: Target, exclusive: bool, holds_activity_lock: bool = False) -> None:
        self.target = target
        self.transactions = Transactions(target, exclusive, holds_activity_lock)

    # Methods that tasks call

    def is_stored(self, dataset: int, chunks: Sequence[int]) -> bool:
        """Return whether the payloads of these chunks are all in place.

        Each payload in the file is compared with its recorded checksum.  So a retry, a duplicate
        and a resumed write find out here that there is nothing left to do.

        Raises
        ------
        TargetError
            If another call has taken the write over, and finished it.
        """
        with self.transactions.files.used():
            self.transactions.refresh()
            if self.transactions.journal.finished:
                # The content of a finished file belongs to its users, who may have changed it.
                _require_finished_by_this(self.transactions)
                return True
            found = self.transactions.journal.find(dataset, chunks)
            is_stored = found is not None and all(is_placed(self.transactions.files.file, row) for row in found)
            return is_stored and (not self.transactions.payloads.is_durable or self._is_on_disk(dataset, chunks))

    def _is_on_disk(self, dataset: int, chunks: Sequence[int]) -> bool:
        """Flush payloads that read back right to the disk; return False if they no longer read back right."""
        self.transactions.payloads.sync()
        if not self.transactions.payloads.disk.is_doubted:
            return True
        # In a transaction, so that no other process gives these chunks other payloads.
        with self.transactions.transaction(contextlib.nullcontext):
            rows = self.transactions.journal.rows(dataset, chunks)
            found = [(int(row["offset"]), read_payload(self.transactions.files.file, row)) for row in rows]
            pieces = [(offset, data) for offset, data in found if data is not None]
            self.transactions.payloads.place(pieces)
            return len(pieces) == len(rows)

    def commit(
        self, place: Place, layout: DatasetLayout, chunks: Sequence[int], payloads: Sequence[Payload], lock: Lock
    ) -> None:
        """Reserve space, make the metadata durable, and place the payloads.

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
            Returns the scheduler's lock, entered around the transaction.
        """
        _require_payloads(layout, payloads)
        with self.transactions.files.used():
            self.transactions.refresh()
            left = _unplaced(self.transactions, place[0], _summed(chunks, payloads))
            while True:
                with contextlib.ExitStack() as placed:
                    with self.transactions.transaction(lambda: self.transactions.barrier.shared(lock, placed)):
                        # The same buffer may have been committed by another worker or job while this one waited.
                        left = _unplaced(self.transactions, place[0], left)
                        offsets = self._reserve(place, layout, left)
                    self._place(offsets, [one.payload for one in left])
                # Another one may have given a chunk another place, and have died before it placed its payload.
                self.transactions.refresh()
                if not (left := _replaced(self.transactions, place[0], left)):
                    return

    def commit_by_hdf5(
        self, place: Place, chunks: Sequence[int], data: Array, selection: Selection, lock: Lock
    ) -> None:
        """Write data that cannot be encoded outside HDF5 through HDF5, in a transaction of its own."""
        with self.transactions.transaction(lock), self.transactions.opened() as state:
            if _is_part_committed(self.transactions):
                return
            dataset = state.dataset(self.transactions.journal.path_of(place[0]))
            write_elements(dataset, data, selection, state.staged.end)
            self.transactions.commit(state, self._record(place, [(chunk, 0, 0, 0, 0) for chunk in chunks]))

    def commit_visible(self, place: Place, layout: DatasetLayout, change: Change, lock: Lock) -> None:
        """Replace chunks that readers can see, as `place_visible` does, in a transaction of its own."""
        _require_payloads(layout, [payload for _, payload in change.payloads])
        with self.transactions.transaction(lock), self.transactions.opened() as state:
            rows = place_visible(self.transactions, state, layout, change)
            self.transactions.commit(state, self._record(place, rows))

    def fill(
        self, dataset: int, layout: DatasetLayout, chunks: Sequence[int], payloads: Sequence[Payload], lock: Lock
    ) -> None:
        """Give chunks whose data are not in place other payloads; these chunks still count as not written."""
        for chunk, payload in zip(chunks, payloads, strict=True):
            with self.transactions.files.used():
                with self.transactions.transaction(lock, anybody=True):
                    one = _Encoded(chunk, payload, checksum(payload.data))
                    offset = self._reserve_anew((dataset, 0), layout, one, FILLED)
                self._place([offset], [payload])

    def close(self) -> None:
        """Abandon what is staged, and close the files when the last call has left them."""
        self.transactions.close()

    # Commit

    def _record(self, place: Place, rows: Sequence[tuple[int, int, int, int, int]], kind: int = RESERVED) -> bytes:
        owner = self.transactions.journal.owner
        epoch = owner.epoch if owner is not None else 0
        return Reservations.of(*place, rows, epoch, time.time_ns()).pack(kind)

    def _reserve(self, place: Place, layout: DatasetLayout, encoded: Sequence[_Encoded]) -> list[int]:
        """Reserve space for every payload, and return the offsets; 0 for a payload that needs none.

        A chunk that was reserved before keeps its space, for a payload of the same length.
        """
        found = self.transactions.journal.rows(place[0], [one.chunk for one in encoded])
        offsets = found["offset"].tolist()
        new = [row for row, state in enumerate(found["state"].tolist()) if not state]
        changed = []
        rows = []
        for row, (one, was) in enumerate(zip(encoded, found, strict=True)):
            if was["state"] and not self._may_be_placed_again(place[0], layout, one, was):
                changed.append(row)
            elif was["state"]:
                rows.append((one.chunk, offsets[row], one.payload.nbytes, one.sum, one.payload.mask))
        if new or rows:
            with self.transactions.opened() as state:
                dataset = state.id_of(self.transactions.journal.path_of(place[0]))
                origins = layout.origins([encoded[row].chunk for row in new])
                for row, origin in zip(new, origins, strict=True):
                    one = encoded[row]
                    if needs_no_space(state, dataset, layout, origin, one.payload):
                        rows.append((one.chunk, 0, 0, 0, 0))
                        continue
                    nbytes, mask = one.payload.nbytes, one.payload.mask
                    if layout.is_filled:
                        offsets[row] = reserve_over(state, dataset, origin, (nbytes, mask))
                    else:
                        offsets[row] = state.staged.reserve(dataset, origin, nbytes, mask)
                    rows.append((one.chunk, offsets[row], nbytes, one.sum, mask))
                self.transactions.commit(state, self._record(place, rows))
        for row in changed:
            offsets[row] = self._reserve_anew(place, layout, encoded[row])
        return list(map(int, offsets))

    def _may_be_placed_again(self, dataset: int, layout: DatasetLayout, one: _Encoded, was: Any) -> bool:
        """Return whether the space that the journal names is the chunk's, and fits the payload."""
        if (was["nbytes"], was["mask"]) != (one.payload.nbytes, one.payload.mask):
            return False
        with self.transactions.opened() as state:
            handle = state.id_of(self.transactions.journal.path_of(dataset))
            found = state.staged.locate(handle, layout.origin(one.chunk), one.payload.nbytes)
        return found == (was["offset"], was["nbytes"], was["mask"])

    def _reserve_anew(self, place: Place, layout: DatasetLayout, one: _Encoded, kind: int = RESERVED) -> int:
        """Reserve space for a payload of another length, in a commit of its own, after which the file is closed.

        HDF5 frees the old space, and must not give it to a chunk that a late writer
        of the old payload could then overwrite.  If a chunk is overwritten with the same length, HDF5
        keeps the old mask: then the chunk is given another length first.
        """
        was = self.transactions.journal.rows(place[0], [one.chunk])[0]
        if was["nbytes"] == one.payload.nbytes and was["mask"] != one.payload.mask:
            longer = Payload(bytes(one.payload.data) + b"\0", one.payload.mask)
            self._reserve_anew(place, layout, replace(one, payload=longer), FILLED)
        with self.transactions.opened() as state:
            origin, nbytes, mask = layout.origin(one.chunk), one.payload.nbytes, one.payload.mask
            offset = state.staged.reserve(
                state.id_of(self.transactions.journal.path_of(place[0])), origin, nbytes, mask
            )
            entry = (one.chunk, offset, nbytes, one.sum, mask)
            self.transactions.commit(state, self._record(place, [entry], kind), close=True)
        return offset

    def _place(self, offsets: Sequence[int], payloads: Sequence[Payload]) -> None:
        # Only after the commit: until the transaction is durable, the last commit may still own these bytes.
        pairs = zip(offsets, payloads, strict=True)
        self.transactions.payloads.place([(at, payload.data) for at, payload in pairs if at])

    def placed(self, rows: Entries) -> list[bool]:
        """Return, for each row of the journal, whether its payload is in place."""
        with self.transactions.files.used():
            return [bool(row["state"]) and is_placed(self.transactions.files.file, row) for row in rows]


def _summed(chunks: Sequence[int], payloads: Sequence[Payload]) -> list[_Encoded]:
    # The chunks that a source does not have share one payload.
    sums = {id(one): checksum(one.data) for one in {id(one): one for one in payloads}.values()}
    return [_Encoded(chunk, one, sums[id(one)]) for chunk, one in zip(chunks, payloads, strict=True)]


def _require_finished_by_this(transactions: Transactions) -> None:
    journal, target = transactions.journal, transactions.target
    if not journal.may_be_of(target.owner_id):
        raise TargetError(f"the write of {target.path} was finished meanwhile by another call, {journal.owner}")


def _unplaced(transactions: Transactions, dataset: int, encoded: Sequence[_Encoded]) -> list[_Encoded]:
    """Return the payloads of chunks that have none in place yet.

    Payloads that are in place are kept: an encoder may give other bytes, and the process die as it places them.
    """
    if _is_part_committed(transactions):
        return []
    rows = transactions.journal.rows(dataset, [one.chunk for one in encoded])
    held, file = (rows["state"] == HELD).tolist(), transactions.files.file
    return [
        one for one, is_held, row in zip(encoded, held, rows, strict=True) if not is_held or not is_placed(file, row)
    ]


def _is_part_committed(transactions: Transactions) -> bool:
    """Return whether another copy of this job has committed its whole part, which stays as it is."""
    share = transactions.target.share
    part = None if share is None else transactions.journal.parts.get(share.number)
    return part is not None and part.is_committed


def _replaced(transactions: Transactions, dataset: int, encoded: Sequence[_Encoded]) -> list[_Encoded]:
    """Return the payloads of chunks whose entry in the journal is of another payload by now, not yet in place."""
    rows = transactions.journal.rows(dataset, [one.chunk for one in encoded])
    found = zip(*(rows[name].tolist() for name in ("state", "nbytes", "checksum")), strict=True)
    mine = [(HELD, one.payload.nbytes, one.sum) for one in encoded]
    others = [one for one, his, row in zip(encoded, mine, found, strict=True) if his != row]
    return _unplaced(transactions, dataset, others) if others else []


def _require_payloads(layout: DatasetLayout, payloads: Sequence[Payload]) -> None:
    # HDF5 2.0 stores a payload of any length for an unfiltered chunk, and an empty one frees the chunk.
    nbytes, is_filtered = layout.form.nbytes, bool(layout.form.filters)
    for payload in payloads:
        if payload.nbytes == 0 or not (is_filtered or payload.nbytes == nbytes):
            raise IntegrityError(f"{layout.name}: a payload of {payload.nbytes} bytes for {nbytes} of chunk")
