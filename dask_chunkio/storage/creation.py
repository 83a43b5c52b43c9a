"""The datasets of a write: created when it begins, found when it is resumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import h5py

from dask_chunkio.errors import ArgumentError, ChunkIOError, IntegrityError, TargetBusyError, TargetChangedError
from dask_chunkio.storage.chunk_index import UNREADABLE
from dask_chunkio.storage.completeness import StoredDataset, completed
from dask_chunkio.storage.hdf5.dataset import DatasetLayout, DatasetSpec, describe, describe_made, make_dataset, preview
from dask_chunkio.storage.hdf5.file_layout import is_paged
from dask_chunkio.storage.journal.created import Created, CreatedDataset
from dask_chunkio.storage.journal.journal import require_chunk_counts
from dask_chunkio.storage.journal.owner import Owner
from dask_chunkio.storage.journal.part import PartState, conflict, enter_part
from dask_chunkio.storage.open_transaction import OpenTransaction
from dask_chunkio.storage.preconditions import opened_to_look, require_replaceable
from dask_chunkio.storage.take_over import remove_dead_leases
from dask_chunkio.storage.target import Target, cannot_join, cannot_resume
from dask_chunkio.storage.tokens import add_token
from dask_chunkio.storage.transaction import PATIENCE, Lock, Transactions
from dask_chunkio.storage.visible_chunks import extend_dataset

__all__ = ["Made", "create_datasets", "describe_datasets"]

_GROUP = "/.dask_chunkio-"
_FIRST_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Made:
    """The datasets with which a write begins.

    Parameters
    ----------
    layouts : tuple of DatasetLayout
        One for each dataset.
    complete : tuple of StoredDataset
        All datasets of the call, if they exist already; then there are no layouts.
    """

    layouts: tuple[DatasetLayout, ...] = ()
    complete: tuple[StoredDataset, ...] = ()


def create_datasets(
    transactions: Transactions,
    specs: Sequence[DatasetSpec],
    lock: Lock,
    judged: Sequence[Owner] | None = None,
    begins: Callable[[], None] = lambda: None,
) -> Made:
    """Create the datasets, or find those that this write, or a write that is resumed, has created.

    Parameters
    ----------
    transactions : Transactions
        The transactions of the write.
    specs : sequence of DatasetSpec
        The datasets.
    lock : callable
        Returns the scheduler's lock.
    judged : sequence of Owner, optional
        For a write that is resumed, its owners that were found to be dead.
    begins : callable
        Called as soon as it is known that this call may take the write.

    Raises
    ------
    TargetBusyError
        If another call works on the write.
    ArgumentError
        If the write that is resumed was begun with other arguments.
    """
    target, journal = transactions.target, transactions.journal
    with transactions.files.used():
        # Read without a lock: a process that is stopped in the middle of a transaction would keep the lock.
        transactions.refresh()
        is_mine = journal.may_be_of(target.owner_id)
        # Once the write has begun, other processes work on this same write: wait for them.
        is_begun = is_mine and bool(journal.owners)
        if is_mine or judged is not None:
            begins()
        with transactions.transaction(lock, anybody=True, patience=PATIENCE if is_begun else _FIRST_PATIENCE):
            if journal.may_be_of(target.owner_id):
                made = _make_datasets(transactions, specs)
                _note_part(transactions, specs)
                return made
            made = _take_over_datasets(transactions, specs, judged)
        remove_dead_leases(target)
        return made


def _make_datasets(transactions: Transactions, specs: Sequence[DatasetSpec]) -> Made:
    """Create the datasets inside a transaction, or find those that this write has created."""
    target, found = transactions.target, transactions.journal.created
    if found is not None:
        if target.has_joined and (difference := found.difference(_wanted(target, specs))) is not None:
            raise ArgumentError(cannot_join(target, difference))
        if target.has_joined and (difference := _layout_differs(transactions)) is not None:
            raise ArgumentError(cannot_join(target, difference))
        return Made(describe_datasets(transactions, found, specs))
    existing = target.mode == "existing"
    is_hidden = existing and any(spec.there is None for spec in specs)
    with transactions.opened("r+" if existing else "w") as state:
        if existing:
            _require_as_judged(state.h5, target, specs)
        group = f"{_GROUP}{target.write_id[:12]}" if is_hidden else ""
        unmade = tuple(CreatedDataset(spec.name, (), (), "", "", "", "", False) for spec in specs)
        created = Created(unmade, group, target.token, target.overwrite)
        layouts = tuple(
            extend_dataset(state.h5, spec.there)
            if spec.there is not None
            else replace(describe(make_dataset(state.h5, replace(spec, name=created.path(number)))), name=spec.name)
            for number, spec in enumerate(specs)
        )
        created = replace(created, datasets=tuple(map(describe_made, specs, layouts)))
        require_chunk_counts(created)
        transactions.commit(state, _owner(transactions, 1).pack() + created.pack())
    return Made(layouts)


def _note_part(transactions: Transactions, specs: Sequence[DatasetSpec]) -> None:
    """Record who writes this part, inside a transaction."""
    target, journal = transactions.target, transactions.journal
    if target.share is None or journal.finished:
        return
    boxes = tuple(spec.box or () for spec in specs)
    part = PartState.here(target.share, target.write_id, boxes)
    try:
        words = conflict(part, journal.parts.values(), [spec.name for spec in specs])
        enter_part(dict(journal.parts), part)
    except ValueError as error:
        raise IntegrityError(f"{target.folder} does not fit together: {error}; discard the write") from error
    if words is not None:
        raise ArgumentError(
            f"{words}; give each job a region of its own, or discard the write with "
            f"dask_chunkio.discard({target.discardable!r})"
        )
    transactions.record(part.pack())


def _wanted(target: Target, specs: Sequence[DatasetSpec]) -> Created:
    """Return what a call would create."""
    return Created(tuple(describe_made(spec, *preview([spec])) for spec in specs), "", target.token, target.overwrite)


def _require_as_judged(file: h5py.File, target: Target, specs: Sequence[DatasetSpec]) -> None:
    """Make sure that no other write has changed the file between its check and this transaction."""
    if completed(file, target, specs):
        raise TargetChangedError(f"{target.path}: the datasets of this call have appeared since it began; run it again")
    for spec in specs:
        if spec.there is None:
            require_replaceable(file, spec.name, target, spec)


def describe_datasets(
    transactions: Transactions, created: Created, specs: Sequence[DatasetSpec]
) -> tuple[DatasetLayout, ...]:
    """Describe the datasets that were created, inside a transaction.

    Raises
    ------
    IntegrityError
        If HDF5 cannot read what it has stored of one.
    """
    names = [made.name for made in created.datasets]
    with transactions.opened() as state:
        paths = names if transactions.journal.finished else [created.path(number) for number in range(len(names))]
        described = [spec.there or _described(state, path) for path, spec in zip(paths, specs, strict=True)]
        return tuple(replace(layout, name=name) for layout, name in zip(described, names, strict=True))


def _described(state: OpenTransaction, path: str) -> DatasetLayout:
    try:
        return describe(state.dataset(path))
    except ChunkIOError:
        raise
    except UNREADABLE as error:
        raise IntegrityError(
            f"{path}: HDF5 cannot read how it is stored ({error}): the file's metadata is damaged; discard the write "
            f"and start it again"
        ) from error


def _take_over_datasets(
    transactions: Transactions, specs: Sequence[DatasetSpec], judged: Sequence[Owner] | None
) -> Made:
    """Resume a write that another call began, inside a transaction.

    If that call had other arguments, this call may still be complete.

    Parameters
    ----------
    transactions : Transactions
        The transactions of the write.
    specs : sequence of DatasetSpec
        The datasets of this call.
    judged : sequence of Owner or None
        The owners that were found to be dead; None if this was not checked.

    Raises
    ------
    ArgumentError
        If the write was begun with other arguments.
    TargetBusyError
        If another call has taken it over meanwhile.
    TargetChangedError
        If only the folder of a finished write was left, which is emptied.
    """
    created, owner, target = transactions.journal.created, transactions.journal.owner, transactions.target
    if created is None or owner is None:
        return _make_datasets(transactions, specs)
    # An owner that died in the very transaction that records its take-over is named only in the log until the replay.
    if judged is None or (judged and judged[-1] != owner and owner not in transactions.replayed_owners):
        raise TargetBusyError(f"{target.path} is being written by another call, {owner}; wait for it (wait=True)")
    difference = created.difference(_wanted(target, specs)) or _layout_differs(transactions)
    if difference is not None:
        if transactions.journal.finished and target.mode != "new":
            transactions.files.folder.empty()
            raise TargetChangedError(f"{target.path}: a write that had ended left its folder, which is removed now")
        if complete := _completed(transactions, specs):
            return Made(complete=complete)
        raise ArgumentError(cannot_resume(target, difference))
    layouts = describe_datasets(transactions, created, specs)
    # Sync before the take-over is recorded: if it fails, a retry finds the write not taken over.
    transactions.payloads.sync_all()
    records = _owner(transactions, owner.epoch + 1).pack()
    if created.token == target.token:
        transactions.record(records)
    else:
        _name_call(transactions, replace(created, token=target.token), records)
    return Made(layouts)


def _layout_differs(transactions: Transactions) -> str | None:
    """Return in words how the layout of the file differs from that of this call, inside a transaction."""
    layout = transactions.target.layout
    if layout is None or transactions.journal.finished:
        return None
    with transactions.opened() as state:
        return None if is_paged(state.h5) else f"layout={layout.name!r} is given, but the file was created without it"


def _name_call(transactions: Transactions, created: Created, records: bytes) -> None:
    """Record a token for a write that was begun without one, and with its datasets if the write is finished."""
    with transactions.opened() as state:
        if transactions.journal.finished:
            for made in created.datasets:
                add_token(state.dataset(made.name), str(created.token))
        transactions.commit(state, records + created.pack(), close=True)


def _completed(transactions: Transactions, specs: Sequence[DatasetSpec]) -> tuple[StoredDataset, ...]:
    target = transactions.target
    if target.mode == "existing":
        with transactions.opened() as state:
            return completed(state.h5, target, specs)
    if not os.path.isfile(target.path):
        return ()
    with opened_to_look(target) as file:
        return completed(file, target, specs)


def _owner(transactions: Transactions, epoch: int) -> Owner:
    return Owner.here(transactions.target.owner_id, epoch, transactions.exclusive, transactions.target.durability)
