"""The manifest: a small JSON file that describes the folder of side files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from dask_chunkio.errors import IntegrityError, UnfinishedWriteError
from dask_chunkio.geometry.share import MOST_PARTS
from dask_chunkio.storage.filesystem.io import read_small_file, write_whole_file
from dask_chunkio.storage.journal.records import json_object

__all__ = ["Manifest", "read_description", "read_manifest"]

Description = TypeVar("Description")

VERSION = 6
_MOST = 1 << 20
_MODES = ("new", "existing")
_WORDS = ("target", "mode", "started", "folder", "durability", "write_id")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a folder of side files.

    Parameters
    ----------
    target : str
        The file to write, as information for people; nothing is ever written to this path.
    mode : str
        ``"new"`` if the folder holds the file until it is complete, ``"existing"`` if
        datasets are added to an existing file.
    started : str
        When the write began.
    command : tuple of str
        Arguments of the command line that began it; empty for a script.
    folder : str
        Working directory of that command.
    durability : str
        ``"process"`` or ``"power"``: what a committed buffer of that call survives.
    write_id : str
        Identifier of the call that created the folder.
    parts : int
        Number of the parts among which independent jobs divide the write; 0 for a write of one call.
    """

    target: str
    mode: str
    started: str
    command: tuple[str, ...] = ()
    folder: str = ""
    durability: str = "process"
    write_id: str = ""
    parts: int = 0

    def save(self, path: str) -> None:
        """Write the file, complete or not at all."""
        body = {
            "format": "dask_chunkio side files",
            "version": VERSION,
            "target": self.target,
            "mode": self.mode,
            "started": self.started,
            "command": list(self.command),
            "folder": self.folder,
            "durability": self.durability,
            "write_id": self.write_id,
            "parts": self.parts,
        }
        write_whole_file(path, json.dumps(body, indent=1).encode())


def read_manifest(path: str) -> Manifest | None:
    """Read a manifest; return None if the file does not exist.

    Raises
    ------
    UnfinishedWriteError
        If another version of this package wrote it.
    IntegrityError
        If it is damaged, or cannot be read.
    """
    return read_description(path, _MOST, _manifest)


def read_description(path: str, most: int, described: Callable[[Any, str], Description]) -> Description | None:
    """Read a JSON file that describes a folder; return None if the file does not exist.

    Parameters
    ----------
    path : str
        The file.
    most : int
        Its largest size in bytes.
    described : callable
        Takes the object in the file and `path`; returns the description, or raises UnfinishedWriteError for another
        version, ValueError, TypeError or KeyError for a damaged file.

    Raises
    ------
    UnfinishedWriteError
        If another version of this package wrote it.
    IntegrityError
        If it is damaged, or cannot be read.
    """
    try:
        data = read_small_file(path, most)
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror or error}") from error
    if data is None:
        return None
    try:
        return described(json_object(data), path)
    except UnfinishedWriteError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(
            f"{path} is damaged ({error}); remove the folder {os.path.dirname(path)} by hand if nothing in it is needed"
        ) from error


def _manifest(found: Any, path: str) -> Manifest:
    if found["version"] != VERSION:
        raise UnfinishedWriteError(
            f"{path} was written in version {found['version']!r} of its format, and this dask_chunkio reads version "
            f"{VERSION}; go on with the dask_chunkio that began the write"
        )
    texts = [*(found[name] for name in _WORDS), *found["command"]]
    if not all(type(text) is str for text in texts) or found["mode"] not in _MODES:
        raise ValueError("a field has the wrong type")
    if type(found["parts"]) is not int or not 0 <= found["parts"] <= MOST_PARTS:
        raise ValueError(f"it names {found['parts']!r} parts")
    words = {name: found[name] for name in _WORDS}
    return Manifest(**words, command=tuple(found["command"]), parts=found["parts"])


def require_real_folder(path: str) -> None:
    """Refuse a folder that is a link: files that are written into it would land elsewhere.

    Raises
    ------
    UnfinishedWriteError
        If it is a link.
    """
    if os.path.islink(path):
        raise UnfinishedWriteError(f"{path} is a symbolic link, which no write creates; inspect and remove it yourself")
