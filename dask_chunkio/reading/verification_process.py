"""Decode every chunk of an HDF5 file, in a separate process: HDF5 crashes on some damaged files.

Chunks that can be decoded without HDF5 are decoded by several threads.

The results go to standard output, one JSON array per line:

==============  ================================================================================
started         the file is open
in              name of the dataset that is read next
checked         number of its chunks that were decoded
read            number of bytes of the file that were read
problem         description of a problem
undecodable     why a dataset was not checked
refused         why nothing was checked; the last line
finished        the last line
==============  ================================================================================
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import h5py
import numpy as np

from dask_chunkio.child_process import reserve_output
from dask_chunkio.errors import FilterError, IntegrityError
from dask_chunkio.filters.decoder import direct_inverses
from dask_chunkio.filters.plugin import add_plugin_paths, require_decoder
from dask_chunkio.filters.scratch import reused
from dask_chunkio.geometry.grid import ChunkGrid, Selection, selection_shape
from dask_chunkio.printable import printable
from dask_chunkio.process_limits import limit_memory, limit_processor_time
from dask_chunkio.reading.block_reader import processors
from dask_chunkio.reading.chunk_reader import ChunkReader
from dask_chunkio.reading.chunk_table import chunk_table
from dask_chunkio.storage.chunk_index import StoredChunks, list_stored, misfiled
from dask_chunkio.storage.filesystem.descriptors import close_descriptor
from dask_chunkio.storage.filesystem.io import memory_nbytes, open_to_read
from dask_chunkio.storage.hdf5.dataset import describe
from dask_chunkio.storage.hdf5.staged_file import StagedFile
from dask_chunkio.storage.journal.journal import ROW

__all__ = ["decode_file", "main"]

Say = Callable[[str, object], None]
# Seconds of processor time after which HDF5 is assumed to hang in one step; large files and data are given more.
_SECONDS = 20
_NBYTES_A_SECOND, _CHUNKS_A_SECOND, _MOST_CHUNKS = 1 << 20, 1000, 10**8
# Bytes that are read at a time of a dataset without chunks.
_SLAB_NBYTES = 16 << 20
# Bytes that a dataset may claim to have in other files.
_MOST_OUTSIDE = 1 << 44
# After so many bytes it is reported how many were read.
_REPORTED_NBYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class _Searched:
    """A file that is open a second time: its descriptor, the object that observes where HDF5 reads, and HDF5's file."""

    descriptor: int
    staged: StagedFile
    file: h5py.File


def main() -> None:
    """Decode the file that the only argument, which `verify` builds, names."""
    sys.stdout = os.fdopen(reserve_output(), "w", encoding="utf-8")
    path, done, plugins = json.loads(sys.argv[1])
    add_plugin_paths(plugins)
    limit_memory(memory_nbytes())
    decode_file(path, done, _say)


def _say(what: str, words: object) -> None:
    sys.stdout.write(json.dumps([what, words]) + "\n")
    # A crash loses output that is not flushed.
    sys.stdout.flush()


