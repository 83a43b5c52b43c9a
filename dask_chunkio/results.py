"""What a write did."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_chunkio.geometry.grid import Shape
from dask_chunkio.printable import printable
from dask_chunkio.storage.completeness import StoredDataset

__all__ = ["DatasetResult", "WriteResult", "already_complete"]

logger = logging.getLogger("dask_chunkio")


@dataclass(frozen=True, slots=True)
class DatasetResult:
    """What was written to one dataset.

    Parameters
    ----------
    name : str
        Absolute path in the file.
    shape : tuple of int
        Its shape, in elements.
    dtype : numpy.dtype
        Type of its elements.
    nbytes, stored_nbytes : int
        Bytes of its elements, and of its payloads in the file.
    buffers, chunks : int
        How many were written.
    merged_chunks : int
        How many of these kept some of their elements: each was read, merged and encoded under the lock.
    """

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    nbytes: int
    stored_nbytes: int
    buffers: int
    chunks: int
    merged_chunks: int = 0


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What a write did.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    datasets : tuple of DatasetResult
        In the order in which they were given.
    seconds : float
        From the first task to the last.
    notes : tuple of str
        What had to be repaired.
    already_complete : bool
        Whether everything was there, so that nothing was written.  Then `datasets` describes what is in the file,
        with its whole shape, and says that no buffers and no chunks were written.
    """

    path: str
    datasets: tuple[DatasetResult, ...]
    seconds: float
    notes: tuple[str, ...] = ()
    already_complete: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return sum(dataset.nbytes for dataset in self.datasets)

    @property
    def stored_nbytes(self) -> int:
        """Bytes of all payloads in the file."""
        return sum(dataset.stored_nbytes for dataset in self.datasets)

    @property
    def buffers(self) -> int:
        """Number of buffers."""
        return sum(dataset.buffers for dataset in self.datasets)

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return sum(dataset.chunks for dataset in self.datasets)


def already_complete(path: str, datasets: Sequence[StoredDataset]) -> WriteResult:
    """Say that nothing was written, and what is there."""
    names = ", ".join(one.name for one in datasets)
    logger.info("%s: %s there already, nothing was written", printable(path), printable(names))
    found = (DatasetResult(one.name, one.shape, one.dtype, one.nbytes, one.stored_nbytes, 0, 0) for one in datasets)
    return WriteResult(path, tuple(found), 0.0, already_complete=True)
