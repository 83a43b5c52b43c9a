"""The file of a draft: made by any library, whole and closed before it is filled."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import h5py

from dask_chunkio.errors import TargetBusyError, TargetError
from dask_chunkio.storage.completeness import StoredDataset, stored
from dask_chunkio.storage.draft_paths import DraftPaths
from dask_chunkio.storage.drafts.held_draft import HeldDraft
from dask_chunkio.storage.filesystem.io import sync_file, sync_folder
from dask_chunkio.storage.hdf5.file_layout import FileLayout, LayoutName, require_paged
from dask_chunkio.storage.preconditions import opened_to_look
from dask_chunkio.storage.target import Target
from dask_chunkio.storage.transaction import Transactions

__all__ = ["complete_structure", "describe_datasets", "replay_fill", "require_file"]

_PATIENCE = 5.0


def replay_fill(paths: DraftPaths) -> None:
    """Apply the redo record that a fill which was cut off has left, so that any program can read the file.

    Raises
    ------
    TargetError
        If a process of that fill is stopped in a transaction, or the file cannot be written.
    IntegrityError
        If the files beside it are damaged, or another program has changed it.
    """
    fill = Target(paths.file, paths.write_id)
    # A fill that was cut off as it began may have left a folder without a manifest; the next fill removes it.
    if not fill.is_begun:
        return
    found = fill.found()
    if found is None or found.mode != "existing":
        return
    try:
        transactions = Transactions(found, exclusive=False)
    except OSError as error:
        raise found.refused(error, error.filename or "") from error
    # A transaction begins with the replay.
    with (
        contextlib.closing(transactions),
        transactions.transaction(contextlib.nullcontext, anybody=True, patience=_PATIENCE),
    ):
        pass


def complete_structure(
    held: HeldDraft,
    makes_file: bool = False,
    is_durable: bool = False,
    layout: LayoutName | None = None,
    chosen: Callable[[], FileLayout | None] = lambda: None,
) -> None:
    """Record that the structure of a draft is complete.

    Parameters
    ----------
    held : HeldDraft
        The draft.
    makes_file : bool
        Whether a draft without a file gets an empty one.
    is_durable : bool
        Whether the structure survives a failure of the machine from here on.
    layout : str, optional
        Name of the layout that the file must have.
    chosen : callable
        Returns the layout of the empty file.

    Raises
    ------
    TargetError
        If there is no file, it is not closed, or the disk refuses it.
    """
    held.require_here()
    if held.manifest.state != "structure":
        return
    if makes_file and not os.path.lexists(held.paths.file):
        _make_empty_file(held.paths, chosen())
    require_file(held.paths)
    if layout is not None:
        _require_layout(held.paths, layout)
    if is_durable:
        _sync(held.paths)
    held.save(replace(held.manifest, state="filling"))


def _sync(paths: DraftPaths) -> None:
    """Wait until the file is on the disk, and the names of all folders that lead to it."""
    try:
        sync_file(paths.file)
        for folder in (paths.hidden, paths.folder, os.path.dirname(paths.path)):
            sync_folder(folder)
    except OSError as error:
        raise Target(paths.path, "").refused(error, paths.file) from error


def _require_layout(paths: DraftPaths, layout: LayoutName) -> None:
    with opened_to_look(Target(paths.file, "")) as file:
        require_paged(
            file,
            layout,
            f"the structure at {paths.file}",
            "let the draft create the file (make no structure), or create it with "
            "h5py.File(draft.path, 'w', fs_strategy='page', fs_page_size=..., fs_persist=True), and a page that is "
            "larger than all metadata",
        )


def _make_empty_file(paths: DraftPaths, layout: FileLayout | None) -> None:
    try:
        h5py.File(paths.file, "x", **({} if layout is None else layout.keywords)).close()
    except OSError as error:
        raise TargetError(f"cannot write {paths.file}: {error}") from error


def describe_datasets(path: str, names: Sequence[str]) -> tuple[StoredDataset, ...]:
    """Describe datasets that an earlier fill has written to the file of a draft.

    Raises
    ------
    TargetError
        If one is missing.
    """
    with opened_to_look(Target(path, "")) as file:
        if missing := [name for name in names if not isinstance(file.get(name), h5py.Dataset)]:
            raise TargetError(f"{path} no longer has {', '.join(missing)}, which an earlier fill has written")
        return tuple(stored(file[name]) for name in names)


def require_file(paths: DraftPaths) -> None:
    """Make sure that the file of a draft is a whole HDF5 file that no program has open for writing.

    Raises
    ------
    TargetBusyError
        If it is open.
    TargetError
        If there is no such file, or it is not HDF5.
    """
    if not os.path.isfile(paths.file):
        raise TargetError(
            f"the draft of {paths.path} has no file: make it under the name {paths.file} (Draft.path), with any "
            f"library, or fill the draft"
        )
    if os.path.islink(paths.file) or os.stat(paths.file).st_nlink > 1:
        raise TargetError(f"{paths.file} is a link, so that another file would be changed; copy the file there instead")
    try:
        with opened_to_look(Target(paths.file, "")):
            pass
    except TargetBusyError as error:
        raise TargetBusyError(
            f"{paths.file} is still open: close it before the draft is filled or published ({error})"
        ) from error
