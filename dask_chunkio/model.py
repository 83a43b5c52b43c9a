"""What planning and execution share: what is to be made, how each dataset is written, and what tasks know."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dask_chunkio.geometry.grid import BufferGrid, Selection, Shape, buffer_grid
from dask_chunkio.sources.base import ReadMode
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
        The dataset as HDF5 makes it.
    buffer_shape : tuple of int
        Shape of its buffers.
    source_dtype : numpy.dtype
        What its source announces.
    read : str
        How its source may be read.
    options : mapping
        The keywords of `h5py.Group.create_dataset` that it is made with.
    open_ended : bool
        Whether its length is not known before its source has ended.
    most_rows : int or None
        Then, the most that it may have.
    """

    layout: DatasetLayout
    buffer_shape: Shape
    source_dtype: np.dtype[Any]
    read: ReadMode
    options: Mapping[str, Any] = field(default_factory=dict)
    open_ended: bool = False
    most_rows: int | None = None

    @property
    def label(self) -> str:
        """The name of the dataset in the keys of its tasks: schedulers take no key that is not UTF-8."""
        return self.layout.name.strip("/").replace("/", ".").encode("utf-8", "replace").decode()

    @property
    def shape(self) -> Shape:
        """Shape of what is written."""
        region = self.layout.region
        return self.layout.shape if region is None else region.shape

    @property
    def nbytes(self) -> int:
        """Bytes of what is written, before filters."""
        return math.prod(self.shape) * self.layout.form.dtype.itemsize

    @property
    def buffers(self) -> BufferGrid:
        """The grid of its buffers."""
        return buffer_grid(self.layout.chunks, self.buffer_shape)

    def selection(self, buffer: int) -> Selection:
        """Return what a buffer selects from the source."""
        found, region = self.buffers[buffer], self.layout.region
        return found if region is None else region.of_source(found)

    def chunks_of(self, buffer: int) -> list[int]:
        """Return the numbers of the chunks in a buffer; a dataset in one piece counts as one."""
        return list(self.buffers.chunk_numbers(buffer))

    def where(self, buffer: int, selection: Selection) -> str:
        """Return words for messages."""
        ranges = ", ".join(f"{axis.start}:{axis.stop}" for axis in selection)
        return f"{self.layout.name}, buffer {buffer}, selection [{ranges}]"

    def of_length(self, length: int) -> DatasetJob:
        """Return the job with another length of the first axis."""
        return replace(self, layout=replace(self.layout, shape=(length, *self.layout.shape[1:])))


@dataclass(frozen=True, slots=True)
class Creation:
    """What `create_target` makes."""

    target: Target
    specs: tuple[DatasetSpec, ...]
    jobs: tuple[DatasetJob, ...]
    exclusive: bool = False

    @property
    def label(self) -> str:
        """What its tasks are called: the dataset, or "file" where there are several."""
        return self.jobs[0].label if len(self.jobs) == 1 else "file"

    @property
    def key(self) -> str:
        """Of the task in the graph that begins the write."""
        return f"create-{self.label}-{self.target.write_id}"


@dataclass(frozen=True, slots=True)
class WriteLayout:
    """What every task of a write needs to know: made by `create_target`, never changed.

    `complete` has the datasets of a call that has nothing to do.  Whoever has this in memory keeps the write alive.
    """

    target: Target
    jobs: tuple[DatasetJob, ...]
    exclusive: bool
    started: float
    complete: tuple[StoredDataset, ...] = ()
    keepalive: Keepalive | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Says that a buffer (or all of a dataset that is read in order) is committed.

    `last` is the number of the last buffer, `length` that of the first axis, where it was not known before.
    """

    dataset: int
    last: int
    buffers: int
    nbytes: int
    length: int | None = None
