"""Does a file hold what was written: every payload compared, or every chunk decoded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import h5py
import numpy as np

from dask_chunkio.errors import ChunkIOError, FilterError, TargetError
from dask_chunkio.filters.plugin import require_decoder
from dask_chunkio.grid import ChunkGrid, Selection, Shape
from dask_chunkio.paths import local_path
from dask_chunkio.storage.chunk_index import UNREADABLE, list_stored, misfiled
from dask_chunkio.storage.descriptors import close_descriptor
from dask_chunkio.storage.files import open_side_file, open_to_read
from dask_chunkio.storage.hdf5_file import StagedFile
from dask_chunkio.storage.journal import Journal
from dask_chunkio.storage.payloads import read_payload
from dask_chunkio.storage.target import Target

__all__ = ["Verified", "verify"]

# The file object that sees where HDF5 reads, and the file that is open through it.
Searched = tuple[StagedFile, h5py.File]
# Of a dataset without chunks, what is read at a time.
_SLAB_NBYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Verified:
    """What `verify` found.

    Parameters
    ----------
    path : str
        The file that was looked at: of an unfinished write, the one that is being written.
    checked : int
        How many chunks were compared with their checksum, or decoded.
    problems : tuple of str
        One line for each that is not as it should be.
    by_checksum : bool
        Whether there was a journal to compare with.
    undecodable : tuple of str
        One line for each dataset that was not checked, since a plugin is missing here.
    """

    path: str
    checked: int
    problems: tuple[str, ...]
    by_checksum: bool
    undecodable: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything was checked, and nothing is wrong."""
        return not self.problems and not self.undecodable


def verify(path: str | os.PathLike[str]) -> Verified:
    """Compare every payload of an unfinished write with its checksum; of any other file decode every chunk.

    Parameters
    ----------
    path : str or path-like
        An HDF5 file, or one that is being written.

    Returns
    -------
    Verified
        With one line for each chunk that is not as it should be.  A chunk that is reserved
        and whose payload was never placed is one of them: a resumed write reads its source again.
        A dataset whose filter plugin is missing here is not checked; `Verified.undecodable` names it.

    Raises
    ------
    TargetError
        If there is no such file, or it is not HDF5.
    IntegrityError
        If the side files of a write are damaged.

    Examples
    --------
    >>> import os, tempfile
    >>> import h5py, numpy as np
    >>> path = os.path.join(tempfile.mkdtemp(), "x.h5")
    >>> with h5py.File(path, "w") as file:
    ...     _ = file.create_dataset("x", data=np.arange(100), chunks=(10,), compression="gzip")
    >>> verify(path).checked, verify(path).ok
    (10, True)
    """
    target = Target(os.path.realpath(local_path("path", path)), "")
    if os.path.isdir(target.folder) and not target.is_begun and not os.path.exists(target.path):
        return Verified(target.path, 0, (), True)
    found = target.found() if target.is_begun else None
    if found is None:
        return _decoded(target.path)
    try:
        return _compared(found)
    except OSError as error:
        if isinstance(error, TargetError):
            raise
        raise TargetError(f"cannot read {found.folder}: {error.strerror or error}") from error


def _compared(target: Target) -> Verified:
    problems, checked = [], 0
    file = open_side_file(target.file, write=False)
    try:
        journal = _journal(target)
        for number, made in enumerate(journal.created.datasets if journal.created else ()):
            grid = ChunkGrid(made.shape, made.chunks)
            table = journal.table(number)
            for chunk in np.flatnonzero(table["state"]):
                checked += 1
                if read_payload(file, table[chunk]) is None:
                    where = f"the chunk at {grid.origin(int(chunk))}" if made.is_chunked else "the data"
                    problems.append(f"{made.name}: {where} is not what was committed")
    finally:
        close_descriptor(file)
    return Verified(target.file, checked, tuple(problems), True)


