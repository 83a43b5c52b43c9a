"""A dataset as it is stored: read by any thread of any process, without HDF5 where its payloads can be decoded outside.

HDF5 finds the chunks once.  Then the file is not kept open: each read opens it, makes sure that it is still the file
that was indexed, and reads and decodes the payloads that it needs.
"""

from __future__ import annotations

import functools
import itertools
import mmap
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np

from dask_chunkio.errors import TargetChangedError, TargetError
from dask_chunkio.filters.chunk_format import Payload
from dask_chunkio.filters.chunking import copied
from dask_chunkio.filters.padding import as_bytes
from dask_chunkio.filters.plugin import require_decoders
from dask_chunkio.filters.scratch import reused
from dask_chunkio.geometry.grid import Array, ChunkGrid, Selection, chunk_grid, selection_shape
from dask_chunkio.isolated_call import is_isolated
from dask_chunkio.reading.chunk_cache import ChunkCache
from dask_chunkio.reading.chunk_reader import ChunkReader
from dask_chunkio.reading.dataset_record import (
    DatasetRecord,
    ask_for_elements,
    ask_for_record,
    read_elements,
    read_record,
    require_alike,
)
from dask_chunkio.reading.file_state import FileState
from dask_chunkio.reading.thread_team import ThreadTeam, call_each
from dask_chunkio.storage.filesystem.descriptors import close_descriptor, in_child
from dask_chunkio.storage.filesystem.io import open_to_read

__all__ = ["StoredArray", "index_dataset"]

Result = TypeVar("Result")

