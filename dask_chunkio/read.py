"""The public functions that read: `open_array`, `from_hdf5` and `verify`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
from dask.base import tokenize
from dask.utils import parse_bytes

from dask_chunkio.dask_compat import dask_array
from dask_chunkio.errors import ArgumentError
from dask_chunkio.execution.progress import byte_bar, wants_progress
from dask_chunkio.paths import local_path
from dask_chunkio.reading.array import Hdf5Array
from dask_chunkio.reading.stored_array import StoredArray, index_dataset
from dask_chunkio.reading.verification import VerificationReport, verify_file
from dask_chunkio.validation import check_flag, check_type

if TYPE_CHECKING:
    from dask.array import Array

__all__ = ["VerificationReport", "from_hdf5", "open_array", "verify"]

# A graph of more blocks does not fit into memory.
_MOST_BLOCKS = 10_000_000


def open_array(
    filename: str | os.PathLike[str],
    name: str,
    *,
    threads: int | None = None,
    locking: bool | None = None,
    isolated: bool | None = None,
) -> Hdf5Array:
    """Open a dataset as an array that is read lazily, in parallel.

    HDF5 is asked once where the chunks are.  After that, chunks are read and decoded without HDF5 and its lock, by
    several threads.  Datasets that only HDF5 can read (strings of variable length, references, virtual and external
    datasets, a few filters) are read by HDF5.

    Parameters
    ----------
    filename : str or path-like
        An HDF5 file, of any program.
    name : str
        Path of the dataset in the file.
    threads : int, optional
        Number of threads that decode the chunks of one read; by default as many as this process has processors.
    locking : bool, optional
        False opens a file that another program has open for writing; that program must not write meanwhile.
    isolated : bool, optional
        Whether HDF5 is asked in a separate process, in which a damaged file may make it crash or hang.  By default
        it is wherever such a process can be started.  False for files that you trust: it saves the start of the
        process, once.

    Returns
    -------
    Hdf5Array
        An object with ``shape``, ``dtype`` and numpy's indexing.

    Raises
    ------
    TargetError
        If there is no such file or dataset, or it cannot be read.
    TargetBusyError
        If another program has the file open for writing.
    UnfinishedWriteError
        If a write was cut off while it changed the file.
    IntegrityError
        If the metadata of the dataset are damaged, crash HDF5, or take it more time or memory than those of any valid
        file.  A read raises it for a damaged chunk.
    FilterError
        If a filter plugin is missing.
    WorkerError
        If ``isolated=True``, and no process can be started.
    ArgumentError, ArgumentTypeError
        If an argument cannot be used.

    Examples
    --------
    >>> import os, tempfile, h5py
    >>> path = os.path.join(tempfile.mkdtemp(), "x.h5")
    >>> with h5py.File(path, "w") as file:
    ...     _ = file.create_dataset("x", data=np.arange(12).reshape(3, 4), chunks=(2, 2), compression="gzip")
    >>> array = open_array(path, "/x")
    >>> array.shape, array[1, ::-1]
    ((3, 4), array([7, 6, 5, 4]))
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ArgumentError(f"threads={threads!r} is not a number of threads; give an integer of at least 1")
    return Hdf5Array(_indexed(filename, name, locking, isolated), threads)


