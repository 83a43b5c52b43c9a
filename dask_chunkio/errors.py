"""All errors that dask_chunkio raises on purpose.

::

    ChunkIOError
    ├── ArgumentError            (ValueError)       an argument that cannot be used
    │   ├── AlignmentError       (AssertionError)   shapes that do not fit one another
    │   └── IteratorArgumentError (AssertionError)  an argument that hdmf checks with assert
    ├── ArgumentTypeError        (TypeError)        an argument of the wrong type
    │   ├── CastError                               a dtype that cannot hold the source's
    │   └── PicklingError                           a source that cannot leave its process
    ├── SourceError              (RuntimeError)     a source that raised or returned wrong data
    ├── TargetError              (OSError)          the file to write, or its folder
    │   ├── TargetExistsError    (FileExistsError)  the final name exists already
    │   ├── TargetBusyError                         another program has the file open
    │   ├── TargetChangedError                      another write changed the file as this one began
    │   └── UnfinishedWriteError                    an earlier write that has not finished
    ├── IntegrityError           (RuntimeError)     the file is not what was written to it
    ├── FilterError              (RuntimeError)     a filter that failed or is missing
    └── WorkerError              (RuntimeError)     processes that ended or never started

Each class takes one message, so that an error raised in a worker arrives unchanged in the
client.  Each message names what was wrong and what to do about it.  `dask_chunkio.printable` escapes the names and
contents of files in a message.
"""

from __future__ import annotations

from dask_chunkio.printable import printable

__all__ = [
    "AlignmentError",
    "ArgumentError",
    "ArgumentTypeError",
    "CastError",
    "ChunkIOError",
    "FilterError",
    "IntegrityError",
    "IteratorArgumentError",
    "PicklingError",
    "SourceError",
    "TargetBusyError",
    "TargetChangedError",
    "TargetError",
    "TargetExistsError",
    "UnfinishedWriteError",
    "WorkerError",
]


class ChunkIOError(Exception):
    """Base class of all errors of this package."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ArgumentError(ChunkIOError, ValueError):
    """An argument that cannot be used."""


class AlignmentError(ArgumentError, AssertionError):
    """Chunk, buffer and array shapes that do not fit one another."""


class IteratorArgumentError(ArgumentError, AssertionError):
    """An argument of an iterator for which hdmf raises ``AssertionError``."""


class ArgumentTypeError(ChunkIOError, TypeError):
    """An argument of the wrong type."""


class CastError(ArgumentTypeError):
    """A source whose values HDF5 cannot convert to the dtype of the dataset."""


class PicklingError(ArgumentTypeError):
    """A source that cannot be sent to another process."""


class SourceError(ChunkIOError, RuntimeError):
    """A source that raised, or that returned something other than it had announced."""


class TargetError(ChunkIOError, OSError):
    """The target file or its folder cannot be used."""


class TargetExistsError(TargetError, FileExistsError):
    """The name of the target exists already."""


class TargetBusyError(TargetError):
    """Another program has the target open."""


class TargetChangedError(TargetError):
    """Another write has changed the target since this write inspected it."""


class UnfinishedWriteError(TargetError):
    """An earlier write to the same target was interrupted, or is still running."""


class IntegrityError(ChunkIOError, RuntimeError):
    """The file does not hold what was written to it."""


class FilterError(ChunkIOError, RuntimeError):
    """A filter that is missing, or that failed on a chunk."""


class WorkerError(ChunkIOError, RuntimeError):
    """Worker processes that ended, or that could not be started."""
