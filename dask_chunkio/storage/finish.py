"""Finish a write: check that every chunk is committed and indexed, name the datasets, trim the file, publish it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import h5py

from dask_chunkio.errors import IntegrityError, TargetError
from dask_chunkio.geometry.grid import Box
from dask_chunkio.storage import session
from dask_chunkio.storage.activity.keepalive import close_files
from dask_chunkio.storage.chunk_index import count_stored, index_differs
from dask_chunkio.storage.filesystem.io import is_at
from dask_chunkio.storage.filesystem.side_folder import Folder, is_left
from dask_chunkio.storage.hdf5.dataset import DatasetLayout, DatasetSpec, describe
from dask_chunkio.storage.index_repair import rebuild_dataset
from dask_chunkio.storage.journal.journal import HELD, Entries, Journal
from dask_chunkio.storage.journal.part import missing_parts
from dask_chunkio.storage.journal.payloads import is_placed
from dask_chunkio.storage.journal.records import FINISHED, pack_record
from dask_chunkio.storage.open_transaction import OpenTransaction
from dask_chunkio.storage.payload_overlap import find_overlap
from dask_chunkio.storage.preconditions import require_replaceable
from dask_chunkio.storage.publish import publish
from dask_chunkio.storage.target import Target
from dask_chunkio.storage.tokens import add_token
from dask_chunkio.storage.transaction import Lock, Transactions

__all__ = ["Finished", "finish", "finish_part"]


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of `finish` or `finish_part`.

    Parameters
    ----------
    stored : tuple of int
        Bytes of all payloads of each dataset, or of a part of it.
    notes : tuple of str
        What had to be repaired, or was found changed.
    missing : tuple of int
        Numbers of the parts that are not committed yet; empty if the write is finished.
    places : mapping of str to numpy.ndarray
        Of a write that makes references: the journal's rows of all chunks of each dataset that it wrote as a whole.
    """

    stored: tuple[int, ...]
    notes: tuple[str, ...] = ()
    missing: tuple[int, ...] = ()
    places: Mapping[str, Entries] = field(default_factory=dict)


def finish(target: Target, layouts: Sequence[DatasetLayout], specs: Sequence[DatasetSpec], lock: Lock) -> Finished:
    """Finish a write: check the file, give the file and its datasets their final names, and remove the folder."""
    if not is_left(target.folder):
        return _finished_before(target, layouts)
    session.require_going(target)
    try:
        finished = _finished(target, layouts, specs, lock)
    except TargetError:
        # A worker that was presumed dead, whose task this one repeats, may have finished the write meanwhile.
        if not session.is_finished(target):
            raise
        finished = _finished_before(target, layouts)
    session.release(target.write_id)
    return finished


def finish_part(target: Target, layouts: Sequence[DatasetLayout], specs: Sequence[DatasetSpec], lock: Lock) -> Finished:
    """Record that the part of this job is committed; finish the write if all other parts are committed, too.

    All payloads of the part must be in place.  If two jobs record the last parts at the same time, both may finish the
    write, as if one of them repeated the task of the other.

    Raises
    ------
    TargetError
        If another copy of this job has put other payloads in the place of those of this one.
    """
    recorded = Finished(())
    if is_left(target.folder):
        session.require_going(target)
        try:
            recorded = _part_recorded(target, layouts, specs, lock)
        except TargetError:
            # All parts were committed before this job came, and another job has finished the write meanwhile.
            if not session.is_finished(target):
                raise
    if recorded.missing:
        session.release(target.write_id)
        return recorded
    finished = finish(target, layouts, specs, lock)
    return replace(finished, stored=recorded.stored or finished.stored)


def _part_recorded(
    target: Target, layouts: Sequence[DatasetLayout], specs: Sequence[DatasetSpec], lock: Lock
) -> Finished:
    with contextlib.ExitStack() as use:
        transactions = session.used_writer(target, False, use).transactions
        if transactions.payloads.is_durable:
            transactions.payloads.sync()
        transactions.refresh()
        is_alone = _is_alone(transactions)
        while True:
            with transactions.transaction(lock if is_alone else lambda: transactions.barrier.exclusive(lock)):
                if not is_alone or _is_alone(transactions):
                    return _recorded(transactions, layouts, specs)
            # Another copy of this job has begun meanwhile.
            is_alone = False


def _is_alone(transactions: Transactions) -> bool:
    share = transactions.target.share
    part = None if share is None else transactions.journal.parts.get(share.number)
    return part is None or part.is_alone


def _recorded(transactions: Transactions, layouts: Sequence[DatasetLayout], specs: Sequence[DatasetSpec]) -> Finished:
    """Record that a part is committed, inside a transaction; while no payload is placed if it has several copies."""
    journal, share = transactions.journal, transactions.target.share
    if share is None or journal.finished:
        return Finished(())
    part = journal.parts[share.number]
    boxes = [spec.box or share.box(layout.chunks) for spec, layout in zip(specs, layouts, strict=True)]
    if not part.is_committed:
        # Each copy knows only that its own payloads were placed.
        if not part.is_alone:
            _require_in_place(transactions, layouts, boxes)
        transactions.record(part.done(transactions.payloads.is_durable).pack())
    stored = tuple(_stored_of_part(journal, n, layout, boxes[n]) for n, layout in enumerate(layouts))
    return Finished(stored, (), missing_parts(journal.parts, share.count))