def _journal(target: Target) -> Journal:
    try:
        descriptor = open_side_file(target.journal, write=False)
    except FileNotFoundError:
        return Journal(-1, target.journal)
    try:
        journal = Journal(descriptor, target.journal)
        journal.refresh()
    finally:
        close_descriptor(descriptor)
    return journal


def _decoded(path: str) -> Verified:
    if not os.path.exists(path):
        raise TargetError(f"there is no file {path}")
    if os.path.isdir(path):
        raise TargetError(f"{path} is a directory, not an HDF5 file")
    problems: list[str] = []
    undecodable: list[str] = []
    checked = 0
    try:
        with h5py.File(path, "r") as file, _searched(path) as staged:
            for dataset in _datasets(file, problems):
                if not _is_decodable(dataset, undecodable, problems):
                    continue
                for selection in _selections(dataset, staged, problems):
                    checked += 1
                    _read(dataset, selection, problems)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, ChunkIOError):
            raise
        raise TargetError(f"{path} cannot be opened as an HDF5 file: {error}") from error
    return Verified(path, checked, tuple(problems), False, tuple(undecodable))


def _is_decodable(dataset: h5py.Dataset, undecodable: list[str], problems: list[str]) -> bool:
    """Say whether the plugins of a dataset are here, or note why it cannot be read."""
    try:
        require_decoder(dataset)
    except FilterError as error:
        undecodable.append(str(error))
        return False
    except (OSError, ValueError, RuntimeError) as error:
        problems.append(f"{dataset.name}: its filters cannot be read ({error})")
        return False
    return True


def _datasets(file: h5py.File, problems: list[str]) -> Iterator[h5py.Dataset]:
    names: list[str] = []
    file.visit(names.append)
    for name in names:
        try:
            found = file[name]
        except (OSError, KeyError, RuntimeError) as error:
            problems.append(f"/{name}: cannot be opened ({error})")
            continue
        if isinstance(found, h5py.Dataset):
            yield found


@contextlib.contextmanager
def _searched(path: str) -> Iterator[Searched]:
    """Open a file a second time, to find the places of chunks by their coordinates."""
    descriptor = open_to_read(path)
    try:
        staged = StagedFile(descriptor)
        with h5py.File(staged, "r") as file:
            yield staged, file
    finally:
        close_descriptor(descriptor)


def _selections(dataset: h5py.Dataset, searched: Searched, problems: list[str]) -> Iterator[Selection]:
    """Return what is read at a time: each chunk that is stored, or slabs of what has no chunks."""
    if dataset.shape is None or 0 in dataset.shape:
        return
    if dataset.chunks is None:
        rows = max(1, _SLAB_NBYTES // max(1, dataset.nbytes // (dataset.shape[0] if dataset.shape else 1)))
        slab = (rows, *dataset.shape[1:]) if dataset.shape else ()
        yield from ChunkGrid(dataset.shape, slab)
        return
    for origin in _stored(dataset, searched, problems):
        ends = (min(at + n, end) for at, n, end in zip(origin, dataset.chunks, dataset.shape, strict=True))
        yield tuple(slice(at, end) for at, end in zip(origin, ends, strict=True))


def _stored(dataset: h5py.Dataset, searched: Searched, problems: list[str]) -> list[Shape]:
    """Return the first element of each stored chunk; note those that no reader finds by it."""
    staged, file = searched
    try:
        stored = list_stored(dataset)
        lost = misfiled(staged, file[dataset.name], stored)
    except UNREADABLE as error:
        problems.append(f"{dataset.name}: its index of chunks cannot be read ({error})")
        return []
    problems += [
        f"{dataset.name}: the chunk at {origin} is stored, and is not found by its coordinates" for origin in lost
    ]
    return [tuple(origin) for origin in stored.origins.tolist()]


def _read(dataset: h5py.Dataset, selection: Selection, problems: list[str]) -> None:
    try:
        dataset[selection]
    except (OSError, ValueError, RuntimeError) as error:
        where = ", ".join(f"{axis.start}:{axis.stop}" for axis in selection)
        problems.append(f"{dataset.name}: [{where}] cannot be read ({error})")
