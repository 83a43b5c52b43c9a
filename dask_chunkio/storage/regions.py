"""The parts of datasets that are there already, as a write that is going to replace them finds them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import ArgumentError, TargetChangedError, TargetError, UnfinishedWriteError
from dask_chunkio.geometry.grid import Shape
from dask_chunkio.storage.begin import held_alone
from dask_chunkio.storage.completeness import StoredDataset, differs, stored
from dask_chunkio.storage.filesystem.side_folder import is_left, remove_empty_folder
from dask_chunkio.storage.hdf5.dataset import DatasetLayout, DatasetSpec, describe_region
from dask_chunkio.storage.journal.journal import Journal
from dask_chunkio.storage.preconditions import left_words, opened_to_look, require_inside
from dask_chunkio.storage.target import Target
from dask_chunkio.storage.tokens import is_applied
from dask_chunkio.storage.transaction import Transactions

__all__ = ["Parts", "Wanted", "of_unknown_length", "resolve_regions"]

_Begun = Mapping[str, tuple[Shape, Shape, Shape]]
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a call wants of a dataset that may be there.

    Parameters
    ----------
    shape : tuple of int or None
        Of the source; None where it is not known, so that nothing can be written into what is there.
    region, append : object
        As the user says them.
    spec : DatasetSpec, optional
        What is made where there is nothing to append to.
    given : tuple of str
        In which properties a dataset that is there must agree with that, as `differs` has them, or ``attrs``.
    """

    shape: Shape | None
    region: Any = None
    append: Any = None
    spec: DatasetSpec | None = None
    given: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parts:
    """What is there of the datasets that a call writes into.

    Parameters
    ----------
    layouts : mapping of str to DatasetLayout
        The parts to write; what is to be appended to and is not there has none.
    complete : tuple of StoredDataset
        All datasets of the call, where its token says that it is applied.
    """

    layouts: Mapping[str, DatasetLayout] = field(default_factory=dict)
    complete: tuple[StoredDataset, ...] = ()


def resolve_regions(target: Target, names: Sequence[str], wanted: Mapping[str, Wanted], touches: bool = True) -> Parts:
    """Describe parts of datasets.

    What a write that was cut off has left is brought into order first: half of a transaction is no HDF5 file.

    Parameters
    ----------
    target : Target
        The file.
    names : sequence of str
        Of all datasets of the call.
    wanted : mapping of str to Wanted
        For each dataset that may be there.
    touches : bool
        Whether what a write has left may be brought into order, or removed.

    Raises
    ------
    TargetError
        If there is no such file or dataset.
    TargetBusyError
        If another call is writing the file, or another program has it open for writing.
    UnfinishedWriteError
        If a write was cut off there, and `Target.resume` was not given.
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
    with held_alone(target) as owners:
        parts = _found(target, names, wanted) if owners is None else _found_replayed(target, names, wanted)
    remove_empty_folder(target.folder)
    return parts


def _found_replayed(target: Target, names: Sequence[str], wanted: Mapping[str, Wanted]) -> Parts:
    found = target.found()
    if found is None or found.mode == "new" or not found.is_begun:
        return _found(target, names, wanted)
    try:
        transactions = Transactions(found, exclusive=False, holds_activity_lock=True)
    except TargetError:
        raise
    except OSError as error:
        raise target.refused(error, error.filename or "") from error
    with (
        contextlib.closing(transactions),
        transactions.transaction(contextlib.nullcontext, anybody=True, patience=_PATIENCE),
    ):
        with transactions.opened() as state:
            parts = _parts(state.h5, target, names, wanted, _begun(transactions.journal))
        if parts.complete and transactions.journal.finished:
            transactions.files.folder.empty()
        return parts


def _begun(journal: Journal) -> _Begun:
    """Return the regions of the write that was cut off: what it appends to has grown already."""
    created = journal.created
    # One that is finished is this call only if it had no token: else the dataset would say that this call is applied.
    if created is None or (journal.finished and created.token is not None):
        return {}
    return {one.name: (one.region[0], one.region[1], one.region[2]) for one in created.datasets if one.region}


def _found(target: Target, names: Sequence[str], wanted: Mapping[str, Wanted], is_free: bool = False) -> Parts:
    if not os.path.isfile(target.path):
        for name, one in wanted.items():
            if one.region is not None:
                raise TargetError(
                    f"there is no file {target.path}, so nothing to write a region of {name} into; leave region= out"
                )
        return Parts()
    with opened_to_look(target) as file:
        # A write that has begun since may have been cut off in a transaction.
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
    for name, one in wanted.items():
        dataset = file.get(name)
        if isinstance(dataset, h5py.Dataset):
            require_inside(file, name, target)
            _require_agreement(dataset, one)
            yield name, describe_region(dataset, one.region, one.append, one.shape or (), begun.get(name))
        elif one.region is not None:
            raise TargetError(f"{target.path} has no dataset {name}, so nothing to write into; leave region= out")


def _require_agreement(dataset: h5py.Dataset, wanted: Wanted) -> None:
    """Refuse to append to a dataset what asks for another one."""
    name, spec = dataset.name, wanted.spec
    if wanted.shape is None:
        raise ArgumentError(of_unknown_length(name))
    if spec is None:
        return
    words = differs(dataset, spec, [one for one in wanted.given if one != "attrs"])
    if words is None and "attrs" in wanted.given:
        words = _attrs_differ(dataset, spec.attrs)
    if words is not None:
        raise ArgumentError(
            f"{name} is there, and {words}; leave out what is for a new dataset, or give what {name} has"
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
    """Say that a stream cannot be written into a dataset that is there, and how it can."""
    return (
        f"{name}: what is written into a dataset that is there needs a known length, and this stream has none. Give "
        f"an array of all of its rows, or an iterator of DataChunks that has the attributes maxshape=(rows, ...) and "
        f"dtype, such as hdmf's DataChunkIterator(data, maxshape=(rows, ...), dtype=...)"
    )