def _require_in_place(transactions: Transactions, layouts: Sequence[DatasetLayout], boxes: Sequence[Box]) -> None:
    share = transactions.target.share
    for number, layout in enumerate(layouts):
        if layout.is_chunked:
            rows = transactions.journal.rows(number, layout.chunks.numbers_in(boxes[number]))
            missing = sum(row["state"] != HELD or not is_placed(transactions.files.file, row) for row in rows)
            if missing:
                raise TargetError(
                    f"{layout.name}: another copy of the job of part {share} has begun to write {missing} chunks anew, "
                    f"and they are not in place; make the same call again"
                )


def _stored_of_part(journal: Journal, number: int, layout: DatasetLayout, box: Box) -> int:
    numbers = layout.chunks.numbers_in(box)
    if not layout.is_chunked:
        return layout.nbytes if len(numbers) else 0
    return int(journal.rows(number, numbers)["nbytes"].sum())


def _finished(target: Target, layouts: Sequence[DatasetLayout], specs: Sequence[DatasetSpec], lock: Lock) -> Finished:
    with contextlib.ExitStack() as stack:
        use = stack.enter_context(contextlib.ExitStack())
        writer = session.used_writer(target, False, use)
        files = writer.transactions.files
        folder, made = stack.enter_context(files.folder.copy()), os.fstat(files.file)

        def let_go_of_files() -> None:
            use.close()
            session.release(target.write_id)
            close_files(target.write_id)

        try:
            finished = _finish_file(writer.transactions, layouts, specs, lock)
        except TargetError:
            if is_at(files.log, target.log) or not writer.transactions.is_finished_by_this():
                raise
            # Another task of this write has published the file, and is removing the folder.
            folder.remove(let_go_of_files)
            return _finished_before(target, layouts)
        if os.name == "nt":  # Windows cannot rename or remove an open file
            let_go_of_files()
        return _published(target, layouts, folder, made, let_go_of_files) or finished


def _published(
    target: Target,
    layouts: Sequence[DatasetLayout],
    folder: Folder,
    made: os.stat_result,
    let_go_of_files: Callable[[], None],
) -> Finished | None:
    names = tuple(layout.name for layout in layouts if layout.is_new)
    try:
        publish(target, names, folder, made, let_go_of_files)
    except OSError as error:
        if not folder.is_there:
            return _finished_before(target, layouts)
        if isinstance(error, TargetError):
            raise
        words = f"all of it is written, but cannot be given its name, or {target.folder} cannot be removed"
        raise target.refused(error, words) from error
    return None


def _finished_before(target: Target, layouts: Sequence[DatasetLayout]) -> Finished:
    """Accept the complete file of a task that ended before it could report its success."""
    try:
        with h5py.File(target.path, "r") as file:
            datasets = [file[layout.name] for layout in layouts]
            made = [(one, layout) for one, layout in zip(datasets, layouts, strict=True) if layout.is_new]
            if any(describe(dataset) != layout for dataset, layout in made):
                raise IntegrityError(f"{target.path} holds other datasets than this write made")
            if any(layout.is_chunked and count_stored(dataset) != len(layout.chunks) for dataset, layout in made):
                raise IntegrityError(f"{target.path} does not hold every chunk")
            return Finished(tuple(int(dataset.id.get_storage_size()) for dataset in datasets))
    except (OSError, KeyError, IntegrityError) as error:
        raise TargetError(
            f"{target.folder} is gone: the write was finished or discarded meanwhile, and {target.path} is not what "
            f"it would have made ({error})"
        ) from error


def _finish_file(
    transactions: Transactions, layouts: Sequence[DatasetLayout], specs: Sequence[DatasetSpec], lock: Lock
) -> Finished:
    """Compare the index with the journal, name the datasets, trim the file, and make it durable.

    Parameters
    ----------
    transactions : Transactions
        The transactions of the write.
    layouts : sequence of DatasetLayout
        The datasets.
    specs : sequence of DatasetSpec
        Their specifications, from which a dataset is created again if its index is damaged.
    lock : callable
        Returns the scheduler's lock.

    Raises
    ------
    TargetBusyError
        If a process keeps placing payloads for minutes.
    IntegrityError
        If the file does not hold every chunk as it was committed, and this cannot be repaired.
    """
    notes: list[str] = []
    with transactions.transaction(lambda: transactions.barrier.exclusive(lock)):
        transactions.payloads.settle()
        if not transactions.journal.finished:
            _require_all(transactions, layouts)
            _require_apart(transactions, layouts)
            notes = _repair_indices(transactions, layouts, specs)
            _commit_last(transactions, layouts)
    tables = (transactions.journal.table(number) for number in range(len(layouts)))
    stored = (
        int(table["nbytes"].sum()) if layout.is_chunked else layout.nbytes
        for table, layout in zip(tables, layouts, strict=True)
    )
    return Finished(tuple(stored), tuple(notes), places=_places(transactions, layouts))


