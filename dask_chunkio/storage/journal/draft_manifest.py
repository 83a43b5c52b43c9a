"""The manifest of a draft: a small JSON file that says how far the draft is."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from dask_chunkio.errors import UnfinishedWriteError
from dask_chunkio.geometry.share import MOST_PARTS
from dask_chunkio.storage.filesystem.io import write_whole_file
from dask_chunkio.storage.journal.manifest import read_description

__all__ = ["DraftManifest", "DraftMode", "DraftPurpose", "DraftState", "Original", "read_draft", "read_purpose"]

DraftMode = Literal["x", "w", "a"]
DraftState = Literal["structure", "filling", "publishing"]

_FORMAT, _VERSION = "dask_chunkio draft", 1
_MOST = 16 << 20
# The year 3000: later moments are no datetime on some systems.
_LATEST = 32_503_680_000.0


@dataclass(frozen=True, slots=True)
class Original:
    """The file that has the final name while a draft is made, to detect whether another program changes it."""

    device: int
    inode: int
    nbytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: str) -> Original | None:
        """Return the file of that name; None if there is none."""
        try:
            found = os.stat(path)
        except FileNotFoundError:
            return None
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class DraftPurpose:
    """What a draft is made for, if that is more than a script's own structure and data.

    Parameters
    ----------
    kind : str
        ``"repack"`` or ``"conversion"``.
    source : str
        What is repacked or converted.
    begun : float
        When it began, in seconds since 1970.
    command : tuple of str
        Arguments of ``dask-chunkio`` that go on with it; empty if there is no such command.
    """

    kind: Literal["repack", "conversion"]
    source: str
    begun: float
    command: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} of {self.source}"

    def save(self, path: str) -> None:
        """Write a file that says so, complete or not at all."""
        write_whole_file(path, json.dumps(asdict(self), indent=1).encode())

    @property
    def words_to_go_on(self) -> str:
        """How to go on, in words."""
        name = {"repack": "repack", "conversion": "convert"}[self.kind]
        call = f"the same call of dask_chunkio.{name} and resume=True"
        if self.command:
            return f"'dask-chunkio {shlex.join((*self.command, '--resume'))}', or {call}"
        return f"{call}, or the same command and --resume"


@dataclass(frozen=True, slots=True)
class DraftManifest:
    """How far a draft is.

    Parameters
    ----------
    holder : str
        ``DraftPaths.write_id`` of the process that holds the draft, or held it last.
    mode : str
        ``"x"`` for a new file, ``"w"`` for one that replaces an existing file, ``"a"`` for the copy of an existing
        file.
    state : str
        ``"structure"`` while the structure is made, which counts for nothing if it is cut off; then ``"filling"``;
        ``"publishing"`` from just before the file gets its name.
    original : Original or None
        The file that has the final name; None if there is none.
    fills : tuple of tuple of str
        For each fill that is complete, in order, what it has written: names, shapes, dtypes, regions.
    parts : int
        Number of the parts among which independent jobs divide the only fill; 0 for a draft of one process.
    made_from : str
        What the draft is made of, in words: who goes on with it says the same.
    purpose : DraftPurpose or None
        What it is made for; None for a draft of a script.
    """

    holder: str
    mode: DraftMode
    state: DraftState = "structure"
    original: Original | None = None
    fills: tuple[tuple[str, ...], ...] = ()
    parts: int = 0
    made_from: str = ""
    purpose: DraftPurpose | None = None

    def save(self, path: str) -> None:
        """Write the file, complete or not at all."""
        body = {"format": _FORMAT, "version": _VERSION, **asdict(self)}
        write_whole_file(path, json.dumps(body, indent=1).encode())


def read_draft(path: str) -> DraftManifest | None:
    """Read the manifest of a draft; return None if the file does not exist.

    Raises
    ------
    UnfinishedWriteError
        If another version of this package wrote it.
    IntegrityError
        If it is damaged, or cannot be read.
    """
    return read_description(path, _MOST, _manifest)


def read_purpose(path: str) -> DraftPurpose | None:
    """Read what `DraftPurpose.save` has written; return None if the file does not exist.

    Raises
    ------
    IntegrityError
        If it is damaged, or cannot be read.
    """
    return read_description(path, _MOST, lambda found, _: _purpose(found))


def _manifest(found: Any, path: str) -> DraftManifest:
    if found["format"] != _FORMAT or found["version"] != _VERSION:
        raise UnfinishedWriteError(
            f"{path} was written in version {found['version']!r} of its format, and this dask_chunkio reads version "
            f"{_VERSION}; go on with the dask_chunkio that began the draft"
        )
    if found["mode"] not in get_args(DraftMode) or found["state"] not in get_args(DraftState):
        raise ValueError("it has no valid mode or state")
    if type(found["holder"]) is not str:
        raise ValueError("it does not say who holds the draft")
    names = found["fills"]
    if not isinstance(names, list) or not all(isinstance(one, list) and _are(str, one) for one in names):
        raise ValueError("it does not say which datasets are filled")
    if type(found["parts"]) is not int or not 0 <= found["parts"] <= MOST_PARTS:
        raise ValueError(f"it names {found['parts']!r} parts")
    made_from = found.get("made_from", "")
    if type(made_from) is not str:
        raise ValueError("it does not say of what the draft is made")
    holder, mode, state = found["holder"], found["mode"], found["state"]
    original, fills = _original(found["original"]), tuple(map(tuple, names))
    return DraftManifest(
        holder, mode, state, original, fills, found["parts"], made_from, _purpose(found.get("purpose"))
    )


def _purpose(found: Any) -> DraftPurpose | None:
    if found is None:
        return None
    kind, source, begun, command = (found[field.name] for field in fields(DraftPurpose))
    is_known = kind in ("repack", "conversion") and type(source) is str and type(begun) is float
    if not is_known or not isinstance(command, list) or not _are(str, command) or not 0 <= begun < _LATEST:
        raise ValueError("it does not say what the draft is made for")
    return DraftPurpose(kind, source, begun, tuple(command))


def _original(found: Any) -> Original | None:
    if found is None:
        return None
    numbers = [found[field.name] for field in fields(Original)]
    if not _are(int, numbers):
        raise ValueError("it does not describe the original file")
    return Original(*numbers)


def _are(kind: type, values: list[Any]) -> bool:
    return all(type(value) is kind for value in values)
