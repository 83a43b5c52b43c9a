"""Recovery and removal of an interrupted write."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import h5py
import numpy as np

from dask_chunkio.errors import ChunkIOError, IntegrityError, TargetBusyError, TargetError
from dask_chunkio.filters.chunking import fill_payload
from dask_chunkio.paths import local_path
from dask_chunkio.storage.activity.activity_lock import LOOKS, ActivityLock, opened_activity_lock
from dask_chunkio.storage.activity.lease import LEASES
from dask_chunkio.storage.chunk_index import UNREADABLE, list_stored
from dask_chunkio.storage.draft_paths import DraftPaths
from dask_chunkio.storage.drafts.removal import move_draft, remove_draft, require_structure
from dask_chunkio.storage.filesystem.side_folder import Folder, is_held_open, is_left, remove_empty_folder
from dask_chunkio.storage.hdf5.dataset import DatasetLayout, describe
from dask_chunkio.storage.journal.journal import HELD
from dask_chunkio.storage.journal.records import DISCARDED, pack_record
from dask_chunkio.storage.side_paths import DAMAGED_LOG, SIDE_FILES
from dask_chunkio.storage.store_folder import find_unfinished_store_folder, remove_unfinished_store
from dask_chunkio.storage.take_over import take_over
from dask_chunkio.storage.target import Target
from dask_chunkio.storage.transaction import Transactions
from dask_chunkio.storage.visible_chunks import truncate_dataset
from dask_chunkio.storage.writer import Writer

__all__ = ["RecoveryResult", "discard", "leftovers", "recover"]


@dataclass(frozen=True, slots=True)
class RecoveryResult:
    """The result of `recover`.

    Parameters
    ----------
    path : str
        The HDF5 file that can be opened.
    datasets : mapping of str to str
        For each dataset, its path in that file.
    committed, chunks : int
        Number of chunks that hold their data, and of all chunks.
    """

    path: str
    datasets: dict[str, str]
    committed: int
    chunks: int


def discard(path: str | os.PathLike[str], *, force: bool = False) -> str | None:
    """Remove everything that an interrupted write, or a draft, has left; nothing that existed before is touched.

    Chunks that a region has committed stay, because their old elements are gone.  A dataset that was appended to
    is shrunk to its previous length.

    Parameters
    ----------
    path : str or path-like
        The file that was to be written.
    force : bool
        Remove the folder even if the data that the write has hidden in an existing file cannot be
        removed from it, because the side files are damaged or the file was changed.

    Returns
    -------
    str or None
        The folder that was removed, or None if there was none.

    Raises
    ------
    TargetBusyError
        If the write is still running.
    TargetError
        If the folder holds files that no write creates, or cannot be removed.
    IntegrityError
        If an existing file is so damaged that HDF5 cannot remove from it what the write has hidden there.

    Examples
    --------
    >>> discard("no-such-file.h5") is None
    True
    """
    target = _target(path)
    if (removed := _remove_draft_or_store(target.path)) is not None:
        return removed
    if leftovers(path) is None:
        remove_empty_folder(target.folder)
        return None
    _require_ours(target)
    is_damaged = os.path.lexists(target.lock) and (os.path.islink(target.lock) or not os.path.isfile(target.lock))
    with (
        Folder(target.folder) as folder,
        contextlib.nullcontext() if force and is_damaged else _alone(target) as activity_lock,
    ):
        try:
            found = target.found() if os.path.exists(target.manifest) else replace(target, mode="new")
            if found is not None and found.mode == "existing":
                _remove_hidden(found)
        except ChunkIOError:
            if not force:
                raise
        except UNREADABLE as error:
            if not force:
                raise IntegrityError(
                    f"the data that the write has hidden in {target.path} cannot be removed, because that file is "
                    f"damaged ({error}); force=True removes only {target.folder}"
                ) from error
        try:
            folder.remove(activity_lock.close if activity_lock is not None else lambda: None)
        except OSError as error:
            raise TargetError(f"cannot remove {target.folder}: {error.strerror}") from error
    return target.folder


def _remove_draft_or_store(path: str) -> str | None:
    draft = DraftPaths(path)
    if is_left(draft.folder):
        remove_draft(draft)
        return draft.folder
    remove_empty_folder(draft.folder)
    if (store := find_unfinished_store_folder(path)) is not None:
        remove_unfinished_store(path)
    return store


def recover(path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> RecoveryResult:
    """Make the file of an unfinished write, or of a draft, readable, without its sources.

    An interrupted transaction is applied or dropped; chunks that are not in place read as the
    fill value.  The write can still be resumed, which writes these chunks.

    Parameters
    ----------
    path : str or path-like
        The file that was to be written.
    output : str or path-like, optional
        Path to which the new file is moved, which ends the write.  Not for
        datasets that were being added to an existing file.

    Returns
    -------
    RecoveryResult
        The file that can be opened, and its datasets.

    Raises
    ------
    TargetError
        If there is nothing to recover (as of a zarr store, which begins again), or `output` cannot be used.
    TargetBusyError
        If the write is still running.
    IntegrityError
        If the side files or the HDF5 file are damaged.

    Examples
    --------
    >>> recover("no-such-file.h5")
    Traceback (most recent call last):
    dask_chunkio.errors.TargetError: there is no unfinished write of no-such-file.h5
    """
    target = _target(path)
    if is_left(DraftPaths(target.path).folder):
        return _recovered_draft(DraftPaths(target.path), output)
    if not is_left(target.folder):
        raise TargetError(f"there is no unfinished write of {os.fspath(path)}")
    _require_ours(target)
    with _alone(target) as activity_lock:
        found = target.found()
        if found is None:
            raise TargetError(f"there is no unfinished write of {os.fspath(path)}")
        if found.is_given_up:
            raise TargetError(f"the write of {target.path} was discarded, or its file moved; discard what is left")
        if not found.is_begun:
            raise TargetError(f"the write of {target.path} was cut off before it had made anything; discard it")
        try:
            recovered = _recovered(found)
        except ChunkIOError:
            raise
        except UNREADABLE as error:
            raise IntegrityError(
                f"{found.file} cannot be recovered, because HDF5 cannot read it ({error}); discard the write "
                f"(dask-chunkio discard) and start it again"
            ) from error
        if output is not None:
            recovered = replace(
                recovered, path=_moved(found, os.path.abspath(local_path("output", output)), activity_lock)
            )
    return recovered


def leftovers(path: str | os.PathLike[str]) -> str | None:
    """Return the folder that an unfinished write, or a draft, of a file has left; None if there is none."""
    target = _target(path)
    found = (one for one in (DraftPaths(target.path).folder, target.folder) if is_left(one))
    return next(found, find_unfinished_store_folder(target.path))


def _recovered_draft(draft: DraftPaths, output: str | os.PathLike[str] | None) -> RecoveryResult:
    require_structure(draft)
    recovered = RecoveryResult(draft.file, {}, 0, 0)
    # A fill that was cut off as it began has changed nothing.
    if _target(draft.file).is_begun:
        recovered = recover(draft.file)
    if output is not None:
        moved = os.path.abspath(local_path("output", output))
        move_draft(draft, moved)
        recovered = replace(recovered, path=moved)
    return recovered


def _target(path: str | os.PathLike[str]) -> Target:
    return Target(os.path.realpath(local_path("path", path)), "", durability="power")


def _require_ours(target: Target) -> None:
    strange = {name for name in os.listdir(target.folder) if not _is_ours(name)}
    if strange or os.path.islink(target.folder):
        raise TargetError(f"{target.folder} holds {sorted(strange)}, which no write creates; inspect it yourself")


def _is_ours(name: str) -> bool:
    prefixes = ("manifest.json.", "stop.", "read-", DAMAGED_LOG, LEASES)
    return name in SIDE_FILES or is_held_open(name) or name.startswith(prefixes)


@contextlib.contextmanager
def _alone(target: Target) -> Iterator[ActivityLock]:
    with opened_activity_lock(target.lock) as activity_lock:
        if not take_over(target, activity_lock, LOOKS):
            raise TargetBusyError(f"{target.path} is being written now; stop that write, or wait until it has ended")
        yield activity_lock


@contextlib.contextmanager
def _transactions(target: Target) -> Iterator[Transactions]:
    writer = _writer(target)
    try:
        yield writer.transactions
    finally:
        writer.close()


def _writer(target: Target) -> Writer:
    try:
        # An exclusive writer would share the activity lock, which this process already holds exclusively.
        return Writer(target, exclusive=False, holds_activity_lock=True)
    except OSError as error:
        raise TargetError(f"cannot use {target.folder}: {error.strerror or error}") from error


def _remove_hidden(target: Target) -> None:
    if not os.path.exists(target.path):
        return
    with _transactions(target) as transactions, transactions.transaction(contextlib.nullcontext, anybody=True):
        created = transactions.journal.created
        if created is None or transactions.journal.finished:
            return
        with transactions.opened() as state:
            if created.group and created.group in state.h5:
                del state.h5[created.group]
            for made in created.datasets:
                if made.region:
                    _, stop, before = made.region
                    truncate_dataset(state.h5, made.name, before, tuple(map(max, before, stop)))
            transactions.commit(state, pack_record(DISCARDED, b""), close=True, durable=True)
            transactions.payloads.trim(state.staged.size)


def _recovered(target: Target) -> RecoveryResult:
    writer = _writer(target)
    try:
        lock = contextlib.nullcontext
        with writer.transactions.transaction(lock, anybody=True):
            created = writer.transactions.journal.created
            if created is None:
                raise TargetError(f"the write of {target.path} was cut off before it had made anything; discard it")
            names = [made.name for made in created.datasets]
            paths = names if writer.transactions.journal.finished else [created.path(n) for n in range(len(names))]
            with writer.transactions.opened() as state:
                layouts = [describe(state.dataset(path)) for path in paths]
            for number, layout in enumerate(layouts):
                if (
                    len(writer.transactions.journal.table(number)) != len(layout.chunks)
                    and created.datasets[number].is_new
                ):
                    raise IntegrityError(
                        f"{target.journal} counts {len(writer.transactions.journal.table(number))} chunks of "
                        f"{names[number]}, the file {len(layout.chunks)}; discard the write and start it again"
                    )
            # Payloads that readers can see have been in place since their commit.
            is_visible = writer.transactions.journal.finished or target.mode == "published"
        committed = [
            _count_held(writer, number) if is_visible or made.region else _void_unplaced(writer, number, layout)
            for number, (made, layout) in enumerate(zip(created.datasets, layouts, strict=True))
        ]
        total = sum(len(writer.transactions.journal.table(number)) for number in range(len(layouts)))
        with writer.transactions.transaction(lock, anybody=True):
            writer.transactions.payloads.sync_all()
    finally:
        writer.close()
    return RecoveryResult(target.file, dict(zip(names, paths, strict=True)), sum(committed), total)


def _count_held(writer: Writer, number: int) -> int:
    return int(np.count_nonzero(writer.transactions.journal.table(number)["state"] == HELD))


def _void_unplaced(writer: Writer, number: int, layout: DatasetLayout) -> int:
    """Give every chunk that is reserved but not in place a payload of the fill value; return how many are in place."""
    table = writer.transactions.journal.table(number).copy()
    reserved = np.flatnonzero(table["state"])
    placed = writer.placed(table[reserved])
    chunks = [int(chunk) for chunk, is_placed in zip(reserved, placed, strict=True) if not is_placed]
    chunks += _unknown(writer.transactions, number, layout)
    if chunks:
        writer.fill(number, layout, chunks, [fill_payload(layout.form)] * len(chunks), contextlib.nullcontext)
    return int(np.count_nonzero(table["state"][reserved[placed]] == HELD))


def _unknown(transactions: Transactions, number: int, layout: DatasetLayout) -> list[int]:
    """Return the chunks that have space according to HDF5 but not to the journal (its end may be torn off)."""
    if not layout.is_chunked or not len(layout.chunks):
        return []
    with transactions.transaction(contextlib.nullcontext, anybody=True), transactions.opened() as state:
        origins = list_stored(state.dataset(transactions.journal.path_of(number))).origins
    cells = origins // layout.form.chunk_shape
    inside = (cells < layout.chunks.cells).all(axis=1)
    chunks = np.ravel_multi_index(tuple(cells[inside].T), layout.chunks.cells)
    return [int(chunk) for chunk in chunks[transactions.journal.table(number)["state"][chunks] == 0]]


def _moved(target: Target, output: str, activity_lock: ActivityLock) -> str:
    if target.mode != "new":
        raise TargetError(
            f"the datasets were being added to {target.path}, and are hidden in it until the write is resumed; "
            f"copy them from there, or discard them"
        )
    if os.path.lexists(output):
        raise TargetError(f"{output} exists; give another name to recover to")
    try:
        with h5py.File(target.file, "r", locking=False):
            os.rename(target.file, output)
    except OSError as error:
        raise TargetError(f"cannot move {target.file} to {output}: {error}") from error
    try:
        with Folder(target.folder) as folder:
            folder.remove(activity_lock.close)
    except OSError as error:
        raise TargetError(f"{output} is whole, but {target.folder} cannot be removed: {error.strerror}") from error
    return output