def decode_file(path: str, done: int, say: Say) -> None:
    """Decode every chunk of a file, and report the results.

    Parameters
    ----------
    path : str
        Path of the file.
    done : int
        Number of its datasets that are skipped.
    say : callable
        Reports one result.
    """
    try:
        report = _Report(say, _SECONDS + os.stat(path).st_size // _NBYTES_A_SECOND)
        report.begin_step()
        with h5py.File(path, "r") as file, _searched(path) as searched:
            say("started", None)
            for number, dataset in enumerate(_datasets(file, report)):
                if number >= done:
                    say("in", dataset.name)
                    with report.noted(dataset.name, "cannot be read"):
                        _decode(dataset, searched, report)
    except Exception as error:
        say("refused", _words(error))
        return
    say("finished", None)


@dataclass(frozen=True, slots=True)
class _Report:
    """Reports results; each step of the work has a bound of processor time.

    Parameters
    ----------
    say : callable
        Reports one result.
    seconds : int
        Processor time of a step; large data are given more.
    """

    say: Say
    seconds: int

    def begin_step(self, more: int = 0) -> None:
        """Bound the processor time of a step, which takes `more` seconds for its data: nothing else interrupts HDF5."""
        limit_processor_time(self.seconds + more)

    @contextlib.contextmanager
    def noted(self, name: str, what: str, more: int = 0) -> Iterator[None]:
        """Begin a step, and report any error in it as a problem; h5py raises many kinds where metadata are invalid."""
        self.begin_step(more)
        try:
            yield
        except Exception as error:
            self.say("problem", printable(f"{name}: {what} ({_words(error)})"))


def _words(error: Exception) -> str:
    words = str(error) or type(error).__name__
    return words if isinstance(error, (OSError, RuntimeError)) else f"{type(error).__name__}: {words}"


def _datasets(file: h5py.File, report: _Report) -> Iterator[h5py.Dataset]:
    """Yield each dataset of a file once, following only hard links, and skipping objects that cannot be opened."""
    groups, seen = [file["/"]], {_address(file["/"])}
    while groups:
        group = groups.pop()
        names: list[str] = []
        with report.noted(group.name, "its members cannot be listed"):
            names.extend(group)
        inside = []
        for name in names:
            with report.noted(f"{group.name.rstrip('/')}/{name}", "cannot be opened"):
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    continue
                found = group[name]
                if (address := _address(found)) in seen:
                    continue
                seen.add(address)
                if isinstance(found, h5py.Group):
                    inside.append(found)
                elif isinstance(found, h5py.Dataset):
                    yield found
        groups += reversed(inside)


def _address(found: h5py.Group | h5py.Dataset | h5py.Datatype) -> int:
    return int(h5py.h5o.get_info(found.id).addr)


def _decode(dataset: h5py.Dataset, searched: _Searched, report: _Report) -> None:
    if not _is_decodable(dataset, report):
        return
    if dataset.shape is None or 0 in dataset.shape or _is_never_written(dataset):
        report.say("checked", 0)
    elif dataset.chunks is None:
        _read_by_hdf5(dataset, _slabs(dataset, searched.staged.size), report)
    else:
        _require_memory(dataset)
        stored = _stored(dataset, searched, report)
        chunks = _decodable_outside(dataset, searched, stored)
        if chunks is None:
            _read_by_hdf5(dataset, _cells(dataset, stored.origins.tolist()), report)
        else:
            _decode_outside(dataset.name, chunks, report)


def _is_never_written(dataset: h5py.Dataset) -> bool:
    """Return whether a dataset without chunks has no space in the file: its shape may be of any size."""
    plist = dataset.id.get_create_plist()
    is_own = plist.get_layout() == h5py.h5d.CONTIGUOUS and not plist.get_external_count()
    return bool(is_own and dataset.id.get_offset() is None)


def _read_by_hdf5(dataset: h5py.Dataset, selections: Iterable[Selection], report: _Report) -> None:
    checked = 0
    try:
        for selection in selections:
            checked += 1
            nbytes = math.prod(selection_shape(selection)) * dataset.dtype.itemsize
            with report.noted(dataset.name, f"[{_words_of(selection)}] cannot be read", nbytes // _NBYTES_A_SECOND):
                dataset[selection]
    finally:
        report.say("checked", checked)
        report.say("read", int(dataset.id.get_storage_size()))


def _decodable_outside(dataset: h5py.Dataset, searched: _Searched, stored: StoredChunks) -> ChunkReader | None:
    """Return what reads the chunks of a dataset without HDF5; None if HDF5 has to."""
    layout, grid = describe(dataset), ChunkGrid(dataset.shape, dataset.chunks)
    if not layout.is_chunked or direct_inverses(layout.form.filters) is None:
        return None
    try:
        table = chunk_table(stored, grid, searched.staged.size)
    except IntegrityError:
        # HDF5 says of each chunk what is wrong with it.
        return None
    return None if table is None else ChunkReader(searched.descriptor, dataset.name, grid, layout.form, table)


def _decode_outside(name: str, chunks: ChunkReader, report: _Report) -> None:
    """Decode all chunks of a dataset by several threads."""
    numbers, nbytes = chunks.table.numbers.tolist(), chunks.table.nbytes.tolist()
    report.begin_step(len(numbers) * chunks.form.nbytes // _NBYTES_A_SECOND)
    checked = read = 0
    with ThreadPoolExecutor(processors()) as pool:
        for number, length, problem in zip(numbers, nbytes, pool.map(_problem(chunks), numbers), strict=True):
            checked, read = checked + 1, read + length
            if problem is not None:
                report.say(
                    "problem", printable(f"{name}: [{_words_of(chunks.grid[number])}] cannot be read ({problem})")
                )
            if read >= _REPORTED_NBYTES:
                report.say("read", read)
                read = 0
    report.say("read", read)
    report.say("checked", checked)


def _problem(chunks: ChunkReader) -> Callable[[int], str | None]:
    def decode(number: int) -> str | None:
        try:
            if (place := chunks.table.find(number)) is not None:
                with reused:
                    chunks.decode(place)
        except Exception as error:
            return _words(error)
        return None

    return decode


def _words_of(selection: Selection) -> str:
    return ", ".join(f"{axis.start}:{axis.stop}" for axis in selection)


def _is_decodable(dataset: h5py.Dataset, report: _Report) -> bool:
    """Return whether the plugins of a dataset are available; otherwise report why it cannot be read."""
    with report.noted(dataset.name, "its filters cannot be read"):
        try:
            require_decoder(dataset)
        except FilterError as error:
            report.say("undecodable", str(error))
        else:
            return True
    return False


@contextlib.contextmanager
def _searched(path: str) -> Iterator[_Searched]:
    """Open a file a second time, to find the locations of chunks by their coordinates."""
    descriptor = open_to_read(path)
    try:
        staged = StagedFile(descriptor)
        with h5py.File(staged, "r") as file:
            yield _Searched(descriptor, staged, file)
    finally:
        close_descriptor(descriptor)


def _slabs(dataset: h5py.Dataset, file_nbytes: int) -> Iterable[Selection]:
    """Return the slabs in which a dataset without chunks is read."""
    _require_stored(dataset, file_nbytes)
    rows = max(1, _SLAB_NBYTES // max(1, dataset.nbytes // (dataset.shape[0] if dataset.shape else 1)))
    return ChunkGrid(dataset.shape, (rows, *dataset.shape[1:]) if dataset.shape else ())


def _cells(dataset: h5py.Dataset, origins: Iterable[Sequence[int]]) -> Iterator[Selection]:
    """Yield the selections of chunks, given by their first elements."""
    for origin in origins:
        ends = (min(at + n, end) for at, n, end in zip(origin, dataset.chunks, dataset.shape, strict=True))
        yield tuple(slice(at, end) for at, end in zip(origin, ends, strict=True))


def _require_stored(dataset: h5py.Dataset, size: int) -> None:
    """Refuse a shape that needs more bytes than the whole file has: to read all of them would never end."""
    plist = dataset.id.get_create_plist()
    is_inside = plist.get_layout() != h5py.h5d.VIRTUAL and not plist.get_external_count()
    if is_inside and dataset.id.get_offset() is not None and dataset.id.get_storage_size() > size:
        raise OSError(f"it has {dataset.nbytes} bytes, and the whole file {size}")
    if not is_inside and dataset.nbytes > _MOST_OUTSIDE:
        raise OSError(f"its shape claims {dataset.nbytes} bytes in other files, and {_MOST_OUTSIDE} is the most")


def _require_memory(dataset: h5py.Dataset) -> None:
    nbytes = dataset.dtype.itemsize
    for length in dataset.chunks:
        nbytes *= length
    if nbytes > memory_nbytes():
        raise OSError(f"its chunks of {nbytes} bytes do not fit into memory")


def _stored(dataset: h5py.Dataset, searched: _Searched, report: _Report) -> StoredChunks:
    """Return the stored chunks of a dataset; report those that no reader finds by their coordinates."""
    most = math.prod(map(math.ceil, np.divide(dataset.shape, dataset.chunks)))
    seconds = int(min(most, _MOST_CHUNKS)) // _CHUNKS_A_SECOND
    with report.noted(dataset.name, "its index of chunks cannot be read", seconds):
        stored = list_stored(dataset)
        for origin in misfiled(searched.staged, searched.file[dataset.name], stored):
            report.say(
                "problem", f"{dataset.name}: the chunk at {origin} is stored, and is not found by its coordinates"
            )
        return stored
    return StoredChunks(np.zeros((0, len(dataset.shape)), np.int64), np.zeros(0, ROW))
