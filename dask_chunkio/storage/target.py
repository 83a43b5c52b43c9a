"""The file to write, the folder beside it, and what may stand in its way."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import socket
import time
from dataclasses import dataclass

import h5py

from dask_chunkio.errors import TargetBusyError, TargetError, TargetExistsError, UnfinishedWriteError
from dask_chunkio.storage.files import write_whole_file
from dask_chunkio.storage.flock import has_writer

__all__ = ["Target", "discard_unfinished", "publish", "require_free"]

_SUFFIX = ".writing"


@dataclass(frozen=True, slots=True)
class Target:
    """The file to write and the folder that holds it until it is whole.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    write_id : str
        Tells this write from any other to the same path.
    overwrite : bool
        Whether a file that holds nothing but the same datasets may be replaced.
    libver : str, tuple of str or None
        As `h5py.File` takes it.
    """

    path: str
    write_id: str
    overwrite: bool = False
    libver: str | tuple[str, str] | None = None

    @property
    def folder(self) -> str:
        """Holds everything that this write keeps beside the target."""
        return self.path + _SUFFIX

    @property
    def file(self) -> str:
        """The HDF5 file until it is whole."""
        return os.path.join(self.folder, "data.h5")

    @property
    def journal(self) -> str:
        """The journal of reservations."""
        return os.path.join(self.folder, "journal")

    @property
    def log(self) -> str:
        """The log of the turn in flight."""
        return os.path.join(self.folder, "log")

    @property
    def manifest(self) -> str:
        """Says who writes, since when."""
        return os.path.join(self.folder, "manifest.json")

    def open_folder(self) -> bool:
        """Make the folder, or find that this very write has made it before.

        Returns
        -------
        bool
            Whether it is new.

        Raises
        ------
        UnfinishedWriteError
            If another write owns it.
        TargetError
            If it cannot be made.
        """
        try:
            os.mkdir(self.folder)
        except FileExistsError:
            self._require_own()
            return False
        except OSError as error:
            raise TargetError(f"cannot write {self.path}: {error.strerror} ({self.folder})") from error
        write_whole_file(self.manifest, json.dumps(self._description()).encode())
        return True

    def _description(self) -> dict[str, str | int]:
        return {
            "version": 1,
            "write_id": self.write_id,
            "target": self.path,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "user": _user(),
            "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        }

    def _require_own(self) -> None:
        found = _read_manifest(self.manifest)
        if found.get("write_id") == self.write_id:
            return
        raise UnfinishedWriteError(
            f"{self.folder} holds an unfinished write of {self.path}{_who(found)}. If it is still running, wait for "
            f"it. If it was cut off, remove it with dask_chunkio.discard({self.path!r}) or 'dask-chunkio discard "
            f"{self.path}', and write again"
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"


def _read_manifest(path: str) -> dict[str, object]:
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(65536))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _who(found: dict[str, object]) -> str:
    if not found:
        return ""
    return (
        f", started {found.get('started')} by {found.get('user')} on {found.get('host')} (process {found.get('pid')})"
    )


def discard_unfinished(path: str | os.PathLike[str]) -> str | None:
    """Remove what a write that was cut off left beside `path`; the file itself is not touched.

    Parameters
    ----------
    path : str or path-like
        The file that was to be written.

    Returns
    -------
    str or None
        The folder that was removed, or None if there was none.

    Raises
    ------
    TargetError
        If the folder is not one of ours, or cannot be removed.

    Examples
    --------
    >>> discard_unfinished("no-such-file.h5") is None
    True
    """
    target = Target(os.path.abspath(os.fspath(path)), "")
    if not os.path.isdir(target.folder):
        return None
    strange = set(os.listdir(target.folder)) - {"data.h5", "journal", "log", "manifest.json"}
    strange = {name for name in strange if not name.startswith(("manifest.json.", "read-"))}
    if strange:
        raise TargetError(f"{target.folder} holds {sorted(strange)}, which no write leaves there; look at it yourself")
    try:
        shutil.rmtree(target.folder)
    except OSError as error:
        raise TargetError(f"cannot remove {target.folder}: {error.strerror}") from error
    return target.folder


def require_free(target: Target, names: tuple[str, ...]) -> None:
    """Make sure that nothing which would be lost stands under the target's name.

    Parameters
    ----------
    target : Target
        What is going to be written.
    names : tuple of str
        Absolute names of its datasets.

    Raises
    ------
    TargetExistsError
        If a file is there and may not be replaced.
    TargetBusyError
        If another program has it open.
    TargetError
        If the folder does not exist, or the name is a directory's or a foreign file's.
    """
    parent = os.path.dirname(target.path)
    if not os.path.isdir(parent):
        raise TargetError(f"cannot write {target.path}: there is no folder {parent}; create it first")
    if os.path.isdir(target.path):
        raise TargetError(f"cannot write {target.path}: it is a directory; give the name of a file")
    if not os.path.lexists(target.path):
        return
    if not h5py.is_hdf5(target.path):
        raise TargetExistsError(f"{target.path} exists and is not an HDF5 file; choose another name or move it away")
    _require_replaceable(target, set(names))


def _require_replaceable(target: Target, names: set[str]) -> None:
    if has_writer(target.path):
        raise TargetBusyError(
            f"{target.path} is open for writing, in this or another program; close it there, or choose another name"
        )
    try:
        with h5py.File(target.path, "r") as file:
            held = _objects(file)
            attributes = len(file.attrs)
    except OSError as error:
        raise TargetBusyError(
            f"{target.path} cannot be opened ({error}); close it in the program that has it open, "
            f"or choose another name"
        ) from error
    if (clash := sorted(held & names)) and not target.overwrite:
        raise TargetExistsError(
            f"{target.path} already has {', '.join(clash)}; pass overwrite=True to replace, or choose another name"
        )
    others = sorted(name for name in held - names if not any(n.startswith(name + "/") for n in names))
    if others or attributes or not target.overwrite:
        what = f"it holds {', '.join(others[:5])}" if others else "it exists"
        raise TargetExistsError(
            f"{target.path} cannot be written: {what}, and datasets cannot be added to an existing file yet; "
            f"write to a new file"
        )


def _objects(file: h5py.File) -> set[str]:
    names: list[str] = []
    file.visit_links(lambda name: names.append("/" + (name if isinstance(name, str) else name.decode())))
    return set(names)


def publish(target: Target) -> None:
    """Give the whole file its final name, and remove the folder.

    The bytes reach the disk before the name does: after a power failure the name stands for
    the whole file or is not there.

    Raises
    ------
    TargetExistsError
        If a file has come up under that name meanwhile, and may not be replaced.
    """
    if target.overwrite:
        os.replace(target.file, target.path)
    else:
        _rename_to_free_name(target)
    _sync_folder(os.path.dirname(target.path))
    shutil.rmtree(target.folder, ignore_errors=True)


def _rename_to_free_name(target: Target) -> None:
    try:
        os.link(target.file, target.path)
    except FileExistsError:
        raise TargetExistsError(
            f"{target.path} was created by another program during the write; the new data are whole in "
            f"{target.file}: move that file where you want it"
        ) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(target.path):
            raise TargetExistsError(f"{target.path} exists; the new data are whole in {target.file}") from None
        os.rename(target.file, target.path)


def _sync_folder(path: str) -> None:
    with contextlib.suppress(OSError):  # Windows opens no folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
