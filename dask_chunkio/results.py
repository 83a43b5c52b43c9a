"""What a write did."""

from __future__ import annotations

import html
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from dask.utils import format_bytes

from dask_chunkio.geometry.grid import Shape
from dask_chunkio.printable import missing_in_words, printable
from dask_chunkio.storage.completeness import StoredDataset
from dask_chunkio.storage.journal.journal import Entries

__all__ = ["DatasetResult", "WriteResult", "already_complete", "amounts_of", "bytes_in_words"]

logger = logging.getLogger("dask_chunkio")

_COLUMNS = ("dataset", "shape", "dtype", "size", "stored", "ratio", "chunks")


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
    """What a write did; in a notebook it shows itself as a table.

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
    missing_parts : tuple of int
        Of a call with ``part=``: the numbers of the parts that other jobs have not committed yet.  While there are
        some, the file does not have its name yet, and `datasets` describes the part of this call.
    places : mapping of str to numpy.ndarray, optional
        For the draft that makes references: where the chunks of each dataset are, if the call has written all of them.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_chunkio import to_hdf5
    >>> result = to_hdf5("zeros.h5", "/x", np.zeros((1000, 1024), "i2"), compression="gzip")
    >>> result.nbytes, result.ratio > 100, result.rate > 0
    (2048000, True, True)
    >>> print(result)  # doctest: +ELLIPSIS
    WriteResult of ...zeros.h5: /x, 1.95 MiB stored in ... kiB (ratio ...) in ... s, .../s
    """

    path: str
    datasets: tuple[DatasetResult, ...]
    seconds: float
    notes: tuple[str, ...] = ()
    already_complete: bool = False
    missing_parts: tuple[int, ...] = ()
    places: Mapping[str, Entries] | None = field(default=None, repr=False, compare=False)

    @property
    def is_whole(self) -> bool:
        """Whether the file is complete and has its name."""
        return not self.missing_parts

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

    @property
    def ratio(self) -> float:
        """Bytes of the elements for each byte of payload; 1 where there are no payloads."""
        return self.nbytes / self.stored_nbytes if self.stored_nbytes else 1.0

    @property
    def rate(self) -> float:
        """Bytes of the elements that were written in a second; 0 where nothing was written."""
        return self.nbytes / self.seconds if self.seconds > 0 else 0.0

    def __repr__(self) -> str:
        names = self.datasets[0].name if len(self.datasets) == 1 else f"{len(self.datasets)} datasets"
        words = printable(f"WriteResult of {self.path}: {names}, {amounts_of(self)}")
        return words.replace("\n", "\\n")

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{word}</th>" for word in _COLUMNS)
        rows = "".join(f"<tr>{_html_cells(dataset)}</tr>" for dataset in self.datasets)
        path, amounts = html.escape(printable(self.path)), html.escape(amounts_of(self))
        notes = "".join(f"<p>{html.escape(printable(note))}</p>" for note in self.notes)
        return f"<div><b>{path}</b><p>{amounts}</p><table><tr>{head}</tr>{rows}</table>{notes}</div>"


def amounts_of(result: WriteResult) -> str:
    """Return sizes, time and rate of a write in words.

    Examples
    --------
    >>> amounts_of(WriteResult("out.h5", (DatasetResult("/x", (2**20,), np.dtype("i2"), 2**21, 2**20, 1, 1),), 0.5))
    '2.00 MiB stored in 1.00 MiB (ratio 2.00) in 0.50 s, 4.00 MiB/s'
    """
    sizes = f"{format_bytes(result.nbytes)} stored in {format_bytes(result.stored_nbytes)} (ratio {result.ratio:.2f})"
    if result.already_complete:
        return f"{sizes} there already; nothing was written"
    left = f"; {missing_in_words(result.missing_parts)}" if result.missing_parts else ""
    return f"{sizes} in {result.seconds:.2f} s, {format_bytes(int(result.rate))}/s{left}"


def bytes_in_words(nbytes: int) -> str:
    """Return a number of bytes with a unit.

    Examples
    --------
    >>> bytes_in_words(3 << 20)
    '3.00 MiB'
    """
    return str(format_bytes(nbytes))


def _html_cells(dataset: DatasetResult) -> str:
    ratio = dataset.nbytes / dataset.stored_nbytes if dataset.stored_nbytes else 1.0
    sizes = format_bytes(dataset.nbytes), format_bytes(dataset.stored_nbytes)
    cells = printable(dataset.name), dataset.shape, dataset.dtype, *sizes, f"{ratio:.2f}", dataset.chunks
    return "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)


def already_complete(path: str, datasets: Sequence[StoredDataset]) -> WriteResult:
    """Say that nothing was written, and what is there."""
    names = ", ".join(one.name for one in datasets)
    logger.info("%s: %s there already, nothing was written", printable(path), printable(names))
    found = (DatasetResult(one.name, one.shape, one.dtype, one.nbytes, one.stored_nbytes, 0, 0) for one in datasets)
    return WriteResult(path, tuple(found), 0.0, already_complete=True)
