"""A draft that this process holds: nobody else works on it, except for jobs that fill other parts."""

from __future__ import annotations

import os
import weakref
from dataclasses import replace
from typing import Any

from dask_chunkio.errors import PicklingError, TargetBusyError, TargetError
from dask_chunkio.storage.activity.keepalive import Held, Keepalive, let_go
from dask_chunkio.storage.draft_paths import DraftPaths
from dask_chunkio.storage.drafts.draft_folder import DraftFolder
from dask_chunkio.storage.filesystem.io import sync_folder
from dask_chunkio.storage.filesystem.side_folder import Folder
from dask_chunkio.storage.journal.draft_manifest import DraftManifest
from dask_chunkio.storage.target import Target

__all__ = ["HeldDraft", "save_manifest"]

# The drafts that this process holds, by their identifiers.
_held: set[str] = set()


class HeldDraft:
    """A draft that this process holds.

    Parameters
    ----------
    paths : DraftPaths
        The draft.
    folder : DraftFolder
        Its folder, whose lock this process shares.
    manifest : DraftManifest
        Its state.
    lease_seconds : float
        How long a process that shows no sign of life counts as holding it.

    Attributes
    ----------
    is_published : bool
        Whether the file has its final name.
    hidden : Folder
        The open folder of the file.
    """

    def __init__(self, paths: DraftPaths, folder: DraftFolder, manifest: DraftManifest, lease_seconds: float) -> None:
        self.paths, self.folder, self.manifest = paths, folder, manifest
        self.is_published = False
        self.hidden = Folder(paths.hidden)
        _held.add(paths.write_id)
        held = Held(paths.folder, paths.lock, paths.write_id, paths.write_id, _held.__contains__, "", lease_seconds)
        self._keepalive = Keepalive(held)
        self._keepalive.announce()
        self._finalizer = weakref.finalize(self, _release, os.getpid(), paths.write_id, folder, self.hidden)

    def __reduce__(self) -> Any:
        raise PicklingError(
            f"the draft of {self.paths.path} is held by one process: call fill() there, or give Draft.path to others"
        )

    @property
    def file(self) -> str:
        """Where the file is."""
        return self.paths.path if self.is_published else self.paths.file

    def save(self, manifest: DraftManifest) -> None:
        """Store a new state of the draft, durably.

        Raises
        ------
        TargetError
            If another process has taken the draft over, or removed it; or the state cannot be stored.
        """
        self.require_here()
        save_manifest(self.paths, manifest)
        self.manifest = manifest

    def require_here(self) -> None:
        """Make sure that the folder is still the one that this process holds.

        Raises
        ------
        TargetError
            If another process has removed it, or this process was forked from the one that holds it.
        """
        if not self.folder.is_here or not self.hidden.is_there:
            raise TargetError(
                f"{self.paths.folder} is not held by this process any more: it was removed meanwhile, or this is a "
                f"forked child; make the draft again"
            )

    def take_alone(self) -> bool:
        """Exclude the other jobs of the draft; return False if some still work, of which the last one can do that."""
        let_go(self.paths.write_id)
        try:
            self.folder.take()
        except TargetBusyError:
            return False
        return True

    def let_go(self) -> None:
        """Release the draft; its folder stays.  An object that is no longer referenced does so, too."""
        self._finalizer()

    def remove(self) -> None:
        """Remove the folder of the draft, and release it; a folder of others that has its name stays.

        Raises
        ------
        TargetError
            If the folder cannot be removed.
        """
        try:
            self.folder.remove(self._let_go_of_files)
        finally:
            self.let_go()

    def _let_go_of_files(self) -> None:
        let_go(self.paths.write_id)
        self.hidden.close()


def _release(process: int, write_id: str, folder: DraftFolder, hidden: Folder) -> None:
    # The locks and descriptors of a forked child are those of its parent.
    if os.getpid() == process:
        _held.discard(write_id)
        let_go(write_id)
        hidden.close()
        folder.close()


def save_manifest(paths: DraftPaths, manifest: DraftManifest) -> None:
    """Store the state of a draft, durably.

    Raises
    ------
    TargetError
        If it cannot be stored.
    """
    try:
        manifest.save(paths.manifest)
        sync_folder(paths.folder)
    except OSError as error:
        raise Target(paths.path, "").refused(error, paths.manifest) from error


def with_holder(paths: DraftPaths, manifest: DraftManifest) -> DraftManifest:
    """Record that this process holds a draft, and return its state."""
    mine = replace(manifest, holder=paths.write_id)
    save_manifest(paths, mine)
    return mine
