"""Begin a draft, or go on with one: one attempt."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid

from dask_chunkio.errors import (
    ArgumentError,
    TargetBusyError,
    TargetChangedError,
    TargetError,
    TargetExistsError,
    UnfinishedWriteError,
)
from dask_chunkio.storage.draft_paths import DraftPaths
from dask_chunkio.storage.drafts.draft_folder import DraftFolder, held_by_another
from dask_chunkio.storage.drafts.file import replay_fill
from dask_chunkio.storage.drafts.held_draft import HeldDraft, save_manifest, with_holder
from dask_chunkio.storage.filesystem.copies import copy_file
from dask_chunkio.storage.filesystem.io import is_at
from dask_chunkio.storage.filesystem.metadata import keeps_metadata
from dask_chunkio.storage.filesystem.side_folder import is_left
from dask_chunkio.storage.journal.draft_manifest import DraftManifest, DraftMode, Original, read_draft
from dask_chunkio.storage.journal.manifest import require_real_folder
from dask_chunkio.storage.preconditions import left_words, opened_to_look, require_writable, require_writable_folder
from dask_chunkio.storage.side_paths import SidePaths
from dask_chunkio.storage.target import Target

__all__ = ["hold_draft"]

# Seconds for which a job asks for the draft alone, before it looks again whether another one has made the structure.
_PATIENCE_OF_JOBS = 0.2


def hold_draft(path: str, mode: DraftMode, resume: bool, lease_seconds: float, parts: int = 0) -> HeldDraft:
    """Begin a draft, or go on with one, in one attempt.

    Parameters
    ----------
    path : str
        Absolute path of the final name.
    mode : str
        As `DraftManifest.mode`.
    resume : bool
        Whether to go on with a draft whose structure is complete.
    lease_seconds : float
        As `Target.lease_seconds`.
    parts : int
        As `DraftManifest.parts`.  If it is not 0, jobs hold the draft together once its structure is complete.

    Raises
    ------
    TargetBusyError
        If another process holds the draft, or another program has the file open.
    TargetChangedError
        If a draft was cut off after it had got its name: another attempt finds none.
    TargetExistsError
        If the name is taken, and `mode` is ``"x"``.
    UnfinishedWriteError
        If there is a draft that was interrupted, and `resume` is not set.
    ArgumentError
        If that draft was begun with another mode.
    TargetError
        If there can be no draft.
    IntegrityError
        If what an interrupted fill has left is damaged.
    """
    paths = DraftPaths(path, uuid.uuid4().hex)
    _require_possible(paths)
    if not is_left(paths.folder):
        _require_name(path, mode)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(DraftFolder(paths))
        joined = _joined(folder, mode, parts) if parts else None
        if joined is None:
            folder.take(_PATIENCE_OF_JOBS if parts else None if resume else 0.0)
            joined = _taken(folder, mode, resume, parts)
            _share(folder)
            if joined.state == "filling":
                replay_fill(paths)
        held = HeldDraft(paths, folder, joined, lease_seconds)
        held.is_published = _has_its_name(paths, joined)
        stack.pop_all()
    return held


def _require_possible(paths: DraftPaths) -> None:
    target = Target(paths.path, "")
    require_writable_folder(target)
    require_real_folder(paths.folder)
    if is_left(target.folder):
        raise UnfinishedWriteError(left_words(target))
    longest = os.pathconf(os.path.dirname(paths.path), "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    if len(os.fsencode(os.path.basename(SidePaths(paths.file).folder))) > longest:
        raise TargetError(f"the name of {paths.path} is too long for the names of side files; choose a shorter one")


def _require_name(path: str, mode: DraftMode) -> None:
    """Refuse a final name that the draft could not get in the end."""
    if os.path.isdir(path):
        raise TargetError(f"cannot write {path}: it is a directory; give the name of a file")
    if not os.path.lexists(path):
        return
    if mode == "x":
        raise TargetExistsError(
            f"{path} exists; give mode='w' to replace it when the draft is complete, mode='a' to work on a copy of it, "
            f"or another name"
        )
    if not os.path.isfile(path):
        raise TargetExistsError(f"{path} exists and is not a regular file; choose another name")
    require_writable(Target(path, ""))
    if not keeps_metadata(path):
        raise TargetError(
            f"{path} cannot be replaced: it has other names (hard links), or an owner or attributes that a new file "
            f"would not have; write into it in place with dask_chunkio.to_hdf5, or choose another name"
        )


def _joined(folder: DraftFolder, mode: DraftMode, parts: int) -> DraftManifest | None:
    """Share the lock with the other jobs of a draft whose structure is complete; None if there are none.

    A job that has published the draft meanwhile had the lock exclusively.
    """
    paths, lock = folder.paths, folder.activity_lock
    if not lock.try_share():
        return None
    manifest = read_draft(paths.manifest)
    is_open = manifest is not None and manifest.state == "filling" and os.path.exists(paths.file)
    if manifest is None or not is_open or not is_at(lock.descriptor, paths.lock):
        lock.release()
        return None
    _require_resumable(paths, manifest, mode, resume=True)
    _require_parts(paths, manifest, parts)
    return manifest


def _taken(folder: DraftFolder, mode: DraftMode, resume: bool, parts: int) -> DraftManifest:
    """Begin a draft whose lock this process holds exclusively, or go on with it."""
    paths = folder.paths
    manifest = read_draft(paths.manifest)
    if manifest is not None and _has_its_name(paths, manifest):
        if not resume:
            folder.remove(lambda: None)
            raise TargetChangedError(f"{paths.path} was published from a draft, whose folder is removed now")
    elif manifest is None or manifest.state == "structure" or not os.path.exists(paths.file):
        return _begun_or_removed(folder, mode, parts)
    else:
        _require_resumable(paths, manifest, mode, resume)
    _require_parts(paths, manifest, parts)
    return with_holder(paths, manifest)


def _has_its_name(paths: DraftPaths, manifest: DraftManifest) -> bool:
    """Return whether a draft was interrupted between getting its name and the removal of its folder."""
    if manifest.state != "publishing" or not os.path.exists(paths.path):
        return False
    return not os.path.exists(paths.file) or os.path.samefile(paths.file, paths.path)


def _begun_or_removed(folder: DraftFolder, mode: DraftMode, parts: int) -> DraftManifest:
    try:
        _require_name(folder.paths.path, mode)
        return _begun(folder.paths, mode, parts)
    except BaseException:
        # A folder that holds nothing would be in the way of other writes.
        folder.remove(lambda: None)
        raise


def _begun(paths: DraftPaths, mode: DraftMode, parts: int) -> DraftManifest:
    """Begin a draft anew: without any file, or with a copy of the existing one."""
    original = Original.of(paths.path)
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(paths.hidden)
        os.mkdir(paths.hidden)
    except OSError as error:
        raise Target(paths.path, "").refused(error, paths.folder) from error
    if mode == "a" and original is not None:
        _copy(paths)
    if Original.of(paths.path) != original:
        raise TargetBusyError(f"{paths.path} was changed while it was copied; close it in other programs")
    manifest = DraftManifest(paths.write_id, mode, original=original, parts=parts)
    save_manifest(paths, manifest)
    return manifest


def _copy(paths: DraftPaths) -> None:
    target = Target(paths.path, "")
    with opened_to_look(target):
        pass
    try:
        copy_file(paths.path, paths.file)
    except OSError as error:
        raise target.refused(error, paths.file) from error
    with opened_to_look(target):
        pass


def _share(folder: DraftFolder) -> None:
    """Share the activity lock; for an instant, another process may take it exclusively, and the draft with it."""
    folder.activity_lock.share()
    manifest = read_draft(folder.paths.manifest)
    if not folder.is_here or manifest is None or manifest.holder != folder.paths.write_id:
        raise TargetBusyError(held_by_another(folder.paths))


def _require_resumable(paths: DraftPaths, manifest: DraftManifest, mode: DraftMode, resume: bool) -> None:
    if not resume:
        of_what = "" if manifest.purpose is None else f", a {manifest.purpose}"
        raise UnfinishedWriteError(
            f"{paths.folder} holds an unfinished draft of {paths.path}{of_what}. Go on with it (resume=True, the same "
            f"arguments), or remove it with dask_chunkio.discard({paths.path!r}) or 'dask-chunkio discard {paths.path}'"
        )
    if manifest.mode != mode:
        raise ArgumentError(
            f"the draft of {paths.path} was begun with mode={manifest.mode!r}, not {mode!r}; give the same mode, or "
            f"discard the draft with dask_chunkio.discard({paths.path!r})"
        )


def _require_parts(paths: DraftPaths, manifest: DraftManifest, parts: int) -> None:
    """Refuse a job that divides the draft otherwise; a call without parts may do all that is missing."""
    if parts and manifest.parts != parts:
        others = f"divide it into {manifest.parts} parts" if manifest.parts else "do not divide it into parts"
        raise ArgumentError(
            f"those who make the draft of {paths.path} {others}, and this job into {parts}; give all jobs the same "
            f"number, or discard the draft with dask_chunkio.discard({paths.path!r})"
        )