def from_hdf5(
    filename: str | os.PathLike[str],
    name: str,
    chunks: Any = "auto",
    *,
    locking: bool | None = None,
    isolated: bool | None = None,
) -> Array:
    """Return a dataset as a dask array, whose blocks are read and decoded in parallel.

    HDF5 is asked once, here, where the chunks are.  The tasks read and decode chunks without HDF5 and its lock, in any
    thread or process that sees the file, and do not keep it open.

    Parameters
    ----------
    filename : str or path-like
        An HDF5 file, of any program.
    name : str
        Path of the dataset in the file.
    chunks : object
        Shape of the blocks, as `dask.array.from_array` takes it.  By default they are multiples of the chunks in the
        file, of about ``array.chunk-size`` of dask's configuration.
    locking, isolated : bool, optional
        As `open_array` takes them.

    Returns
    -------
    dask.array.Array
        Its name follows from the file, its size and the time of its last change.

    Raises
    ------
    ArgumentError, ArgumentTypeError, FilterError, IntegrityError, TargetError, TargetBusyError, UnfinishedWriteError,
    WorkerError
        As `open_array`.

    Examples
    --------
    >>> import os, tempfile, h5py
    >>> path = os.path.join(tempfile.mkdtemp(), "x.h5")
    >>> with h5py.File(path, "w") as file:
    ...     _ = file.create_dataset("x", data=np.arange(12).reshape(3, 4), chunks=(2, 2), compression="gzip")
    >>> int(from_hdf5(path, "/x").sum().compute())
    66
    """
    da = dask_array()
    # A block is read by one thread: dask runs several at once.
    array = Hdf5Array(_indexed(filename, name, locking, isolated), threads=1)
    _require_few_blocks(array, chunks)
    try:
        blocks = da.core.normalize_chunks(chunks, array.shape, dtype=array.dtype, previous_chunks=array.chunks)
    except (ValueError, TypeError, ArithmeticError, NotImplementedError, MemoryError) as error:
        raise ArgumentError(f"chunks={chunks!r} cannot be the blocks of an array of {array.shape}: {error}") from error
    meta = np.empty((0,) * array.ndim, array.dtype)
    found: Array = da.from_array(array, blocks, name=f"from-hdf5-{tokenize(array, blocks)}", lock=False, meta=meta)
    return found


def verify(path: str | os.PathLike[str], *, progress: bool | None = None) -> VerificationReport:
    """Compare every payload of an unfinished write with its checksum, or decode every chunk of any other file.

    Parameters
    ----------
    path : str or path-like
        An HDF5 file, or one that is being written.
    progress : bool, optional
        Whether to show a bar; by default as `to_hdf5` does.

    Returns
    -------
    VerificationReport
        One line for each problem.  A chunk that is reserved, and whose payload was never placed, is a
        problem: a resumed write reads its source again.
        A dataset whose filter plugin is missing is not checked; `VerificationReport.undecodable` names it.
        Chunks are decoded by several threads of a separate process: HDF5 crashes on some
        damaged files, which is reported as a problem.

    Raises
    ------
    TargetError
        If there is no such file, or it is not HDF5.
    IntegrityError
        If the side files of a write are damaged.
    WorkerError
        If the process that decodes cannot be started.

    Examples
    --------
    >>> import os, tempfile
    >>> import h5py, numpy as np
    >>> path = os.path.join(tempfile.mkdtemp(), "x.h5")
    >>> with h5py.File(path, "w") as file:
    ...     _ = file.create_dataset("x", data=np.arange(100), chunks=(10,), compression="gzip")
    >>> verify(path).checked, verify(path).ok
    (10, True)
    """
    check_flag("progress", progress)
    found = local_path("path", path)
    if not wants_progress(progress):
        return verify_file(found)
    with byte_bar(os.path.basename(found), _nbytes(found)) as bar:
        report = verify_file(found, bar.update)
        # Metadata are not counted.
        bar.update(max(0, (bar.total or bar.n) - bar.n))
    return report


def _indexed(filename: str | os.PathLike[str], name: str, locking: bool | None, isolated: bool | None) -> StoredArray:
    check_type("name", name, isinstance(name, str), "a str, the path of a dataset in the file")
    check_flag("isolated", isolated)
    return index_dataset(os.path.realpath(local_path("filename", filename)), name, locking, isolated)


def _require_few_blocks(array: Hdf5Array, chunks: Any) -> None:
    """Refuse a shape that dask cannot divide into blocks: a file may declare any."""
    most = _MOST_BLOCKS * parse_bytes(dask.config.get("array.chunk-size"))
    if chunks == "auto" and array.nbytes > most:
        raise ArgumentError(
            f"{array.filename}, {array.name}: the shape {array.shape} of {array.dtype} is more than {_MOST_BLOCKS} "
            f"blocks; read a part of it with open_array, or give chunks="
        )


def _nbytes(path: str) -> int | None:
    """Return the size of a file; None without a file."""
    try:
        return os.path.getsize(path)
    except OSError:
        return None
