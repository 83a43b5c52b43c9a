"""The datasets of a write: made when it begins, found made when it goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import h5py

from dask_chunkio.errors import ArgumentError, TargetBusyError, TargetChangedError
from dask_chunkio.storage.completeness import StoredDataset, completed
from dask_chunkio.storage.hdf5.dataset import DatasetLayout, DatasetSpec, describe, describe_made, make_dataset, preview
from dask_chunkio.storage.journal.created import Created, CreatedDataset
from dask_chunkio.storage.journal.owner import Owner
from dask_chunkio.storage.preconditions import opened_to_look, require_replaceable
from dask_chunkio.storage.take_over import remove_dead_leases
from dask_chunkio.storage.target import Target, cannot_resume
from dask_chunkio.storage.tokens import add_token
from dask_chunkio.storage.transaction import PATIENCE, Lock, Transactions
from dask_chunkio.storage.visible_chunks import extend_dataset

__all__ = ["Made", "create_datasets", "describe_datasets"]

_GROUP = "/.dask_chunkio-"
_FIRST_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Made:
    """What a write begins with.

    Parameters
    ----------
    layouts : tuple of DatasetLayout
        One for each dataset.
    complete : tuple of StoredDataset
        Everything that it would make, where that is there already; then there are no layouts.
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
    """Make the datasets, or find them made by this write or by one that is resumed.

    Parameters
    ----------
    transactions : Transactions
        Of the write.
    specs : sequence of DatasetSpec
        The datasets.
    lock : callable
        Returns the scheduler's lock.
    judged : sequence of Owner, optional
        Of a write that is resumed: who was found to be dead.
    begins : callable
        Called as soon as it is known that the write may be this call's.

    Raises
    ------
    TargetBusyError
        If another call is at work on it.
    ArgumentError
        If what is resumed was begun with other arguments.
    """
    target, journal = transactions.target, transactions.journal
    with transactions.files.used():
        # Without a lock: a process that is stopped in the middle of its transaction would keep it.
        transactions.refresh()
        is_mine = journal.may_be_of(target.write_id)
        # Once it has begun, others are at work on this very write: they are waited for.
        is_begun = is_mine and bool(journal.owners)
        if is_mine or judged is not None:
            begins()
        with transactions.transaction(lock, anybody=True, patience=PATIENCE if is_begun else _FIRST_PATIENCE):
            if journal.may_be_of(target.write_id):
                return _make_datasets(transactions, specs)
            made = _take_over_datasets(transactions, specs, judged)
        remove_dead_leases(target)
        return made


def _make_datasets(transactions: Transactions, specs: Sequence[DatasetSpec]) -> Made:
    """Make the datasets, inside a transaction, or find them made by this write."""
    if transactions.journal.created is not None:
        return Made(describe_datasets(transactions, transactions.journal.created, specs))
    target = transactions.target
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
        transactions.commit(state, _owner(transactions, 1).pack() + created.pack())
    return Made(layouts)


def _require_as_judged(file: h5py.File, target: Target, specs: Sequence[DatasetSpec]) -> None:
    """Make sure that no other write has come in between the look at the file and this transaction."""
    if completed(file, target, specs):
        raise TargetChangedError(f"{target.path}: what this call makes is there since it began; run it again")
    for spec in specs:
        if spec.there is None:
            require_replaceable(file, spec.name, target, spec)


def describe_datasets(
    transactions: Transactions, created: Created, specs: Sequence[DatasetSpec]
) -> tuple[DatasetLayout, ...]:
    """Describe what was made, inside a transaction."""
    names = [made.name for made in created.datasets]
    with transactions.opened() as state:
        paths = names if transactions.journal.finished else [created.path(number) for number in range(len(names))]
        described = [spec.there or describe(state.dataset(path)) for path, spec in zip(paths, specs, strict=True)]
        return tuple(replace(layout, name=name) for layout, name in zip(described, names, strict=True))


def _take_over_datasets(
    transactions: Transactions, specs: Sequence[DatasetSpec], judged: Sequence[Owner] | None
) -> Made:
    """Go on with a write that another call began, inside a transaction.

    Where that call was another one, this one may still be complete.

    Parameters
    ----------
    transactions : Transactions
        Of the write.
    specs : sequence of DatasetSpec
        What this call writes.
    judged : sequence of Owner or None
        Who was found to be dead; None if nobody was looked for.

    Raises
    ------
    ArgumentError
        If the write was begun with other arguments.
    TargetBusyError
        If another call has taken it over meanwhile.
    TargetChangedError
        If nothing of it was left but its folder, which is removed.
    """
    created, owner, target = transactions.journal.created, transactions.journal.owner, transactions.target
    if created is None or owner is None:
        return _make_datasets(transactions, specs)
    # Whoever died in the transaction that was to take the write over is named by the log alone until it is replayed.
    if judged is None or (judged and judged[-1] != owner and owner not in transactions.replayed_owners):
        raise TargetBusyError(f"{target.path} is being written by another call, {owner}; wait for it (wait=True)")
    wanted = Created(tuple(describe_made(spec, *preview([spec])) for spec in specs), "", target.token, target.overwrite)
    difference = created.difference(wanted)
    if difference is not None:
        if transactions.journal.finished and target.mode != "new":
            transactions.files.folder.empty()
            raise TargetChangedError(f"{target.path}: a write that had ended left its folder, which is removed now")
        if complete := _completed(transactions, specs):
            return Made(complete=complete)
        raise ArgumentError(cannot_resume(target, difference))
    layouts = describe_datasets(transactions, created, specs)
    # First: a retry of what fails here finds nothing taken over.
    transactions.payloads.sync_all()
    records = _owner(transactions, owner.epoch + 1).pack()
    if created.token == target.token:
        transactions.record(records)
    else:
        _name_call(transactions, replace(created, token=target.token), records)
    return Made(layouts)


def _name_call(transactions: Transactions, created: Created, records: bytes) -> None:
    """Give a write the token that it was begun without; if it is finished, its datasets too."""
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
    return Owner.here(transactions.target.write_id, epoch, transactions.exclusive, transactions.target.durability)
