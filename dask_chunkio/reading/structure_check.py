"""Check in a separate process that HDF5 can read all metadata and variable-length elements of a file.

Libraries such as h5netcdf read the metadata of a file in the process of the user.  What makes HDF5 crash or hang is met
here first.
"""

from __future__ import annotations

import contextlib
import functools
import graphlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import TargetError
from dask_chunkio.filters.plugin import add_plugin_paths, plugin_paths
from dask_chunkio.isolated_call import call_isolated
from dask_chunkio.isolated_process import Steps
from dask_chunkio.reading.dataset_record import memory_for
from dask_chunkio.reading.file_state import FileState, opened, require_not_written_here
from dask_chunkio.storage.chunk_index import list_stored

__all__ = ["answer", "check_structure"]

_UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, KeyError, ArithmeticError, SystemError, AttributeError)
# Bytes of elements of variable length that are read at once.
_AT_ONCE = 1 << 16


def check_structure(path: str, locking: bool | None = None, indexes: bool = False) -> str | None:
    """Make sure that no group, link, attribute or type of a file makes HDF5 crash or hang.

    Elements of variable length are read, too: their places are metadata.  What HDF5 refuses to read is no error here:
    whoever reads it in this process is told.  The answer is kept until the file changes.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    locking : bool, optional
        As `h5py.File` takes it.
    indexes : bool
        Whether to list all chunks, too.

    Returns
    -------
    str or None
        A hard link to a group above it, if there is one: a walk by paths would never end.

    Raises
    ------
    IntegrityError
        If HDF5 crashes, or takes more time or memory than it may; the message names the object.
    TargetBusyError, UnfinishedWriteError, TargetError
        As `dask_chunkio.open_array`.
    WorkerError
        If the process cannot be started.
    """
    try:
        state = FileState.of(path)
    except OSError as error:
        raise TargetError(f"cannot read {path}: {error.strerror}") from error
    require_not_written_here(path)
    return _checked(path, state, locking, indexes)


@functools.lru_cache(64)
def _checked(path: str, state: FileState, locking: bool | None, indexes: bool) -> str | None:  # noqa: ARG001
    asked = {"path": path, "locking": locking, "indexes": indexes, "plugins": plugin_paths()}
    found, _ = call_isolated(__name__, asked, path, memory_for(path))
    return None if found is None else str(found)


def answer(asked: Any, steps: Steps) -> tuple[Any, Sequence[Any]]:
    """Look at all objects of a file."""
    known = plugin_paths()
    add_plugin_paths(path for path in asked["plugins"] if path not in known)
    path = asked["path"]
    steps.begin("/", os.stat(path).st_size)
    with opened(path, asked["locking"]) as file:
        return _Look(file, steps, os.stat(path).st_size, asked["indexes"]).at_all(), ()


