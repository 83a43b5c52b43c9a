"""What is private in hdmf: the only module that uses it, and refuses versions of hdmf that lack it."""

from __future__ import annotations

from typing import Any

import h5py
import hdmf
from hdmf.data_utils import DataChunkIterator

from dask_chunkio.errors import ArgumentError

__all__ = ["check_version", "has_been_begun", "set_dataset", "set_file", "set_queue", "unfinished_queue"]

_OLDEST = (6, 2)
# Found in hdmf 6.2: what `HDF5IO` has after its construction.
_FILE, _QUEUE = "_HDF5IO__file", "_HDF5IO__dci_queue"
_DATASET = "_H5DataIO__dataset"
_NEXT_CHUNK = "_DataChunkIterator__next_chunk"


def check_version(io: Any) -> None:
    """Refuse a version of hdmf in which the private names mean something else.

    Parameters
    ----------
    io : hdmf.backends.hdf5.HDF5IO
        An object that has been constructed.

    Raises
    ------
    ArgumentError
        If the version is too old, or `io` lacks a name.
    """
    found = tuple(int(part) if part.isdigit() else 0 for part in hdmf.__version__.split(".")[:2])
    missing = [name for name in (_FILE, _QUEUE) if not hasattr(io, name)]
    if found < _OLDEST or missing:
        raise ArgumentError(
            f"hdmf {hdmf.__version__} cannot be written through"
            f"{' (it lacks ' + ', '.join(missing) + ')' if missing else ''}; install hdmf 6.2 or a later version that "
            f"this version of dask_chunkio knows, or use hdmf's own HDF5IO"
        )


def set_file(io: Any, file: h5py.File) -> None:
    """Set the open file of an ``HDF5IO``."""
    setattr(io, _FILE, file)


def set_queue(io: Any, queue: Any) -> None:
    """Set the queue of the iterators of an ``HDF5IO``."""
    setattr(io, _QUEUE, queue)


def unfinished_queue(io: Any) -> Any:
    """Return the queue of the iterators of an ``HDF5IO``."""
    return getattr(io, _QUEUE)


def set_dataset(wrapper: Any, dataset: h5py.Dataset) -> None:
    """Replace ``H5DataIO.dataset``, which can be set only once."""
    setattr(wrapper, _DATASET, dataset)


def has_been_begun(iterator: DataChunkIterator) -> bool:
    """Return whether a DataChunk was taken from an iterator; the one that it reads on its own does not count."""
    held = getattr(iterator, _NEXT_CHUNK, None)
    return bool(iterator.chunk_index > 1 or (iterator.chunk_index == 1 and (held is None or held.data is None)))