def _places(transactions: Transactions, layouts: Sequence[DatasetLayout]) -> dict[str, Entries]:
    if not transactions.target.references:
        return {}
    whole = ((n, layout) for n, layout in enumerate(layouts) if layout.is_chunked and layout.region is None)
    return {layout.name: transactions.journal.table(n).copy() for n, layout in whole}


def _require_all(transactions: Transactions, layouts: Sequence[DatasetLayout]) -> None:
    """Refuse to finish an incomplete write.

    Raises
    ------
    IntegrityError
        If chunks are missing.
    """
    for number, layout in enumerate(layouts):
        if missing := transactions.journal.missing(number):
            total = len(transactions.journal.table(number))
            if any(part.has_region_of(number) for part in transactions.journal.parts.values()):
                raise IntegrityError(
                    f"{layout.name}: {missing} of {total} chunks are in no region of a job; fill them with a script "
                    f"that has all of the data, with resume=True and without part="
                )
            raise IntegrityError(
                f"{layout.name}: {total - missing} of {total} chunks are committed; go on with resume=True"
            )


def _require_apart(transactions: Transactions, layouts: Sequence[DatasetLayout]) -> None:
    """Refuse payloads that overlap: one has destroyed the other, and no index shows it.

    Raises
    ------
    IntegrityError
        If two do.
    """
    if (found := find_overlap(transactions.journal.tables)) is not None:
        first, second = (f"{layouts[number].name} at {layouts[number].origin(chunk)}" for number, chunk in found)
        raise IntegrityError(
            f"{transactions.target.file}: HDF5 gave the same space to the chunk of {first} and to that of {second}: "
            f"the file's metadata is damaged; discard the write and start it again"
        )


def _repair_indices(
    transactions: Transactions, layouts: Sequence[DatasetLayout], specs: Sequence[DatasetSpec]
) -> list[str]:
    """Compare HDF5's indices with the journal; rebuild an index that differs from the journal.

    Parameters
    ----------
    transactions : Transactions
        The transactions of the write, inside a transaction.
    layouts : sequence of DatasetLayout
        The datasets.
    specs : sequence of DatasetSpec
        Their specifications.

    Returns
    -------
    list of str
        The differences, in words.

    Raises
    ------
    IntegrityError
        If an index cannot be rebuilt.
    """
    notes = []
    for number, layout in enumerate(layouts):
        difference = _difference(transactions, number, layout)
        if difference is not None and layout.region is not None:
            # Readers can see this dataset, and other programs may change it between two transactions.
            notes.append(f"{difference}: another program has changed it since")
        elif difference is not None and layout.is_filled:
            # Another dataset in its place would leave references to it behind.
            raise IntegrityError(f"{difference}; discard the draft and start it again")
        elif difference is not None:
            rebuild_dataset(transactions, number, layout, specs[number])
            if (left := _difference(transactions, number, layout)) is not None:
                raise IntegrityError(f"{left}, also after it was rebuilt; discard the write and start it again")
            notes.append(f"{difference}: the index was rebuilt from the journal")
    return notes


def _difference(transactions: Transactions, number: int, layout: DatasetLayout) -> str | None:
    # Open the file again: what HDF5 has in memory does not show what readers will find.  Everything is committed.
    transactions.abandon()
    with transactions.opened() as state:
        dataset = state.dataset(transactions.journal.path_of(number))
        return index_differs(state.staged, dataset, layout, transactions.journal.table(number))


def _commit_last(transactions: Transactions, layouts: Sequence[DatasetLayout]) -> None:
    """Commit the last transaction, and make sure that plain HDF5 reads the file."""
    with transactions.opened() as state:
        _name_datasets(transactions, state)
        _note_token(transactions, state)
        transactions.commit(state, pack_record(FINISHED, b""), close=True, durable=True)
        transactions.payloads.trim(state.staged.size)
    # Our own lock would exclude HDF5's; no other program can have this file open for writing.
    with h5py.File(transactions.target.file, "r", locking=False) as plain:
        for layout in layouts:
            plain[layout.name].id.get_space_status()


def _note_token(transactions: Transactions, state: OpenTransaction) -> None:
    """Store the token with the datasets, in the same commit that finishes the write."""
    created = transactions.journal.created
    if created is not None and created.token is not None:
        for made in created.datasets:
            add_token(state.dataset(made.name), created.token)


def _name_datasets(transactions: Transactions, state: OpenTransaction) -> None:
    created = transactions.journal.created
    if created is None or not created.group:
        return
    for number, made in enumerate(created.datasets):
        if not made.is_new:
            continue
        require_replaceable(state.h5, made.name, transactions.target)
        if made.name in state.h5:
            del state.h5[made.name]
        state.h5.move(created.path(number), made.name)
    del state.h5[created.group]
