"""What a write will do, decided before anything is touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_chunkio.grid import BufferGrid, ChunkGrid, Shape
from dask_chunkio.region import Region

__all__ = ["DatasetPlan", "WritePlan", "format_nbytes"]


def format_nbytes(nbytes: float) -> str:
    """Return a size in words.

    Examples
    --------
    >>> format_nbytes(64 << 20)
    '64.0 MiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"


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
    """

    name: str
    dtype: np.dtype[Any]
    source_dtype: np.dtype[Any]
    buffers: BufferGrid
    filters: tuple[str, ...]
    encoder: str
    read: str
    region: Region | None = None

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
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    @property
    def buffer_nbytes(self) -> int:
        """Bytes of a whole buffer as it is read."""
        lengths = (min(b, n) for b, n in zip(self.buffers.buffer_shape, self.shape, strict=True))
        return int(np.prod(list(lengths), dtype=object)) * self.source_dtype.itemsize

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of an unfiltered chunk."""
        return int(np.prod(self.chunks.chunk_shape, dtype=object)) * self.dtype.itemsize

    @property
    def merged_chunks(self) -> int:
        """Number of chunks that keep some of their elements, and are merged under the lock."""
        return 0 if self.region is None else len(self.chunks) - self.region.whole_chunks

    def __str__(self) -> str:
        into = "" if self.region is None else f"\n    into     {self.region}, {self.merged_chunks} chunks merged"
        cast = "" if self.dtype == self.source_dtype else f" (read as {self.source_dtype})"
        return (
            f"{self.name}: {self.shape} {self.dtype}{cast}, {format_nbytes(self.nbytes)}\n"
            f"    chunks   {self.chunks.chunk_shape}, {format_nbytes(self.chunk_nbytes)} each, "
            f"{len(self.chunks)} in all\n"
            f"    buffers  {self.buffers.buffer_shape}, {format_nbytes(self.buffer_nbytes)} each, "
            f"{len(self.buffers)} in all, read {self.read}\n"
            f"    filters  {' > '.join(self.filters) or 'none'}, encoded by {self.encoder}{into}"
        )


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
    """

    path: str
    datasets: tuple[DatasetPlan, ...]
    scheduler: str
    threads: int
    threads_per_worker: int
    projected_nbytes: int
    memory_nbytes: int

    @property
    def nbytes(self) -> int:
        """Bytes of all elements in the file, unfiltered."""
        return sum(dataset.nbytes for dataset in self.datasets)

    def __repr__(self) -> str:
        head = (
            f"WritePlan of {self.path}\n"
            f"{format_nbytes(self.nbytes)} by {self.threads} threads ({self.scheduler}), at most "
            f"{format_nbytes(self.projected_nbytes)} of {format_nbytes(self.memory_nbytes)} in each worker"
        )
        return "\n".join((head, *map(str, self.datasets)))