# Several threads ask for the same dataset at once, and HDF5 would look for its chunks again and again.
_indexing = threading.Lock()
# Seconds for which one thread waits for the dataset of another.
_PATIENCE = 0.5
# A table of more chunks is not sent to other processes, some of which get the array again with every task.
_MOST_SENT = 4096
# A chunk of which a read takes so small a part is kept for the next one.
_SMALL_PART = 4
# How many times a file is indexed again that changes while it is read.
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, eq=False)
class StoredArray(DatasetRecord):
    """A dataset, and where its data are.

    Parameters
    ----------
    path, name, shape, dtype, chunks, state, filters, form, table, offset, is_null
        As `DatasetRecord`; `table` is None for a dataset of very many chunks in another process.
    locking : bool or None
        As `h5py.File` takes it.
    isolated : bool
        Whether HDF5 is asked in a separate process.
    """

    locking: bool | None = None
    isolated: bool = False

    @property
    def is_direct(self) -> bool:
        """Whether it is read without HDF5."""
        return self.form is not None or self.offset is not None

    @property
    def grid(self) -> ChunkGrid:
        """The grid of its chunks."""
        return chunk_grid(self.shape, self.chunks or tuple(max(1, length) for length in self.shape))

    def __reduce__(self) -> tuple[Any, ...]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.table is not None and len(self.table) > _MOST_SENT:
            values["table"] = None
        return type(self), tuple(values.values())

    def read(self, selection: Selection, team: ThreadTeam | None = None, cache: ChunkCache | None = None) -> Array:
        """Return the elements of a selection.

        Parameters
        ----------
        selection : tuple of slice
            For each axis a slice with a start and a stop inside the array, and no step.
        team : ThreadTeam, optional
            Whose threads read and decode the chunks; by default only this thread does.
        cache : ChunkCache, optional
            Keeps chunks of which this read takes a small part.

        Raises
        ------
        TargetChangedError
            If the dataset has another shape, dtype or way of being stored by now.
        TargetError
            If the file cannot be read.
        IntegrityError
            If a payload is damaged; the message names the chunk and its place.
        """
        if not self.is_direct:
            return self._read_by_hdf5(selection)
        return self._with_file(lambda stored, file: stored._read_outside(file, selection, team, cache))

    def payloads(self, chunks: Sequence[int]) -> tuple[Payload, ...] | None:
        """Return chunks as they are stored, undecoded; None if they have to be read and encoded.

        That is so if one was never written, if the dataset has grown since, or if HDF5 has to read it.

        Parameters
        ----------
        chunks : sequence of int
            Numbers of the chunks in C order of the grid.

        Raises
        ------
        TargetChangedError, TargetError, IntegrityError
            As `read`.
        """
        if self.form is None:
            return None

        def read(stored: StoredArray, file: int) -> tuple[Payload, ...] | None:
            # In an array that has grown, the chunks have other numbers, and the last ones more elements.
            return stored._chunks_of(file).payloads(chunks) if stored.shape == self.shape else None

        return self._with_file(read)

    def _with_file(self, function: Callable[[StoredArray, int], Result]) -> Result:
        """Call a function with the dataset as it is now, and the descriptor of its file."""
        stored = self if self.table is not None or self.offset is not None else self._indexed_again()
        for _ in range(_ATTEMPTS):
            descriptor = _opened(self.path)
            try:
                if FileState.of(descriptor) == stored.state:
                    found = function(stored, descriptor)
                    # Nothing keeps others from writing during the read.
                    if FileState.of(descriptor) == stored.state:
                        return found
            finally:
                close_descriptor(descriptor)
            stored = self._indexed_again()
        raise TargetChangedError(f"{self.path} changes all the time; read it when nothing is written to it")

    def _chunks_of(self, descriptor: int) -> ChunkReader:
        if self.form is None or self.table is None:
            raise ValueError("a dataset that HDF5 reads")
        return ChunkReader(descriptor, f"{self.path}, {self.name}", self.grid, self.form, self.table)

    def _read_outside(
        self, descriptor: int, selection: Selection, team: ThreadTeam | None, cache: ChunkCache | None
    ) -> Array:
        if self.offset is not None:
            # A map ends with the last array that uses it; the copy does not.
            with_data = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
            whole: Any = np.ndarray(self.shape, self.dtype, with_data, self.offset)
            return copied(whole[(*selection, ...)])
        found = np.empty(selection_shape(selection), self.dtype)
        pieces = _Pieces(self._chunks_of(descriptor), selection, found, _Kept(cache, self.state))
        call_each(team, pieces.read, pieces.each())
        return found

    def _read_by_hdf5(self, selection: Selection) -> Array:
        if self.is_null:
            raise TargetError(f"{self.path}, {self.name}: it has no elements (an empty dataspace); nothing can be read")
        found = ask_for_elements(self, selection, self.locking) if self.isolated else None
        return read_elements(self, selection, self.locking) if found is None else found

    def _indexed_again(self) -> StoredArray:
        stored = index_dataset(self.path, self.name, self.locking, self.isolated)
        require_alike(self, stored.shape, stored.dtype)
        if (stored.form, stored.offset is None) != (self.form, self.offset is None):
            raise TargetChangedError(f"{self.path}, {self.name}: it was stored anew in another way; open it again")
        return stored


def index_dataset(path: str, name: str, locking: bool | None = None, isolated: bool | None = None) -> StoredArray:
    """Find out where the data of a dataset are.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    name : str
        Path of the dataset in the file.
    locking : bool, optional
        As `h5py.File` takes it.
    isolated : bool, optional
        Whether HDF5 is asked in a separate process, which damaged metadata may crash; by default wherever such a
        process can be started.

    Raises
    ------
    TargetError
        If there is no such file or dataset, or it cannot be read.
    IntegrityError
        If its metadata are damaged.
    FilterError
        If a filter plugin is missing.
    WorkerError
        If `isolated` is true, and no process can be started.
    """
    try:
        state = FileState.of(path)
    except OSError as error:
        raise TargetError(f"cannot read {path}: {error.strerror}") from error
    # A file that another program has locked, or a disk that does not answer, must not keep the reads of all others.
    has_lock = (lock := _indexing).acquire(timeout=_PATIENCE)
    try:
        return _indexed(path, name, state, locking, is_isolated(isolated))
    finally:
        if has_lock:
            lock.release()


