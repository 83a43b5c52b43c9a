"""The parts of existing datasets that a write is going to replace, as it finds them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import ArgumentError, TargetChangedError, TargetError, UnfinishedWriteError
from dask_chunkio.filters.compatibility import is_partial
from dask_chunkio.geometry.grid import Shape
from dask_chunkio.storage.begin import held_alone
from dask_chunkio.storage.completeness import StoredDataset, differs, stored
from dask_chunkio.storage.filesystem.side_folder import is_left, remove_empty_folder
from dask_chunkio.storage.hdf5.dataset import DatasetLayout, DatasetSpec, describe_filled, describe_region
from dask_chunkio.storage.journal.journal import Journal, read_journal
from dask_chunkio.storage.preconditions import left_words, opened_to_look, require_inside
from dask_chunkio.storage.target import Target
from dask_chunkio.storage.tokens import is_applied
from dask_chunkio.storage.transaction import Transactions

__all__ = ["Parts", "Wanted", "of_unknown_length", "resolve_regions"]

_Begun = Mapping[str, tuple[Shape, Shape, Shape]]
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call asks of a dataset that may exist.

    Parameters
    ----------
    shape : tuple of int or None
        Shape of the source; None if it is unknown, so that nothing can be written into an existing dataset.
    region, append : object
        The keywords as the user gives them.
    spec : DatasetSpec, optional
        The dataset that is created if there is none to append to.
    given : tuple of str
        The properties in which an existing dataset must agree with `spec`, as `differs` names them, or ``attrs``.
    fills : bool
        Whether an existing dataset is filled with the whole of the source, or by several jobs.
    keeps_shape : bool
        Whether the source is only the `region` that one of several jobs fills.
    """

    shape: Shape | None
    region: Any = None
    append: Any = None
    spec: DatasetSpec | None = None
    given: tuple[str, ...] = ()
    fills: bool = False
    keeps_shape: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """The existing datasets that a call writes into.

    Parameters
    ----------
    layouts : mapping of str to DatasetLayout
        The parts to write; a dataset that is to be appended to and does not exist has none.
    complete : tuple of StoredDataset
        All datasets of the call, if its token says that it is applied.
    """

    layouts: Mapping[str, DatasetLayout] = field(default_factory=dict)
    complete: tuple[StoredDataset, ...] = ()


def resolve_regions(target: Target, names: Sequence[str], wanted: Mapping[str, Wanted], touches: bool = True) -> Parts:
    """Describe parts of existing datasets.

    An interrupted write is recovered first: a file with half of a transaction is not a valid HDF5 file.

    Parameters
    ----------
    target : Target
        The file.
    names : sequence of str
        Names of all datasets of the call.
    wanted : mapping of str to Wanted
        What the call asks of each dataset that may exist.
    touches : bool
        Whether an interrupted write may be recovered, or its folder removed.

    Raises
    ------
    TargetError
        If there is no such file or dataset.
    TargetBusyError
        If another call is writing the file, or another program has it open for writing.
    TargetChangedError
        If another write has changed the file meanwhile.
    UnfinishedWriteError
        If there is an interrupted write, and `Target.resume` is not set, or `touches` is false.
    ArgumentError
        If there is no such part.
    """
    target = target.located()
    if not is_left(target.folder):
        if touches:
            remove_empty_folder(target.folder)
        return _found(target, names, wanted, is_free=True)
    if not touches:
        raise UnfinishedWriteError(left_words(target))
    if target.share is not None and _has_begun(target):
        return _found_beside_others(target, names, wanted)
    with held_alone(target) as owners:
        parts = _found(target, names, wanted) if owners is None else _found_replayed(target, names, wanted)
    remove_empty_folder(target.folder)
    return parts


def _has_begun(target: Target) -> bool:
    """Return whether other jobs have created the datasets, so that this job can look at them while they work."""
    with read_journal(target.journal) as journal:
        return journal.created is not None


def _found_beside_others(target: Target, names: Sequence[str], wanted: Mapping[str, Wanted]) -> Parts:
    """Look at the datasets in a transaction, while other jobs may work on the same write."""
    try:
        return _found_replayed(target, names, wanted, is_alone=False)
    except TargetError as error:
        if is_left(target.folder):
            raise
        raise TargetChangedError(f"the write of {target.path} has just ended; run it again") from error


def _found_replayed(target: Target, names: Sequence[str], wanted: Mapping[str, Wanted], is_alone: bool = True) -> Parts:
    found = target.found()
    if found is None or found.mode == "new" or not found.is_begun:
        return _found(target, names, wanted)
    try:
        transactions = Transactions(found, exclusive=False, holds_activity_lock=is_alone)
    except OSError as error:
        raise target.refused(error, error.filename or "") from error
    with (
        contextlib.closing(transactions),
        transactions.transaction(contextlib.nullcontext, anybody=True, patience=_PATIENCE),
    ):
        made = _made(transactions.journal)
        wanted = {name: one for name, one in wanted.items() if not (one.fills and name in made)}
        with transactions.opened() as state:
            parts = _parts(state.h5, target, names, wanted, _begun(transactions.journal))
        if is_alone and parts.complete and transactions.journal.finished:
            transactions.files.folder.empty()
        return parts


