"""Publication of a draft under its final name."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace

from dask_chunkio.errors import TargetChangedError, TargetError, TargetExistsError, UnfinishedWriteError
from dask_chunkio.printable import printable
from dask_chunkio.storage.draft_paths import DraftPaths
from dask_chunkio.storage.drafts.file import require_file
from dask_chunkio.storage.drafts.held_draft import HeldDraft
from dask_chunkio.storage.filesystem.io import sync_file, sync_folder
from dask_chunkio.storage.filesystem.metadata import copy_metadata
from dask_chunkio.storage.filesystem.side_folder import Folder, is_left, remove_empty_folder
from dask_chunkio.storage.journal.draft_manifest import Original, read_draft
from dask_chunkio.storage.journal.journal import read_journal
from dask_chunkio.storage.side_paths import SidePaths
from dask_chunkio.storage.target import Target

__all__ = ["is_recorded_whole", "publish_draft", "record_fill"]

logger = logging.getLogger("dask_chunkio")


def record_fill(held: HeldDraft, number: int, words: tuple[str, ...]) -> None:
    """Record that a fill is complete, and remove its side folder; several jobs may do so.

    Parameters
    ----------
    held : HeldDraft
        The draft.
    number : int
        Number of the fill, from 0.
    words : tuple of str
        What it has written, as `describe_fill` says it.

    Raises
    ------
    TargetError
        If it cannot be recorded, or the folder cannot be removed.
    """
    if len(held.manifest.fills) == number:
        held.save(replace(held.manifest, fills=(*held.manifest.fills, words)))
    _remove_finished_fill(held.paths)


def is_recorded_whole(held: HeldDraft) -> bool:
    """Return whether a job has recorded that all parts of a draft are complete."""
    manifest = read_draft(held.paths.manifest)
    return manifest is not None and bool(manifest.fills)


def _remove_finished_fill(paths: DraftPaths) -> None:
    """Remove the side folder of a fill that is finished.

    It stays until the draft has recorded the fill: a fill that is repeated before that finds that it is finished.

    Raises
    ------
    TargetError
        If it cannot be removed.
    """
    side = SidePaths(paths.file)
    remove_empty_folder(side.folder)
    if not is_left(side.folder):
        return
    with read_journal(side.journal) as journal:
        if not journal.finished:
            return
    try:
        with contextlib.suppress(FileNotFoundError), Folder(side.folder) as folder:
            folder.remove()
    except OSError as error:
        raise TargetError(
            f"cannot remove {side.folder}: {error.strerror or error}; make the same call again"
        ) from error


def publish_draft(held: HeldDraft, then: Callable[[], object] = lambda: None) -> None:
    """Give the file of a draft its final name, call a function, and remove the folder of the draft.

    The bytes reach the disk before the name does: after a power failure the name stands for the complete file, or for
    what it stood for before.  A process that is killed in the function leaves the folder: a draft that is resumed calls
    it again.

    Raises
    ------
    UnfinishedWriteError
        If a fill is not finished.
    TargetBusyError
        If the file is still open.
    TargetExistsError, TargetChangedError
        If another program has created or changed the file of that name meanwhile.
    TargetError
        If there is no file, or it cannot get its name.
    """
    paths = held.paths
    if not held.is_published:
        _require_filled(paths)
        require_file(paths)
        _require_nothing_else(paths)
        try:
            _give_name_durably(held)
        except OSError as error:
            if isinstance(error, TargetError):
                raise
            words = f"all of it is written to {paths.file}, but cannot be given its name"
            raise Target(paths.path, "").refused(error, words) from error
    try:
        then()
    finally:
        _remove(held)


def _remove(held: HeldDraft) -> None:
    try:
        held.remove()
    except TargetError as error:
        # The file is complete and has its name: the next draft, or discard, removes the rest.
        logger.warning("%s", printable(f"{held.paths.path} is complete, but {error}"))


def _give_name_durably(held: HeldDraft) -> None:
    sync_file(held.paths.file)
    held.save(replace(held.manifest, state="publishing"))
    _give_name(held)
    held.is_published = True
    sync_folder(os.path.dirname(held.paths.path))


def _require_filled(paths: DraftPaths) -> None:
    _remove_finished_fill(paths)
    if is_left(SidePaths(paths.file).folder):
        raise UnfinishedWriteError(
            f"the draft of {paths.path} has a fill that is not finished; make the same calls again with "
            f"draft(..., resume=True), or remove the draft with dask_chunkio.discard({paths.path!r})"
        )


def _require_nothing_else(paths: DraftPaths) -> None:
    others = sorted(set(os.listdir(paths.hidden)) - {os.path.basename(paths.file)})
    if others:
        raise TargetError(
            f"{paths.hidden} also holds {', '.join(others)}, which would be lost; move that elsewhere, and publish the "
            f"draft again (resume=True)"
        )


def _give_name(held: HeldDraft) -> None:
    paths, manifest = held.paths, held.manifest
    if manifest.mode == "x" or manifest.original is None:
        _rename_to_free_name(held)
        return
    if Original.of(paths.path) != manifest.original:
        raise TargetChangedError(
            f"{paths.path} was changed by another program since the draft was begun; the new file is whole in "
            f"{paths.file}: move it where you want it, and discard the draft"
        )
    copy_metadata(paths.path, paths.file)
    held.hidden.move(os.path.basename(paths.file), paths.path)


def _rename_to_free_name(held: HeldDraft) -> None:
    paths, name = held.paths, os.path.basename(held.paths.file)
    words = (
        f"{paths.path} was created by another program meanwhile; the new file is whole in {paths.file}: move it where "
        f"you want it, and discard the draft"
    )
    try:
        held.hidden.link(name, paths.path)
    except FileExistsError:
        raise TargetExistsError(words) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(paths.path):
            raise TargetExistsError(words) from None
        held.hidden.move(name, paths.path)
    else:
        # A file with two names could not be replaced by the next draft.
        with contextlib.suppress(OSError):
            held.hidden.unlink(name)
