"""The file to write, the folder beside it, and the state of that folder."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from typing import Literal

from dask_chunkio.errors import TargetError, TargetExistsError, UnfinishedWriteError
from dask_chunkio.geometry.share import Share
from dask_chunkio.storage.activity.limits import DEFAULT_SECONDS
from dask_chunkio.storage.draft_paths import DraftPaths
from dask_chunkio.storage.filesystem.kind import file_system_of
from dask_chunkio.storage.filesystem.side_folder import is_left
from dask_chunkio.storage.hdf5.file_layout import FileLayout
from dask_chunkio.storage.journal.journal import read_journal
from dask_chunkio.storage.journal.manifest import read_manifest, require_real_folder
from dask_chunkio.storage.side_paths import SidePaths

__all__ = ["Durability", "Mode", "Target", "cannot_join", "cannot_resume", "remedies"]

Mode = Literal["", "new", "existing", "published"]
Durability = Literal["process", "power"]


@dataclass(frozen=True, slots=True)
class Target(SidePaths):
    """The file to write, and the folder for the files that are kept beside it.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    write_id : str
        Identifies this call among all calls for the same path.
    overwrite : bool
        Whether existing datasets may be replaced.
    libver : str, tuple of str or None
        As `h5py.File` takes it.
    resume : bool
        Whether to go on with an interrupted write.
    wait : bool
        Whether to wait for another write to the same path to end.
    durability : str
        ``"process"`` or ``"power"``: what a committed buffer survives.
    command : tuple of str
        Arguments of the command line, for the manifest.
    token : str or None
        Identifies this call among all calls that were ever applied to its datasets.
    mode : str
        ``"new"`` if the file is created in the folder and gets its name at the end;
        ``"existing"`` if datasets are added to a file, hidden until the end; ``"published"``
        if only the folder is left to be removed; empty as long as it is unknown.
    lease_seconds : float
        How long a process that shows no sign of life counts as writing.
    spans_hosts : bool
        Whether processes of several hosts may write it, each with a page cache of its own.
    share : Share or None
        The part of the write that this call does; all other parts are done by independent jobs.
    joined_id : str
        ``write_id`` of the job that began the write that this call has joined.
    fill : int or None
        Number of the fill of a draft, from 0; None for any other write.
    layout : FileLayout or None
        How a new file is laid out; None for HDF5's default.
    references : str
        Absolute path of the references that are made of the complete file, or of the draft that this call fills;
        empty for none.
    references_url : str
        Where they say that the file is; empty for its path.
    """

    write_id: str
    overwrite: bool = False
    libver: str | tuple[str, str] | None = None
    resume: bool = False
    wait: bool = False
    durability: Durability = "process"
    command: tuple[str, ...] = ()
    mode: Mode = ""
    token: str | None = None
    lease_seconds: float = DEFAULT_SECONDS
    spans_hosts: bool = False
    share: Share | None = None
    joined_id: str = ""
    fill: int | None = None
    layout: FileLayout | None = None
    references: str = ""
    references_url: str = ""

    @property
    def fills(self) -> bool:
        """Whether the file has no readers yet, and its existing datasets are filled; the others are created."""
        return self.fill is not None

    @property
    def makes_references(self) -> bool:
        """Whether this call makes the references; those of a draft are made when it is published."""
        return bool(self.references) and not self.fills

    @property
    def discardable(self) -> str:
        """The path that `discard` takes: of a fill, that of its draft."""
        return DraftPaths.of_file(self.path).path if self.fills else self.path

    @property
    def owner_id(self) -> str:
        """Identifies the owner of the write: this call, or all jobs that share the write."""
        return self.joined_id or self.write_id

    @property
    def has_joined(self) -> bool:
        """Whether another job has begun the write, and has made all of its files."""
        return self.owner_id != self.write_id

    @property
    def file(self) -> str:
        """The HDF5 file that is written to."""
        return self.hidden_file if self.mode in ("", "new") else self.path

    @property
    def is_begun(self) -> bool:
        """Whether anything was ever committed; otherwise there is nothing to resume."""
        return _nbytes(self.journal) + _nbytes(self.log) > 0

    @property
    def is_finished(self) -> bool:
        """Whether the journal states that only the folder is left to be removed."""
        with read_journal(self.journal) as journal:
            return journal.finished

    @property
    def is_given_up(self) -> bool:
        """Whether `discard`, or `recover` with an output, was cut off as it removed the folder, which holds no data."""
        with read_journal(self.journal) as journal:
            if journal.discarded:
                return True
        if not os.path.isfile(self.manifest):
            return False
        found = self.found()
        return found is not None and found.mode == "published" and not os.path.lexists(self.path)

    def located(self) -> Target:
        """Return the target with links followed, as this machine sees them.

        Raises
        ------
        TargetExistsError
            If the path is a link to a file that does not exist.
        """
        if os.path.islink(self.path) and not os.path.exists(self.path):
            raise TargetExistsError(f"{self.path} exists and is not a file: it is a link to nothing; remove it first")
        return replace(self, path=os.path.realpath(self.path))

    def for_several_hosts(self) -> Target:
        """Return the target for workers on several hosts, which may have to share its file system.

        It is decided once, as the write begins: all workers must use the same value.
        """
        return replace(self, spans_hosts=not file_system_of(os.path.dirname(self.path)).is_local)

    def refused(self, error: OSError, where: str = "") -> TargetError:
        """Return an error that explains what the file system refuses, and what to do."""
        remedy = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "; make space, and go on with resume=True: what is committed is kept"
        return TargetError(f"cannot write {self.path}: {error.strerror or error}{where and f' ({where})'}{remedy}")

    def _has_its_name(self) -> bool:
        """Return whether a write that was interrupted in `publish` has given the file its final name already."""
        return os.path.exists(self.path) and os.path.samefile(self.hidden_file, self.path)

    def found(self) -> Target | None:
        """Return the target in the mode in which the folder beside it was created; None without a folder.

        Raises
        ------
        UnfinishedWriteError
            If the folder has no manifest, is a symbolic link, or was created by another version of this package.
        IntegrityError
            If its manifest is damaged.
        """
        require_real_folder(self.folder)
        if not is_left(self.folder):
            return None
        manifest = read_manifest(self.manifest)
        if manifest is None and self.is_finished:
            return replace(self, mode="published")
        if manifest is None:
            raise UnfinishedWriteError(
                f"{self.folder} exists but has no manifest: it belongs to an unfinished write of {self.path} that was "
                f"cut off while it began, or that is beginning now. {remedies(self.path)}"
            )
        mode: Mode = "new" if manifest.mode == "new" else "existing"
        if mode == "new" and self.is_begun and (not os.path.exists(self.hidden_file) or self._has_its_name()):
            mode = "published"
        return replace(self, mode=mode)


def _nbytes(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def remedies(path: str) -> str:
    """Return in words what to do about an unfinished write."""
    return (
        f"If it was cut off, go on with it (resume=True, with the same arguments), or remove it with "
        f"dask_chunkio.discard({path!r}) or 'dask-chunkio discard {path}'"
    )


def cannot_join(target: Target, why: str) -> str:
    """Return the message why a job cannot join the write of others, and what to do about it."""
    return (
        f"the jobs that write {target.path} in parts were begun with other arguments than this one: {why}. Give all "
        f"jobs the same arguments but for part=, or discard the write with dask_chunkio.discard({target.discardable!r})"
    )


def cannot_resume(target: Target, why: str) -> str:
    """Return the message why a write cannot be resumed, and what to do about it."""
    return (
        f"the unfinished write of {target.path} cannot be resumed with these arguments: {why}. Use the arguments "
        f"with which it was begun, or discard it with dask_chunkio.discard({target.discardable!r})"
    )