def _begun(journal: Journal) -> _Begun:
    """Return the regions of the interrupted write, and what it fills: a dataset may have grown already."""
    created = journal.created
    # A finished write can be this call only if it had no token: else the token of this call would be on the dataset.
    if created is None or (journal.finished and created.token is not None):
        return {}
    regions = {one.name: (one.region[0], one.region[1], one.region[2]) for one in created.datasets if one.region}
    # A region of the whole: the dataset is filled.
    filled = {one.name: ((), (), one.shape) for one in created.datasets if one.is_filled}
    return {**regions, **filled}


def _made(journal: Journal) -> set[str]:
    """Return the datasets that the interrupted write has created itself: the call that resumes it finds them there."""
    return set() if journal.created is None else {one.name for one in journal.created.datasets if one.is_new}


def _found(target: Target, names: Sequence[str], wanted: Mapping[str, Wanted], is_free: bool = False) -> Parts:
    if not os.path.isfile(target.path):
        for name, one in wanted.items():
            if one.region is not None:
                raise TargetError(
                    f"there is no file {target.path}, so nothing to write a region of {name} into; leave region= out"
                )
        return Parts()
    with opened_to_look(target) as file:
        # A write that has begun since then may have been interrupted in a transaction.
        if is_free and is_left(target.folder):
            raise TargetChangedError(f"{target.path} was changed while this write looked at it; run it again")
        return _parts(file, target, names, wanted, {})


def _parts(file: h5py.File, target: Target, names: Sequence[str], wanted: Mapping[str, Wanted], begun: _Begun) -> Parts:
    if is_applied(file, names, target.token):
        return Parts(complete=tuple(stored(file[name]) for name in names))
    return Parts(dict(_layouts(file, target, wanted, begun)))


def _layouts(
    file: h5py.File, target: Target, wanted: Mapping[str, Wanted], begun: _Begun
) -> Iterator[tuple[str, DatasetLayout]]:
    names: dict[tuple[int, int], str] = {}
    for name, one in wanted.items():
        dataset = file.get(name)
        if isinstance(dataset, h5py.Dataset):
            require_inside(file, name, target)
            _require_agreement(dataset, one)
            if target.fills:
                _require_own_name(dataset, name, names)
            if one.fills:
                _require_fillable(dataset, one, is_resumed=name in begun)
                yield name, _filled(dataset, one)
            else:
                yield name, describe_region(dataset, one.region, one.append, one.shape or (), begun.get(name))
        elif one.region is not None:
            raise TargetError(f"{target.path} has no dataset {name}, so nothing to write into; leave region= out")


def _require_agreement(dataset: h5py.Dataset, wanted: Wanted) -> None:
    """Refuse an append whose keywords describe another dataset than the existing one."""
    name, spec = dataset.name, wanted.spec
    if wanted.shape is None and not wanted.fills:
        raise ArgumentError(of_unknown_length(name))
    if spec is None:
        return
    words = differs(dataset, spec, [one for one in wanted.given if one != "attrs"])
    if words is None and "attrs" in wanted.given:
        words = _attrs_differ(dataset, spec.attrs)
    if words is not None:
        raise ArgumentError(
            f"{name} exists, and {words}; leave out the keywords for a new dataset, or give the values of {name}"
        )


def _filled(dataset: h5py.Dataset, wanted: Wanted) -> DatasetLayout:
    if wanted.keeps_shape:
        return describe_filled(dataset, dataset.shape)
    if wanted.shape is not None:
        return describe_filled(dataset, wanted.shape)
    return describe_filled(dataset, () if wanted.spec is None else wanted.spec.shape, open_ended=True)


def _require_own_name(dataset: h5py.Dataset, name: str, names: dict[tuple[int, int], str]) -> None:
    """Refuse two sources for one dataset, which links give several names; `names` has those that were seen."""
    found = h5py.h5o.get_info(dataset.id)
    if (other := names.setdefault((found.fileno, found.addr), name)) != name:
        raise ArgumentError(f"{other} and {name} are one dataset, to which links lead; give one source for it")


def _require_fillable(dataset: h5py.Dataset, wanted: Wanted, is_resumed: bool) -> None:
    """Refuse what would lose data that the dataset has: whole chunks are written, and a stream decides the length."""
    source = None if wanted.spec is None else wanted.spec.source_dtype
    if not dataset.id.get_storage_size() or is_resumed:
        return
    if source is not None and is_partial(source, dataset.dtype):
        raise ArgumentError(
            f"{dataset.name} has data, and the source has only some of its fields; give all of them, or region=..."
        )
    if wanted.shape is None:
        raise ArgumentError(
            f"{dataset.name} has data, and the stream for it has no known length, so that rows could be lost; give an "
            f"array or an iterator of known length, or region="
        )


def _attrs_differ(dataset: h5py.Dataset, attrs: Mapping[str, Any]) -> str | None:
    for name, value in attrs.items():
        if name not in dataset.attrs:
            return f"has no attribute {name!r}"
        found = dataset.attrs[name]
        if not np.array_equal(np.asarray(found), np.asarray(value)):
            return f"its attribute {name!r} is {found!r}, and would be {value!r}"
    return None


def of_unknown_length(name: str) -> str:
    """Return the message that a stream cannot be written into an existing dataset, and what to do instead."""
    return (
        f"{name}: data for an existing dataset needs a known length, and this stream has none. Give an array of all "
        f"of its rows, or an iterator of DataChunks that has the attributes maxshape=(rows, ...) and dtype, such as "
        f"hdmf's DataChunkIterator(data, maxshape=(rows, ...), dtype=...)"
    )