@dataclass(frozen=True, slots=True)
class _Look:
    """A look at each object of a file once, by hard links only."""

    file: h5py.File
    steps: Steps
    nbytes: int
    indexes: bool

    def at_all(self) -> str | None:
        """Look at all objects; return a link to a group above it, if there is one."""
        root = self.file["/"]
        groups, seen, links = [root], {_address(root)}, _Links()
        self._at(root)
        while groups:
            group = groups.pop()
            for name in self._members(group):
                path = f"{group.name.rstrip('/')}/{name}"
                # An attribute may be as large as the file.
                self.steps.begin(path, self.nbytes)
                with _tolerated():
                    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                        continue
                    found = group[name]
                    if isinstance(found, h5py.Group):
                        links.add(_address(group), _address(found), path)
                    if (address := _address(found)) not in seen:
                        seen.add(address)
                        self._at(found)
                        groups += [found] if isinstance(found, h5py.Group) else []
        return links.cycle()

    def _members(self, group: h5py.Group) -> list[str]:
        self.steps.begin(group.name, self.nbytes)
        with _tolerated():
            return list(group)
        return []

    def _at(self, found: Any) -> None:
        for name in _listed(found.attrs):
            with _tolerated():
                self._at_references(found.attrs[name])
        if isinstance(found, h5py.Dataset):
            for look in (_look_at_properties, _look_at_scales, *([list_stored] if self.indexes else ())):
                with _tolerated():
                    look(found)
            with _tolerated():
                self._at_elements(found)

    def _at_references(self, value: Any) -> None:
        """Open what an attribute refers to, such as the dimension scales of a variable."""
        for one in np.ravel(np.asarray(value, object)).tolist() if _has_objects(value) else ():
            for reference in one if isinstance(one, np.ndarray) else (one,):
                if isinstance(reference, h5py.Reference) and reference:
                    with _tolerated():
                        _ = self.file[reference].name

    def _at_elements(self, dataset: h5py.Dataset) -> None:
        """Read the elements of variable length, a part at a time."""
        if not dataset.dtype.hasobject or dataset.shape is None or dataset.is_virtual or dataset.external:
            return
        if not dataset.shape:
            _ = dataset[()]
            return
        # The declared shape may be larger than any disk.
        for selection in _stored_cells(dataset) if dataset.chunks else self._slabs(dataset):
            with _tolerated():
                _ = dataset[selection]

    def _slabs(self, dataset: h5py.Dataset) -> Iterator[Any]:
        stored = dataset.id.get_storage_size()
        if dataset.size and 0 < stored <= self.nbytes:
            rows = max(1, _AT_ONCE * dataset.shape[0] // dataset.size)
            yield from (slice(start, start + rows) for start in range(0, dataset.shape[0], rows))


class _Links:
    """The hard links from groups to groups."""

    def __init__(self) -> None:
        self._paths: dict[tuple[int, int], str] = {}
        self._inside: dict[int, set[int]] = {}

    def add(self, outer: int, inner: int, path: str) -> None:
        """Add a link, by the addresses of the groups."""
        self._paths.setdefault((outer, inner), path)
        self._inside.setdefault(outer, set()).add(inner)

    def cycle(self) -> str | None:
        """Return the path of a link that closes a circle; None without any."""
        try:
            graphlib.TopologicalSorter(self._inside).prepare()
        except graphlib.CycleError as error:
            inner, outer = error.args[1][:2]
            return self._paths.get((outer, inner)) or self._paths.get((inner, outer))
        return None


@contextlib.contextmanager
def _tolerated() -> Iterator[None]:
    """Go on after an error that HDF5 raises again where the object is read; memory that is too much ends the look."""
    try:
        yield
    except _UNREADABLE as error:
        if "allocat" in str(error):
            raise MemoryError from error


def _listed(attributes: Any) -> list[str]:
    with _tolerated():
        return list(attributes)
    return []


def _address(found: Any) -> int:
    return int(h5py.h5o.get_info(found.id).addr)


def _has_objects(value: Any) -> bool:
    return isinstance(value, h5py.Reference) or getattr(getattr(value, "dtype", None), "kind", "") == "O"


def _look_at_properties(dataset: h5py.Dataset) -> None:
    plist = dataset.id.get_create_plist()
    for number in range(plist.get_nfilters()):
        plist.get_filter(number)
    _ = dataset.dtype, dataset.maxshape, dataset.fillvalue, dataset.chunks


def _look_at_scales(dataset: h5py.Dataset) -> None:
    if h5py.h5ds.is_scale(dataset.id):
        h5py.h5ds.get_scale_name(dataset.id)
    for axis in range(len(dataset.shape or ())):
        h5py.h5ds.get_label(dataset.id, axis)
        if h5py.h5ds.get_num_scales(dataset.id, axis):
            h5py.h5ds.iterate(dataset.id, axis, lambda _: None, 0)


def _stored_cells(dataset: h5py.Dataset) -> Iterator[Any]:
    for origin in list_stored(dataset).origins.tolist():
        ends = (min(at + n, end) for at, n, end in zip(origin, dataset.chunks, dataset.shape, strict=True))
        yield tuple(slice(at, end) for at, end in zip(origin, ends, strict=True))
