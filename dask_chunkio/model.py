"""Records that planning and execution share: a file to create, a dataset to write, and the layout that tasks use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dask_chunkio.filters.chunk_format import Payload
from dask_chunkio.geometry.grid import Box, BufferGrid, Selection, Shape, buffer_grid
from dask_chunkio.sources.base import Reader, ReadMode, StoredReader
from dask_chunkio.storage.activity.keepalive import Keepalive
from dask_chunkio.storage.completeness import StoredDataset
from dask_chunkio.storage.hdf5.dataset import DatasetLayout, DatasetSpec
from dask_chunkio.storage.target import Target

__all__ = ["Creation", "DatasetJob", "Receipt", "WriteLayout"]


@dataclass(frozen=True, slots=True)
class DatasetJob:
    """How one dataset is written.

    Parameters
    ----------
    layout : DatasetLayout
        The properties of the dataset in HDF5.
    buffer_shape : tuple of int
        Shape of its buffers.
    source_dtype : numpy.dtype
        The dtype that its source announces.
    read : str
        The read mode of its source.
    options : mapping
        The keywords of `h5py.Group.create_dataset` for its creation.
    open_ended : bool
        Whether its length is unknown until its source ends.
    most_rows : int or None
        The maximum length of an open-ended dataset.
    box : tuple of tuple of int, optional
        Start and stop along each axis of the part that this call writes; by default the whole dataset.
    has_own_data : bool
        Whether the source has only that part.
    is_sparse : bool
        Whether chunks that hold nothing but the fill value need not be stored.
    """

    layout: DatasetLayout
    buffer_shape: Shape
    source_dtype: np.dtype[Any]
    read: ReadMode
    options: Mapping[str, Any] = field(default_factory=dict)
    open_ended: bool = False
    most_rows: int | None = None
    box: Box | None = None
    has_own_data: bool = False
    is_sparse: bool = False

    @property
    def label(self) -> str:
        """The name of the dataset in the keys of its tasks; valid UTF-8, which schedulers require."""
        return self.layout.name.strip("/").replace("/", ".").encode("utf-8", "replace").decode()

    @property
    def shape(self) -> Shape:
        """Shape of what is written: a region or a part, by default the whole dataset."""
        region = self.layout.region
        return self.buffers.shape if region is None else region.shape

    @property
    def nbytes(self) -> int:
        """Bytes to write, before filters."""
        return math.prod(self.shape) * self.layout.form.dtype.itemsize

    @property
    def buffers(self) -> BufferGrid:
        """The grid of its buffers."""
        return buffer_grid(self.layout.chunks, self.buffer_shape, self.box)

    @property
    def chunk_count(self) -> int:
        """Number of the chunks that are written."""
        chunks = self.layout.chunks
        return len(chunks) if self.box is None else len(chunks.numbers_in(self.box))

    def selection(self, buffer: int) -> Selection:
        """Return the selection of a buffer, relative to the source."""
        found, region = self.buffers[buffer], self.layout.region
        if self.box is not None and self.has_own_data:
            pairs = zip(found, self.box, strict=True)
            return tuple(slice(along.start - start, along.stop - start) for along, (start, _) in pairs)
        return found if region is None else region.of_source(found)

    def payloads(self, reader: Reader, buffer: int) -> tuple[Payload, ...] | None:
        """Return the chunks of a buffer as a source stores them, if the dataset stores them so; otherwise None."""
        # Not isinstance: of a protocol it takes as long as a part of the commit.
        return self._stored(reader, self.chunks_of(buffer)) if hasattr(reader, "payloads") else None

    def copies(self, reader: Reader) -> bool:
        """Return whether chunks of a source are copied as they are stored."""
        return hasattr(reader, "payloads") and self._stored(reader, ()) is not None

    def _stored(self, reader: Any, chunks: Sequence[int]) -> tuple[Payload, ...] | None:
        layout = self.layout
        if not layout.is_chunked or layout.region is not None:
            return None
        stored: StoredReader = reader
        return stored.payloads(layout.form, layout.shape, chunks, can_grow=self._can_grow, is_sparse=self.is_sparse)

    @property
    def _can_grow(self) -> bool:
        """Whether the dataset may be extended after the write."""
        # Only the layout of a dataset that existed knows how far.
        maxshape = self.options.get("maxshape") if self.layout.maxshape is None else self.layout.maxshape
        return self.open_ended or (maxshape is not None and maxshape != self.layout.shape)

    def chunks_of(self, buffer: int) -> list[int]:
        """Return the numbers of the chunks in a buffer; a contiguous dataset counts as one chunk."""
        return list(self.buffers.chunk_numbers(buffer))

    def where(self, buffer: int, selection: Selection) -> str:
        """Return the name of the dataset, the number of a buffer and its selection, as text for messages."""
        ranges = ", ".join(f"{axis.start}:{axis.stop}" for axis in selection)
        return f"{self.layout.name}, buffer {buffer}, selection [{ranges}]"

    def of_length(self, length: int) -> DatasetJob:
        """Return a copy of the job with another length of the first axis."""
        return replace(self, layout=replace(self.layout, shape=(length, *self.layout.shape[1:])))


@dataclass(frozen=True, slots=True)
class Creation:
    """The file and the datasets that a write creates."""

    target: Target
    specs: tuple[DatasetSpec, ...]
    jobs: tuple[DatasetJob, ...]
    exclusive: bool = False

    @property
    def label(self) -> str:
        """The name in the keys of its tasks: the dataset, or "file" if there are several datasets."""
        return self.jobs[0].label if len(self.jobs) == 1 else "file"

    @property
    def key(self) -> str:
        """The key of the task that begins the write."""
        return f"create-{self.label}-{self.target.write_id}"


@dataclass(frozen=True, slots=True)
class WriteLayout:
    """The data that every task of a write needs; never changed after the write has begun.

    `complete` lists the datasets of a call that has nothing to do.  A process that holds this object in memory keeps
    the write alive through `keepalive`.
    """

    target: Target
    jobs: tuple[DatasetJob, ...]
    exclusive: bool
    started: float
    complete: tuple[StoredDataset, ...] = ()
    keepalive: Keepalive | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Confirmation that a buffer, or a whole dataset that is read in order, is committed.

    `last` is the number of the last buffer.  `length` is the length of the first axis, if it was unknown before.
    """

    dataset: int
    last: int
    buffers: int
    nbytes: int
    length: int | None = None
