"""A draft that this process holds: nobody else works on it."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
import weakref
from dataclasses import replace

from dask_chunkio.errors import (
    ArgumentError,
    TargetBusyError,
    TargetChangedError,
    TargetError,
    TargetExistsError,
    UnfinishedWriteError,
)
from dask_chunkio.storage.activity.activity_lock import ActivityLock
from dask_chunkio.storage.activity.keepalive import Held, Keepalive, let_go
from dask_chunkio.storage.draft_paths import DraftPaths
from dask_chunkio.storage.filesystem.copies import copy_file
from dask_chunkio.storage.filesystem.io import is_at, sync_folder
from dask_chunkio.storage.filesystem.side_folder import Folder, is_left
from dask_chunkio.storage.journal.draft_manifest import DraftManifest, DraftMode, Original, read_draft
from dask_chunkio.storage.journal.manifest import require_real_folder
from dask_chunkio.storage.preconditions import left_words, opened_to_look, require_writable_folder
from dask_chunkio.storage.take_over import remove_dead_leases, take_over
from dask_chunkio.storage.target import Target

__all__ = ["HeldDraft", "hold_draft"]

# The drafts that this process holds, by their identifiers.
_held: set[str] = set()


class HeldDraft:
    """A draft that this process holds.

    Parameters
    ----------
    paths : DraftPaths
        The draft.
    folder : Folder
        Its folder.
    activity_lock : ActivityLock
        Its lock, which this process shares.
    manifest : DraftManifest
        Its state.
    lease_seconds : float
        How long a process that shows no sign of life counts as holding it.
    """

    def __init__(
        self,
        paths: DraftPaths,
        folder: Folder,
        activity_lock: ActivityLock,
        manifest: DraftManifest,
        lease_seconds: float,
    ) -> None:
        self.paths, self.folder, self.manifest = paths, folder, manifest
        self._activity_lock = activity_lock
        _held.add(paths.write_id)
        held = Held(paths.folder, paths.lock, paths.write_id, paths.write_id, _held.__contains__, "", lease_seconds)
        self._keepalive = Keepalive(held)
        self._keepalive.announce()
        self._finalizer = weakref.finalize(self, _release, paths.write_id, activity_lock, folder)

    def save(self, manifest: DraftManifest) -> None:
        """Store a new state of the draft, durably.

        Raises
        ------
        TargetError
            If another process has taken the draft over, or removed it; or the state cannot be stored.
        """
        self.require_here()
        _save(self.paths, manifest)
        self.manifest = manifest

    def require_here(self) -> None:
        """Make sure that the folder is still the one that this process holds.

        Raises
        ------
        TargetError
            If another process has removed it.
        """
        if not self.folder.is_there or not is_at(self._activity_lock.descriptor, self.paths.lock):
            raise TargetError(f"{self.paths.folder} was removed meanwhile; make the draft again")

    def take_alone(self) -> bool:
        """Exclude the other jobs of the draft; return False if some still work, of which the last one can do that.

        If it returns False, this process no longer holds the draft.
        """
        let_go(self.paths.write_id)
        is_alone = take_over(self.paths, self._activity_lock, 1)
        if not is_alone or not self.folder.is_there:
            self.let_go()
            return False
        return True

    def let_go(self) -> None:
        """Release the draft; its folder stays.  An object that is no longer referenced does so, too."""
        self._finalizer()

    def remove(self) -> None:
        """Remove the folder of the draft, and release it.

        Raises
        ------
        TargetError
            If the folder cannot be removed.
        """
        try:
            remove_folder(self.paths, self.folder, self._activity_lock)
        finally:
            self.let_go()


def _release(write_id: str, activity_lock: ActivityLock, folder: Folder) -> None:
    _held.discard(write_id)
    let_go(write_id)
    activity_lock.close()
    folder.close()


def remove_folder(paths: DraftPaths, folder: Folder, activity_lock: ActivityLock) -> None:
    """Remove the folder of a draft that nobody else holds.

    Raises
    ------
    TargetError
        If it cannot be removed.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(paths.hidden)
        if paths.write_id:
            let_go(paths.write_id)
        folder.remove(activity_lock.close)
    except OSError as error:
        raise TargetError(f"cannot remove {paths.folder}: {error.strerror or error}; remove it by hand") from error


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
    """
    paths = DraftPaths(path, uuid.uuid4().hex)
    require_writable_folder(Target(path, ""))
    require_real_folder(paths.folder)
    if is_left(Target(path, "").folder):
        raise UnfinishedWriteError(left_words(Target(path, "")))
    if not is_left(paths.folder):
        _require_name(path, mode)
    with contextlib.ExitStack() as stack:
        folder, activity_lock = _opened(paths, stack)
        if parts and (joined := _joined(paths, activity_lock, mode, parts)) is not None:
            stack.pop_all()
            return HeldDraft(paths, folder, activity_lock, joined, lease_seconds)
        _take(paths, folder, activity_lock, resume)
        manifest = read_draft(paths.manifest)
        if manifest is not None and _has_its_name(paths, manifest):
            remove_folder(paths, folder, activity_lock)
            raise TargetChangedError(f"{path} was published from a draft, whose folder is removed now")
        if manifest is None or manifest.state == "structure":
            _require_name(path, mode)
            manifest = _begun(paths, mode, parts)
        else:
            _require_resumable(paths, manifest, mode, resume)
            _require_parts(paths, manifest, parts)
            manifest = replace(manifest, holder=paths.write_id)
            _save(paths, manifest)
        _share(paths, activity_lock)
        held = HeldDraft(paths, folder, activity_lock, manifest, lease_seconds)
        stack.pop_all()
    return held


def _opened(paths: DraftPaths, stack: contextlib.ExitStack) -> tuple[Folder, ActivityLock]:
    """Create or find the folder and its lock."""
    with contextlib.suppress(FileExistsError):
        try:
            os.mkdir(paths.folder)
        except FileExistsError:
            raise
        except OSError as error:
            raise Target(paths.path, "").refused(error, paths.folder) from error
    try:
        folder = stack.enter_context(Folder(paths.folder))
        activity_lock = ActivityLock(paths.lock)
        stack.callback(activity_lock.close)
    except OSError as error:
        if not os.path.isdir(paths.folder):
            raise TargetBusyError(_is_held(paths)) from error
        raise Target(paths.path, "").refused(error, paths.lock) from error
    return folder, activity_lock


def _joined(paths: DraftPaths, activity_lock: ActivityLock, mode: DraftMode, parts: int) -> DraftManifest | None:
    """Share the lock with the other jobs of a draft whose structure is complete; None if there are none.

    A job that has published the draft meanwhile had the lock exclusively.
    """
    if not activity_lock.try_share():
        return None
    manifest = read_draft(paths.manifest)
    if manifest is None or manifest.state != "filling" or not is_at(activity_lock.descriptor, paths.lock):
        activity_lock.release()
        return None
    _require_resumable(paths, manifest, mode, resume=True)
    _require_parts(paths, manifest, parts)
    return manifest


def _take(paths: DraftPaths, folder: Folder, activity_lock: ActivityLock, resume: bool) -> None:
    """Hold the lock exclusively."""
    # One look is enough: whoever holds a draft shares the lock all the time.
    if not take_over(paths, activity_lock, 1, **({} if resume else {"patience": 0.0})):
        raise TargetBusyError(_is_held(paths))
    if not folder.is_there or not is_at(activity_lock.descriptor, paths.lock):
        raise TargetBusyError(_is_held(paths))
    remove_dead_leases(paths)


def _is_held(paths: DraftPaths) -> str:
    return (
        f"{paths.folder}, a draft of {paths.path}, is held by another process or object; wait until it is closed "
        f"(wait=True), or choose another name"
    )


def _require_name(path: str, mode: DraftMode) -> None:
    """Refuse a final name that the draft could not get in the end."""
    if os.path.isdir(path):
        raise TargetError(f"cannot write {path}: it is a directory; give the name of a file")
    if mode == "x" and os.path.lexists(path):
        raise TargetExistsError(
            f"{path} exists; give mode='w' to replace it when the draft is complete, mode='a' to work on a copy of it, "
            f"or another name"
        )


def _has_its_name(paths: DraftPaths, manifest: DraftManifest) -> bool:
    """Return whether a draft was interrupted between getting its name and the removal of its folder."""
    if manifest.state != "publishing" or not os.path.exists(paths.path):
        return False
    return not os.path.exists(paths.file) or os.path.samefile(paths.file, paths.path)


def _begun(paths: DraftPaths, mode: DraftMode, parts: int) -> DraftManifest:
    """Begin a draft anew: without any file, or with a copy of the existing one."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(paths.hidden)
    manifest = DraftManifest(paths.write_id, mode, original=Original.of(paths.path), parts=parts)
    try:
        os.mkdir(paths.hidden)
        if mode == "a" and manifest.original is not None:
            with opened_to_look(Target(paths.path, "")):
                copy_file(paths.path, paths.file)
        if Original.of(paths.path) != manifest.original:
            raise TargetBusyError(f"{paths.path} was changed while it was copied; close it in other programs")
    except OSError as error:
        if isinstance(error, TargetError):
            raise
        raise Target(paths.path, "").refused(error, paths.folder) from error
    _save(paths, manifest)
    return manifest


def _save(paths: DraftPaths, manifest: DraftManifest) -> None:
    try:
        manifest.save(paths.manifest)
        sync_folder(paths.folder)
    except OSError as error:
        raise Target(paths.path, "").refused(error, paths.manifest) from error


def _share(paths: DraftPaths, activity_lock: ActivityLock) -> None:
    """Share the activity lock; for an instant, another process may take it exclusively, and the draft with it."""
    activity_lock.share()
    manifest = read_draft(paths.manifest)
    if manifest is None or manifest.holder != paths.write_id:
        raise TargetBusyError(_is_held(paths))


def _require_resumable(paths: DraftPaths, manifest: DraftManifest, mode: DraftMode, resume: bool) -> None:
    if not resume:
        raise UnfinishedWriteError(
            f"{paths.folder} holds an unfinished draft of {paths.path}. Go on with it (resume=True, with the same "
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
