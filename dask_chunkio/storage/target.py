"""The file to write, the folder beside it, and what may stand in its way."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from dataclasses import dataclass, replace
from typing import Literal

import h5py

from dask_chunkio.errors import TargetBusyError, TargetError, TargetExistsError, UnfinishedWriteError
from dask_chunkio.storage.files import sync_folder
from dask_chunkio.storage.flock import has_writer
from dask_chunkio.storage.folder import Folder
from dask_chunkio.storage.journal import read_journal
from dask_chunkio.storage.manifest import Manifest, read_manifest, require_real_folder
from dask_chunkio.storage.superblock import require_closed

__all__ = ["DAMAGED_LOG", "SIDE_FILES", "Durability", "Mode", "Target", "publish", "require_free"]

Mode = Literal["", "new", "existing", "published"]
Durability = Literal["process", "power"]
_SUFFIX = ".writing"
_HIDDEN_FILE = "data.h5"
SIDE_FILES = (_HIDDEN_FILE, "journal", "log", "applying", "unsynced", "lock", "stop", "manifest.json")
# Of copies of logs that were not whole: begins their names.
DAMAGED_LOG = "log.damaged-"


@dataclass(frozen=True, slots=True)
class Target:
    """The file to write and the folder that holds what is kept beside it.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    write_id : str
        Tells this call from any other for the same path.
    overwrite : bool
        Whether datasets that are there may be replaced.
    libver : str, tuple of str or None
        As `h5py.File` takes it.
    resume : bool
        Whether to go on with a write that was cut off.
    wait : bool
        Whether to wait for another write to the same path to end.
    durability : str
        ``"process"`` or ``"power"``: what a committed buffer survives.
    command : tuple of str
        Arguments of the command line, for the manifest.
    mode : str
        ``"new"`` where the file is made in the folder and gets its name at the end;
        ``"existing"`` where datasets are added to a file, hidden until the end; ``"published"``
        where all that is left is to remove the folder; empty until it is found out.
    """

    path: str
    write_id: str
    overwrite: bool = False
    libver: str | tuple[str, str] | None = None
    resume: bool = False
    wait: bool = False
    durability: Durability = "process"
    command: tuple[str, ...] = ()
    mode: Mode = ""

    @property
    def folder(self) -> str:
        """Holds everything that this write keeps beside the target."""
        return self.path + _SUFFIX

    @property
    def file(self) -> str:
        """The HDF5 file that is written to."""
        return self.hidden_file if self.mode in ("", "new") else self.path

    @property
    def hidden_file(self) -> str:
        """A new file until it is whole."""
        return os.path.join(self.folder, _HIDDEN_FILE)

    @property
    def journal(self) -> str:
        """The journal of reservations."""
        return os.path.join(self.folder, "journal")

    @property
    def is_begun(self) -> bool:
        """Whether anything was ever committed: without that there is nothing to go on with."""
        return _nbytes(self.journal) + _nbytes(self.log) > 0

    @property
    def is_finished(self) -> bool:
        """Whether the journal says that nothing is left but to remove the folder."""
        with read_journal(self.journal) as journal:
            return journal.finished

    @property
    def log(self) -> str:
        """The log of the turn in flight."""
        return os.path.join(self.folder, "log")

    @property
    def applying(self) -> str:
        """Which turn of the log is being applied."""
        return os.path.join(self.folder, "applying")

    @property
    def unsynced(self) -> str:
        """There where an ``fsync`` has failed."""
        return os.path.join(self.folder, "unsynced")

    @property
    def lock(self) -> str:
        """The claim of those who write."""
        return os.path.join(self.folder, "lock")

    @property
    def stop(self) -> str:
        """Names the call that was interrupted, so that none of its tasks begins."""
        return os.path.join(self.folder, "stop")

    @property
    def manifest(self) -> str:
        """Says what the folder is about."""
        return os.path.join(self.folder, "manifest.json")

    def located(self) -> Target:
        """Return the target with links followed, as this machine sees them.

        Raises
        ------
        TargetExistsError
            If the path is a link to nothing.
        """
        if os.path.islink(self.path) and not os.path.exists(self.path):
            raise TargetExistsError(f"{self.path} exists and is not a file: it is a link to nothing; remove it first")
        return replace(self, path=os.path.realpath(self.path))

    def make_folder(self) -> Folder | None:
        """Make the folder; None if it was there before.

        Raises
        ------
        TargetError
            If it cannot be made.
        """
        try:
            os.mkdir(self.folder)
        except FileExistsError:
            return None
        except OSError as error:
            raise self.refused(error, self.folder) from error
        try:
            return self._said_what_it_is(Folder(self.folder))
        except FileNotFoundError:
            # Still empty, it was taken for one that is left over.
            return self.make_folder()
        except OSError as error:
            if isinstance(error, TargetError):
                raise
            raise self.refused(error, self.manifest) from error

    def _said_what_it_is(self, folder: Folder) -> Folder:
        now = time.strftime("%Y-%m-%d %H:%M:%S %z")
        try:
            Manifest(self.path, self.mode, now, self.command, os.getcwd(), self.durability).save(self.manifest)
            if self.durability == "power":
                sync_folder(self.folder)
                sync_folder(os.path.dirname(self.path))
        except OSError:
            with contextlib.suppress(OSError), folder:
                folder.remove()
            raise
        return folder

    def refused(self, error: OSError, where: str = "") -> TargetError:
        """Return the error that says in words what the file system refuses, and what to do."""
        remedy = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "; make space, and go on with resume=True: what is committed is kept"
        return TargetError(f"cannot write {self.path}: {error.strerror or error}{where and f' ({where})'}{remedy}")

    def _has_its_name(self) -> bool:
        """Say whether a write that was cut off in `publish` has given the file its name already."""
        return os.path.exists(self.path) and os.path.samefile(self.hidden_file, self.path)

    def found(self) -> Target | None:
        """Return the target in the mode in which the folder beside it was begun; None without a folder.

        Raises
        ------
        UnfinishedWriteError
            If the folder does not say what it is about, or another version made it.
        IntegrityError
            If its manifest is damaged.
        """
        require_real_folder(self.folder)
        if not os.path.isdir(self.folder):
            return None
        manifest = read_manifest(self.manifest)
        if manifest is None and self.is_finished:
            return replace(self, mode="published")
        if manifest is None:
            raise UnfinishedWriteError(
                f"{self.folder} is there and does not say what it is about: an unfinished write of {self.path} that "
                f"was cut off as it began, or that is beginning now. {remedies(self.path)}"
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


def cannot_resume(target: Target, why: str) -> str:
    """Return in words why, and what to do about it."""
    return (
        f"the unfinished write of {target.path} cannot be resumed with these arguments: {why}. Use the arguments "
        f"with which it was begun, or discard it with dask_chunkio.discard({target.path!r})"
    )


def require_free(target: Target, names: tuple[str, ...]) -> Mode:
    """Make sure that nothing which would be lost stands where the datasets are to be.

    Parameters
    ----------
    target : Target
        What is going to be written.
    names : tuple of str
        Absolute names of its datasets.

    Returns
    -------
    str
        ``"new"`` or ``"existing"``, as `Target.mode`.

    Raises
    ------
    TargetExistsError
        If a dataset is there and may not be replaced.
    TargetBusyError
        If another program has the file open for writing.
    TargetError
        If the folder does not exist, or the name is a directory's or a foreign file's.
    """
    parent = os.path.dirname(target.path)
    if not os.path.isdir(parent):
        raise TargetError(f"cannot write {target.path}: there is no folder {parent}; create it first")
    if os.path.isdir(target.path):
        raise TargetError(f"cannot write {target.path}: it is a directory; give the name of a file")
    if not os.path.lexists(target.path):
        return "new"
    if not os.access(target.path, os.R_OK | os.W_OK):
        raise TargetError(f"cannot write {target.path}: Permission denied; make the file readable and writable first")
    if not h5py.is_hdf5(target.path):
        raise TargetExistsError(f"{target.path} exists and is not an HDF5 file; choose another name or move it away")
    return _mode_of(target, names)


def _mode_of(target: Target, names: tuple[str, ...]) -> Mode:
    if has_writer(target.path):
        raise TargetBusyError(
            f"{target.path} is open for writing, in this or another program; close it there, or choose another name"
        )
    require_closed(target.path)
    try:
        with h5py.File(target.path, "r") as file:
            for name in names:
                require_replaceable(file, name, target)
            return "new" if target.overwrite and _holds_only(file, set(names)) else "existing"
    except OSError as error:
        if isinstance(error, TargetError):
            raise
        raise TargetBusyError(
            f"{target.path} cannot be opened ({error}); close it in the program that has it open, "
            f"or choose another name"
        ) from error


def require_replaceable(file: h5py.File, name: str, target: Target) -> None:
    """Make sure that a dataset can stand under `name` without loss of anything but what it replaces.

    Raises
    ------
    TargetExistsError
        If not.
    """
    parts = name.strip("/").split("/")
    for end in range(1, len(parts) + 1):
        path = "/" + "/".join(parts[:end])
        link = file.get(path, getlink=True)
        if link is None:
            return
        if end < len(parts):
            if not isinstance(file.get(path), h5py.Group):
                raise TargetExistsError(f"{target.path} has {path}, which is no group, so {name} cannot be in it")
        elif not isinstance(link, h5py.HardLink) or not isinstance(file.get(path), h5py.Dataset):
            raise TargetExistsError(f"{target.path} already has {name}, which is no dataset and is not replaced")
        elif not target.overwrite:
            raise TargetExistsError(
                f"{target.path} already has {name}; pass overwrite=True to replace it, or choose another name"
            )


def _holds_only(file: h5py.File, names: set[str]) -> bool:
    """Say whether nothing would be lost if the datasets stood in a new file in place of this one."""
    others: list[str] = []

    def note(name: str | bytes) -> None:
        path = "/" + (name if isinstance(name, str) else name.decode("utf-8", "replace"))
        is_above = any(wanted.startswith(path + "/") for wanted in names)
        if path not in names and not (is_above and not len(file[path].attrs)):
            others.append(path)

    file.visit_links(note)
    return not others and not len(file.attrs) and not file.userblock_size


def publish(target: Target, names: tuple[str, ...], folder: Folder) -> None:
    """Give a new file its final name, and remove the folder.

    The bytes have reached the disk before the name does: after a power failure the name
    stands for the whole file or is not there.

    Raises
    ------
    TargetExistsError
        If something has come up under that name meanwhile that may not be replaced.
    """
    if target.mode == "new":
        if target.overwrite and os.path.lexists(target.path):
            _replace(target, names, folder)
        else:
            _rename_to_free_name(target, folder)
        sync_folder(os.path.dirname(target.path))
    folder.remove()


def _replace(target: Target, names: tuple[str, ...], folder: Folder) -> None:
    if require_free(target, names) != "new":
        raise TargetExistsError(
            f"{target.path} was changed by another program during the write; the new data are whole in "
            f"{target.file}: move that file where you want it"
        )
    shutil.copymode(target.path, target.file)
    folder.move(_HIDDEN_FILE, target.path)


def _rename_to_free_name(target: Target, folder: Folder) -> None:
    try:
        folder.link(_HIDDEN_FILE, target.path)
    except FileExistsError:
        raise TargetExistsError(
            f"{target.path} was created by another program during the write; the new data are whole in "
            f"{target.file}: move that file where you want it"
        ) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(target.path):
            raise TargetExistsError(f"{target.path} exists; the new data are whole in {target.file}") from None
        folder.move(_HIDDEN_FILE, target.path)
