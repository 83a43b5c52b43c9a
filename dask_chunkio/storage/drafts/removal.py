"""Removal and recovery of a draft whose process is dead."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from dask_chunkio.errors import TargetBusyError, TargetError
from dask_chunkio.storage.activity.activity_lock import LOOKS, opened_activity_lock
from dask_chunkio.storage.activity.lease import LEASES
from dask_chunkio.storage.draft_paths import DRAFT_FILES, DraftPaths
from dask_chunkio.storage.drafts.draft_folder import DraftFolder
from dask_chunkio.storage.filesystem.side_folder import is_held_open, is_left
from dask_chunkio.storage.journal.draft_manifest import read_draft
from dask_chunkio.storage.take_over import take_over
from dask_chunkio.storage.target import Target

__all__ = ["move_draft", "remove_draft", "require_structure"]


def remove_draft(paths: DraftPaths) -> None:
    """Remove a draft, with everything that it holds.

    Raises
    ------
    TargetBusyError
        If a process holds it, or workers still fill it.
    TargetError
        If its folder holds files of others, or cannot be removed.
    """
    with _alone(paths) as folder:
        folder.remove(lambda: None)


def move_draft(paths: DraftPaths, output: str) -> None:
    """Move the file of a draft to another name, and remove the rest of the draft.

    Raises
    ------
    TargetBusyError
        If a process holds the draft, or workers still fill it.
    TargetError
        If the file cannot be moved.
    """
    if os.path.lexists(output):
        raise TargetError(f"{output} exists; give another name to recover to")
    with _alone(paths) as folder:
        try:
            os.rename(paths.file, output)
        except OSError as error:
            raise TargetError(f"cannot move {paths.file} to {output}: {error}") from error
        folder.remove(lambda: None)


def require_structure(paths: DraftPaths) -> None:
    """Refuse to recover a draft without a complete structure.

    Raises
    ------
    TargetError
        If its structure is not complete, or its file has the final name already.
    """
    manifest = read_draft(paths.manifest)
    if manifest is None or manifest.state == "structure" or not os.path.exists(paths.file):
        raise TargetError(
            f"the draft of {paths.path} has nothing to recover: its structure is still being made, or was cut off, or "
            f"its file has been published. If nobody works on it, discard it with dask_chunkio.discard({paths.path!r})"
        )


@contextlib.contextmanager
def _alone(paths: DraftPaths) -> Iterator[DraftFolder]:
    strange = {name for name in os.listdir(paths.folder) if not _is_ours(name)}
    if strange or os.path.islink(paths.folder):
        raise TargetError(f"{paths.folder} holds {sorted(strange)}, which no draft creates; inspect it yourself")
    fill = Target(paths.file, "")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(DraftFolder(paths, makes=False))
        folder.take()
        if is_left(fill.folder):
            activity_lock = stack.enter_context(opened_activity_lock(fill.lock))
            # Workers of the fill share its lock only while they run a task.
            if not take_over(fill, activity_lock, LOOKS):
                raise TargetBusyError(f"{fill.path} is being filled now; stop that, or wait until it has ended")
        yield folder


def _is_ours(name: str) -> bool:
    return name in DRAFT_FILES or is_held_open(name) or name.startswith(("draft.json.", LEASES))
