"""What a write tells of itself while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["BufferCommitted", "Listener", "WriteEvent", "WriteFailed", "WriteFinished", "WriteStarted"]


@dataclass(frozen=True, slots=True)
class WriteStarted:
    """The tasks of a write are handed to the scheduler.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    datasets : tuple of str
        Names of the datasets.
    nbytes : int or None
        Bytes that are going to be written, before filters; None where a stream's length is not known.
    buffers : int or None
        How many buffers that are; None where it is not known.
    """

    path: str
    datasets: tuple[str, ...]
    nbytes: int | None
    buffers: int | None


@dataclass(frozen=True, slots=True)
class BufferCommitted:
    """A buffer is in the file, or was found there.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    dataset : str
        Name of the dataset.
    buffer : int
        Number of the buffer in its grid.
    nbytes : int
        Its bytes, before filters.
    done_nbytes : int
        Bytes of all buffers that were heard of so far, this one included.
    """

    path: str
    dataset: str
    buffer: int
    nbytes: int
    done_nbytes: int


@dataclass(frozen=True, slots=True)
class WriteFinished:
    """Every dataset is whole, and stands under its name.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    nbytes, stored_nbytes : int
        Bytes before and after filters.
    seconds : float
        From the first task to the last.
    """

    path: str
    nbytes: int
    stored_nbytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class WriteFailed:
    """The write has ended before its time; what was committed is kept.

    Parameters
    ----------
    path : str
        Absolute path of the file.
    error : BaseException
        What `to_hdf5` raises next.
    """

    path: str
    error: BaseException


WriteEvent = WriteStarted | BufferCommitted | WriteFinished | WriteFailed
Listener = Callable[[WriteEvent], object]