@functools.lru_cache(maxsize=32)
def _indexed(path: str, name: str, state: FileState, locking: bool | None, isolated: bool) -> StoredArray:  # noqa: ARG001
    """Index a dataset; cached for as long as the file does not change, because each task of a process asks."""
    record = (ask_for_record if isolated else read_record)(path, name, locking)
    require_decoders(record.name, record.filters)
    known = {field.name: getattr(record, field.name) for field in fields(record)}
    return StoredArray(**known, locking=locking, isolated=isolated)


def _opened(path: str) -> int:
    try:
        return open_to_read(path)
    except OSError as error:
        raise TargetError(f"cannot read {path}: {error.strerror}") from error


# Of a chunk along an axis: its cell in the grid, what is selected inside it, and where that is in the result.
_Along = tuple[int, slice, slice]


class _Pieces:
    """The chunks that a selection touches, each read into its part of the result."""

    def __init__(self, chunks: ChunkReader, selection: Selection, found: Array, kept: _Kept) -> None:
        self._chunks, self._selection, self._found, self._kept = chunks, selection, found, kept

    def each(self) -> Iterator[tuple[_Along, ...]]:
        """Return the chunks in C order, as `read` takes them."""
        return itertools.product(*map(_chunks_along, self._selection, self._chunks.grid.chunk_shape))

    def read(self, piece: tuple[_Along, ...]) -> None:
        """Read one chunk, decode it, and copy what is selected of it."""
        cells, inside, target = zip(*piece, strict=True) if piece else ((), (), ())
        number, part = self._chunks.grid.number(cells), self._found[target]
        is_small = part.nbytes * _SMALL_PART <= self._chunks.form.nbytes
        if is_small and self._kept.keeps(self._chunks, number):
            self._copy(part, self._kept.read(self._chunks, number), inside)
        else:
            with reused:
                self._copy(part, self._chunks.read(number, self._needed(inside)), inside)

    def _needed(self, inside: Sequence[slice]) -> slice | None:
        """Return the bytes of a chunk from the first to the last element of a part; None for all."""
        lengths, itemsize = self._chunks.grid.chunk_shape, self._found.dtype.itemsize
        first = last = 0
        for length, one in zip(lengths, inside, strict=True):
            first, last = first * length + one.start, last * length + one.stop - 1
        found = slice(first * itemsize, (last + 1) * itemsize)
        return None if found == slice(0, self._chunks.form.nbytes) else found

    def _copy(self, part: Array, chunk: Array | None, inside: tuple[slice, ...]) -> None:
        if chunk is None:
            part[...] = self._chunks.fill
        else:
            as_bytes(part)[...] = as_bytes(chunk[inside])


def _chunks_along(axis: slice, length: int) -> list[_Along]:
    """Return the chunks that a slice touches along an axis with chunks of a length."""
    found: list[_Along] = []
    for cell in range(axis.start // length, -(-axis.stop // length)):
        at = cell * length
        start, stop = max(at, axis.start), min(at + length, axis.stop)
        found.append((cell, slice(start - at, stop - at), slice(start - axis.start, stop - axis.start)))
    return found


@dataclass(frozen=True, slots=True)
class _Kept:
    """The chunks that are kept of a file in one state, if any are."""

    cache: ChunkCache | None
    state: FileState

    def keeps(self, chunks: ChunkReader, number: int) -> bool:
        """Return whether a chunk is to be kept: at the second read, if a part of it costs less than the whole."""
        return self.cache is not None and (
            not chunks.decodes_parts or self.cache.was_read(self.state, number, chunks.form.nbytes)
        )

    def read(self, chunks: ChunkReader, number: int) -> Array | None:
        """Return a chunk that is kept, or read it and keep it."""
        if self.cache is None:
            return chunks.read(number)
        if (found := self.cache.find(self.state, number)) is None and (found := chunks.read(number)) is not None:
            self.cache.keep(self.state, number, found)
        return found


def _renew_lock() -> None:
    """Make a new lock in a forked child: another thread of the parent may have held the old one."""
    global _indexing  # noqa: PLW0603
    _indexing = threading.Lock()


in_child(_renew_lock)
