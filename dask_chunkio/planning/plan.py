"""What a write will do, decided before anything is touched."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from dask.utils import format_bytes

from dask_chunkio.errors import ArgumentError
from dask_chunkio.geometry.grid import BufferGrid, ChunkGrid, Shape
from dask_chunkio.geometry.region import Region
from dask_chunkio.printable import printable
from dask_chunkio.results import WriteResult

__all__ = ["DatasetPlan", "NetworkOpening", "WritePlan"]


@dataclass(frozen=True, slots=True)
class NetworkOpening:
    """What a reader over a network fetches to open a new file and to find all of its chunks.

    Parameters
    ----------
    requests : int
        Number of places in the file at which it reads; each is a request, unless its cache holds several.
    metadata_nbytes : int
        Maximum size of all metadata, in bytes.
    layout : str or None
        Same as in `to_hdf5`.
    page_nbytes : int or None
        Size of a page of the file, in bytes; None without a layout.
    padding : float
        Expected bytes that are left free in the first page and at the ends of others, for each byte of payloads.
    is_estimate : bool
        Whether the number of chunks is not known: the length of a source is unknown until it ends.
    """

    requests: int
    metadata_nbytes: int
    layout: str | None = None
    page_nbytes: int | None = None
    padding: float = 0.0
    is_estimate: bool = False

    def __str__(self) -> str:
        nbytes = format_bytes(self.metadata_nbytes)
        stream = " (room for a stream: an estimate)" if self.is_estimate else ""
        if self.page_nbytes is None:
            return (
                f"Over a network, about {self.requests} requests read up to {nbytes} of metadata, which lie between "
                f"the data{stream}; layout='cloud' keeps them in one page"
            )
        return (
            f"Layout {self.layout}: pages of {format_bytes(self.page_nbytes)}, about {self.padding:.0%} of padding; "
            f"over a network, {self.requests} request reads up to {nbytes} of metadata in the first page{stream}"
        )


@dataclass(frozen=True, slots=True)
class DatasetPlan:
    """What is decided for one dataset.

    Parameters
    ----------
    name : str
        Absolute path in the file.
    dtype, source_dtype : numpy.dtype
        Types of the elements in the file and in the source.
    buffers : BufferGrid
        Buffers and, as ``buffers.chunks``, chunks.
    filters : tuple of str
        The pipeline, as HDF5 records it.
    encoder : str
        What runs it.
    read : str
        ``"concurrent"``, ``"serial"`` or ``"ordered"``.
    region : Region or None
        The part of a dataset that is there; None for a new one.
    open_ended : bool
        Whether it grows with a stream whose length is not known: the shape is the one it begins with.
    is_chunked : bool
        False for what HDF5 itself has to write.
    estimated_nbytes : int or None
        Bytes that all payloads are going to have, judged by a few chunks; None where that is not known.
    encodes_in_parallel : bool
        Whether several threads of a process encode chunks at once.
    """

    name: str
    dtype: np.dtype[Any]
    source_dtype: np.dtype[Any]
    buffers: BufferGrid
    filters: tuple[str, ...]
    encoder: str
    read: str
    region: Region | None = None
    open_ended: bool = False
    is_chunked: bool = True
    estimated_nbytes: int | None = None
    encodes_in_parallel: bool = True

    @property
    def shape(self) -> Shape:
        """Shape of what is written, in elements."""
        return self.buffers.shape if self.region is None else self.region.shape

    @property
    def chunks(self) -> ChunkGrid:
        """The grid of chunks."""
        return self.buffers.chunks

    @property
    def nbytes(self) -> int:
        """Bytes of all elements in the file, unfiltered."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def buffer_nbytes(self) -> int:
        """Bytes of a whole buffer as it is read."""
        lengths = (min(b, n) for b, n in zip(self.buffers.buffer_shape, self.shape, strict=True))
        return math.prod(lengths) * self.source_dtype.itemsize

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of an unfiltered chunk."""
        return math.prod(self.chunks.chunk_shape) * self.dtype.itemsize

    @property
    def merged_chunks(self) -> int:
        """Number of chunks that keep some of their elements, and are merged under the lock."""
        return 0 if self.region is None else len(self.chunks) - self.region.whole_chunks

    @property
    def tasks(self) -> int:
        """Number of tasks that read and commit it; those of a dask array come on top."""
        return min(1, len(self.buffers)) if self.read == "ordered" else len(self.buffers)

    @property
    def serial(self) -> tuple[str, ...]:
        """What of it is not parallel, and why."""
        found = []
        if self.read == "serial":
            found.append("read one buffer at a time: the source is not known to bear several calls at once (read=)")
        elif self.read == "ordered":
            found.append("read in order, by one task: the source has no other way; encoding is parallel beside it")
        if not self.is_chunked:
            found.append("written by HDF5 itself, one buffer at a time: its elements or chunks have no fixed form")
        elif not self.encodes_in_parallel:
            found.append(f"encoded by {self.encoder} in each process: the filter bears no two calls at once")
        if self.merged_chunks:
            found.append(f"{self.merged_chunks} chunks are merged under the lock: the region covers parts of them")
        return tuple(found)

    def _box_in_words(self) -> str:
        return ", ".join(f"{start}:{stop}" for start, stop in self.buffers.box or ())

    def rows(self) -> list[tuple[str, str]]:
        """Return what it says, line by line, for a table."""
        shape: tuple[object, ...] = self.shape
        nbytes, counts = format_bytes(self.nbytes), [f", {len(grid)} in all" for grid in (self.chunks, self.buffers)]
        if self.open_ended:
            shape, nbytes, counts = (None, *shape[1:]), "of unknown length", ["", ""]
        chunk, buffer = format_bytes(self.chunk_nbytes), format_bytes(self.buffer_nbytes)
        cast = "" if self.dtype == self.source_dtype else f" (read as {self.source_dtype})"
        rows = [
            ("array", f"{shape} {self.dtype}{cast}, {nbytes}"),
            *([("part", f"[{self._box_in_words()}] of {self.chunks.shape}")] if self.buffers.box is not None else ()),
            ("chunks", f"{self.chunks.chunk_shape}, {chunk} each{counts[0]}"),
            ("buffers", f"{self.buffers.buffer_shape}, {buffer} each{counts[1]}, read {self.read}"),
            ("filters", f"{' > '.join(self.filters) or 'none'}, encoded by {self.encoder}"),
        ]
        if self.estimated_nbytes is not None:
            percent = 100 * self.estimated_nbytes / self.nbytes if self.nbytes else 100.0
            rows.append(("stored", f"about {format_bytes(self.estimated_nbytes)}, {percent:.0f} %"))
        if self.region is not None:
            rows.append(("into", f"{self.region}, {self.merged_chunks} chunks merged"))
        return rows + [("serial", words) for words in self.serial]

    def __str__(self) -> str:
        return printable("\n".join((self.name, *(f"    {what:<8} {words}" for what, words in self.rows()))))


@dataclass(frozen=True, slots=True)
class WritePlan:
    """What a write will do; `print` it to read it.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    datasets : tuple of DatasetPlan
        One for each dataset.
    scheduler : str
        What kind of scheduler runs it.
    threads : int
        How many threads of workers there are.
    threads_per_worker : int
        The most that one worker process has.
    projected_nbytes : int
        The most that the threads of one worker process hold at once, in bytes.  A dask
        source's own graph comes on top.
    memory_nbytes : int
        Bytes of memory that a worker process has for it.
    advice : str
        What to change so that it fits into memory; empty if it does.
    kept_nbytes : int
        About the most bytes of blocks of dask arrays that are kept in all workers together, since several
        tasks need them, or since they wait for others.
    target_problem : str
        Why the target cannot be written as it is now; empty if it can.
    already_complete : bool
        Whether everything is there already, so that `to_hdf5` will write nothing; then `datasets` is empty.
    opening : NetworkOpening or None
        What a reader over a network fetches to open the file; None for parts of existing datasets.
    references : str
        Which references to the chunks will be made, and what could prevent them; empty for none.
    """

    path: str
    datasets: tuple[DatasetPlan, ...]
    scheduler: str
    threads: int
    threads_per_worker: int
    projected_nbytes: int
    memory_nbytes: int
    advice: str = ""
    kept_nbytes: int = 0
    target_problem: str = ""
    already_complete: bool = False
    opening: NetworkOpening | None = None
    references: str = ""
    _write: Callable[..., WriteResult] | None = field(default=None, repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements in the file, unfiltered."""
        return sum(dataset.nbytes for dataset in self.datasets)

    @property
    def tasks(self) -> int:
        """Number of tasks of the write itself."""
        return 0 if self.already_complete else 2 + sum(dataset.tasks for dataset in self.datasets)

    @property
    def fits(self) -> bool:
        """Whether nothing is known that would refuse it: the workers have the memory, the target can be written."""
        return not self.advice and not self.target_problem

    @property
    def estimated_nbytes(self) -> int | None:
        """Bytes that all payloads are going to have; None where one dataset's are not known."""
        found = [dataset.estimated_nbytes for dataset in self.datasets]
        return None if None in found else sum(nbytes for nbytes in found if nbytes is not None)

    def write(self, **keywords: Any) -> WriteResult:
        """Have it done: call `to_hdf5` with the arguments of this plan.

        Parameters
        ----------
        **keywords
            Further ones, such as ``progress`` or ``resume``.

        Raises
        ------
        ArgumentError
            If it does not fit into memory.

        Examples
        --------
        >>> import os, tempfile
        >>> import numpy as np
        >>> from dask_chunkio import plan
        >>> path = os.path.join(tempfile.mkdtemp(), "out.h5")
        >>> plan(path, "/x", np.zeros((1000, 64), "i2"), chunks=(100, 64)).write().chunks
        10
        """
        if self._write is None:
            raise ArgumentError("this plan was not made by plan(...), and holds no sources to write")
        return self._write(**keywords)

    def __repr__(self) -> str:
        return "\n".join((*map(printable, (f"WritePlan of {self.path}", *self._summary())), *map(str, self.datasets)))

    def _summary(self) -> list[str]:
        if self.already_complete:
            return ["Everything is there already: nothing will be written"]
        is_known = not any(dataset.open_ended for dataset in self.datasets)
        size = format_bytes(self.nbytes) if is_known else "A stream"
        lines = [
            f"{size} by {self.threads} threads ({self.scheduler}) in {self.tasks} tasks, at most "
            f"{format_bytes(self.projected_nbytes)} of {format_bytes(self.memory_nbytes)} in each worker"
        ]
        if self.kept_nbytes:
            kept = format_bytes(self.kept_nbytes)
            lines.append(f"Up to {kept} of blocks of dask arrays are kept for other tasks that need them")
        lines += [str(self.opening)] if self.opening is not None else []
        lines += [self.references] if self.references else []
        lines += [f"DOES NOT FIT: {self.advice}"] if self.advice else []
        return [*lines, f"CANNOT BE WRITTEN: {self.target_problem}"] if self.target_problem else lines

    def _repr_html_(self) -> str:
        # The drawings are those of dask.array, whose import takes half a second.
        from dask_chunkio.planning.plan_html import plan_html

        return plan_html(self.path, self._summary(), map(_html_of, self.datasets))


def _html_of(dataset: DatasetPlan) -> str:
    from dask_chunkio.planning.plan_html import dataset_html

    grids = dataset.buffers.buffer_shape, dataset.chunks.chunk_shape
    return dataset_html(dataset.name, dataset.rows(), dataset.shape, *grids)
