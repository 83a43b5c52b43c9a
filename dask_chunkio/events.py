"""Events emitted during a write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["BufferCommitted", "Listener", "WriteEvent", "WriteFailed", "WriteFinished", "WriteStarted"]


@dataclass(frozen=True, slots=True)
class WriteStarted:
    """The tasks of a write are submitted to the scheduler.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    datasets : tuple of str
        Names of the datasets.
    nbytes : int or None
        Bytes to be written, before filters; None if the length of a stream is not known.
    buffers : int or None
        Number of buffers to be written; None if it is not known.
    """

    path: str
    datasets: tuple[str, ...]
    nbytes: int | None
    buffers: int | None


@dataclass(frozen=True, slots=True)
class BufferCommitted:
    """A buffer is committed to the file, or was already committed by an earlier attempt.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    dataset : str
        Name of the dataset.
    buffer : int
        Number of the buffer in its grid.
    nbytes : int
        Size of the buffer in bytes, before filters.
    done_nbytes : int
        Bytes of all buffers that were reported so far, this one included.
    """

    path: str
    dataset: str
    buffer: int
    nbytes: int
    done_nbytes: int


@dataclass(frozen=True, slots=True)
class WriteFinished:
    """All datasets are complete and visible under their names; with ``part=``, the part of this call is committed.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    nbytes, stored_nbytes : int
        Bytes before and after filters.
    seconds : float
        Time from the start of the first task to the end of the last.
    missing_parts : tuple of int
        Same as in `WriteResult`: the parts that other jobs have not committed yet.
    """

    path: str
    nbytes: int
    stored_nbytes: int
    seconds: float
    missing_parts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class WriteFailed:
    """The write ended before it was complete; the committed buffers are kept.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    error : BaseException
        The error that `to_hdf5` raises next.
    """

    path: str
    error: BaseException


WriteEvent = WriteStarted | BufferCommitted | WriteFinished | WriteFailed
Listener = Callable[[WriteEvent], object]
