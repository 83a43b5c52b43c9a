"""Read from an HDF5 file what its references say: groups, arrays and the places of chunks.

What a file holds is not trusted: no count, size or offset is used before it is compared with the size of the file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import h5py

from dask_chunkio.errors import IntegrityError, TargetError
from dask_chunkio.printable import printable
from dask_chunkio.references.attributes import read_attributes
from dask_chunkio.references.datasets import Reading, array_of
from dask_chunkio.references.dimensions import PhonyDimensions, is_mere_dimension
from dask_chunkio.references.model import ArrayReferences, FileReferences, GroupReferences, Unsupported
from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.io import open_to_read
from dask_chunkio.storage.journal.journal import Entries

__all__ = ["DAMAGED", "scan_file"]

# The errors that h5py raises if HDF5 cannot interpret the metadata of a file.
DAMAGED = (OSError, RuntimeError, ValueError, TypeError, KeyError, ArithmeticError, MemoryError, SystemError)
_NO_NAMES = ("", ".", "..")


def scan_file(
    path: str, url: str, inline_nbytes: int, known: Mapping[str, Entries] | None = None, locking: bool | None = None
) -> FileReferences:
    """Return the references to all datasets of a file.

    Parameters
    ----------
    path : str
        The file.
    url : str
        Where readers find it.
    inline_nbytes : int
        Chunks that are stored in fewer bytes than this become part of the references.
    known : mapping of str to numpy.ndarray
        The places of all chunks of some datasets, with the fields ``offset``, ``nbytes`` and ``mask``: for the other
        datasets HDF5 lists them.
    locking : bool, optional
        As `h5py.File` takes it.

    Raises
    ------
    TargetError
        If it cannot be opened as an HDF5 file.
    IntegrityError
        If HDF5 cannot read it, or it says what cannot be.
    """
    with _opened(path, locking) as (file, descriptor):
        try:
            reading = Reading(descriptor, os.fstat(descriptor).st_size, inline_nbytes)
            return _Scan(reading, _by_address(file, known or {})).references(file, url)
        except IntegrityError as error:
            raise IntegrityError(f"{path}: {error}") from error
        except DAMAGED as error:
            words = str(error) or type(error).__name__
            raise IntegrityError(f"{path}: HDF5 cannot read all of it ({words}); the file is damaged") from error


@contextlib.contextmanager
def _opened(path: str, locking: bool | None) -> Iterator[tuple[h5py.File, int]]:
    if os.path.isdir(path):
        raise TargetError(f"{path} is a directory, not an HDF5 file")
    try:
        file = h5py.File(path, "r", locking=locking)
    except FileNotFoundError as error:
        raise TargetError(f"there is no file {path}") from error
    except DAMAGED as error:
        raise TargetError(f"{path} cannot be opened as an HDF5 file: {error}") from error
    try:
        descriptor = open_to_read(path)
        try:
            yield file, descriptor
        finally:
            close_descriptor(descriptor)
    finally:
        file.close()


def _by_address(file: h5py.File, known: Mapping[str, Entries]) -> dict[int, Entries]:
    return {_address(file[name]): table for name, table in known.items()}


def _address(found: Any) -> int:
    return int(h5py.h5o.get_info(found.id).addr)


@dataclass(slots=True)
class _Scan:
    """One walk over a file: each object once, by hard links only."""

    reading: Reading
    known: dict[int, Entries]
    groups: list[GroupReferences] = field(default_factory=list)
    arrays: list[ArrayReferences] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def references(self, file: h5py.File, url: str) -> FileReferences:
        waiting, seen = [("", file["/"])], {_address(file["/"])}
        while waiting:
            name, group = waiting.pop()
            self.groups.append(GroupReferences(name, read_attributes(group, self.reading.size, self._note)))
            phony, inside = PhonyDimensions(), []
            for path, found in self._members(name, group):
                if (address := _address(found)) in seen:
                    continue
                seen.add(address)
                if isinstance(found, h5py.Group):
                    inside.append((path, found))
                elif isinstance(found, h5py.Dataset):
                    self._add(path, found, address, phony)
            waiting += reversed(inside)
        return FileReferences(url, tuple(self.groups), tuple(self.arrays), tuple(self.left_out))

    def _members(self, name: str, group: h5py.Group) -> Iterator[tuple[str, Any]]:
        for member in group:
            path = f"{name}/{member}" if name else member
            if not isinstance(group.get(member, getlink=True), h5py.HardLink):
                continue
            if (problem := _problem_of_name(member)) is not None:
                self._note(f"/{path}: {problem}")
            else:
                yield path, group[member]

    def _add(self, path: str, dataset: h5py.Dataset, address: int, phony: PhonyDimensions) -> None:
        try:
            if not is_mere_dimension(dataset):
                array = array_of(path, dataset, self.reading, self.known.get(address), phony)
                attributes = read_attributes(dataset, self.reading.size, self._note)
                self.arrays.append(replace(array, attributes=attributes))
        except Unsupported as reason:
            self._note(f"/{path}: {reason}")

    def _note(self, line: str) -> None:
        self.left_out.append(printable(line))


def _problem_of_name(name: str) -> str | None:
    """Return why no key of zarr can hold a name; None if it can."""
    if name in _NO_NAMES or name.startswith(".z") or "\\" in name:
        return "zarr cannot use this name; rename it"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    return None
