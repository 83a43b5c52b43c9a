"""Every error that dask_chunkio raises on purpose.

::

    ChunkIOError
    ├── ArgumentError            (ValueError)       an argument that cannot be used
    │   ├── AlignmentError       (AssertionError)   shapes that do not fit one another
    │   └── IteratorArgumentError (AssertionError)  where hdmf's iterator asserts
    ├── ArgumentTypeError        (TypeError)        an argument of the wrong type
    │   ├── CastError                               a dtype that cannot hold the source's
    │   └── PicklingError                           a source that cannot leave its process
    ├── SourceError              (RuntimeError)     what a source returned or raised
    ├── TargetError              (OSError)          the file to write, or its folder
    │   ├── TargetExistsError    (FileExistsError)  something stands under the final name
    │   ├── TargetBusyError                         another program has the file open
    │   ├── TargetChangedError                      another write changed the file as this one began
    │   └── UnfinishedWriteError                    what an earlier write left behind
    ├── IntegrityError           (RuntimeError)     the file is not what was written to it
    ├── FilterError              (RuntimeError)     a filter that failed or is missing
    └── WorkerError              (RuntimeError)     processes that ended or never started

Every class takes one message, so that an error raised in a worker arrives whole in the
client.  Each message names what was wrong and what to do about it; what is in it of files' names and
contents is shown by `dask_chunkio.printable`.
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
    """Base of all errors of this package."""

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
    """A source whose values cannot be stored as the dataset's dtype, as HDF5 would store them."""


class PicklingError(ArgumentTypeError):
    """A source that cannot be sent to another process."""


class SourceError(ChunkIOError, RuntimeError):
    """A source that raised, or returned something else than it had announced."""


class TargetError(ChunkIOError, OSError):
    """The target file or its folder cannot be used."""


class TargetExistsError(TargetError, FileExistsError):
    """Something stands under the target's name already."""


class TargetBusyError(TargetError):
    """Another program has the target open."""


class TargetChangedError(TargetError):
    """Another write has changed the target since this one looked at it."""


class UnfinishedWriteError(TargetError):
    """An earlier write to the same target ended before its time, or is still running."""


class IntegrityError(ChunkIOError, RuntimeError):
    """The file does not hold what was written to it."""


class FilterError(ChunkIOError, RuntimeError):
    """A filter that is missing, or that failed on a chunk."""


class WorkerError(ChunkIOError, RuntimeError):
    """Worker processes that ended, or could not be started."""
