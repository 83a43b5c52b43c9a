"""Functions of HDF5 that h5py does not expose."""

from __future__ import annotations

import ctypes
import functools
import itertools
from typing import Any

import h5py
import numpy as np

from dask_chunkio.geometry.grid import Array

__all__ = ["EXTENSIBLE_ARRAY", "can_search", "chunk_index_type", "keep_unlinked", "keeps_partial_chunks_unfiltered"]
__all__ += ["hdf5_lock", "search_chunks", "separate_library"]

# H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS and H5D_CHUNK_IDX_EARRAY of H5Dpublic.h.
_DONT_FILTER_PARTIAL_CHUNKS = 2
EXTENSIBLE_ARRAY = 4


def keeps_partial_chunks_unfiltered(plist: h5py.h5p.PropDCID) -> bool:
    """Return whether chunks that reach beyond the dataset skip the filters.

    Neither h5py nor the masks of the chunks show it.
    """
    library = _hdf5()
    if library is None:
        return False
    options = ctypes.c_uint()
    with h5py._objects.phil:
        failed = library.H5Pget_chunk_opts(ctypes.c_int64(plist.id), ctypes.byref(options))
    return failed >= 0 and bool(options.value & _DONT_FILTER_PARTIAL_CHUNKS)


def chunk_index_type(dataset: h5py.h5d.DatasetID) -> int | None:
    """Return HDF5's number for the index type of a chunked dataset; None if the library does not expose it."""
    library = _hdf5()
    if library is None:
        return None
    kind = ctypes.c_int()
    with h5py._objects.phil:
        failed = library.H5Dget_chunk_index_type(ctypes.c_int64(dataset.id), ctypes.byref(kind))
    return kind.value if failed >= 0 else None


def can_search() -> bool:
    """Return whether `search_chunks` can find anything."""
    return _hdf5() is not None


def search_chunks(dataset: h5py.h5d.DatasetID, origins: Array) -> Array:
    """Search for chunks in the way HDF5 does to read them, and return the stored size of each in bytes.

    Parameters
    ----------
    dataset : h5py.h5d.DatasetID
        A chunked dataset.
    origins : numpy.ndarray
        First element of each chunk, one row per chunk.

    Returns
    -------
    numpy.ndarray
        0 for a chunk that is not found, and for all chunks if the library does not expose the function.
    """
    library, count = _hdf5(), len(origins)
    found = np.zeros(count, np.uint64)
    if library is None or not count:
        return found
    places = np.ascontiguousarray(origins, np.uint64)
    first, length = (array.__array_interface__["data"][0] for array in (places, found))
    arguments = (
        itertools.repeat(dataset.id),
        range(first, first + places.nbytes, places.strides[0]),
        range(length, length + found.nbytes, found.itemsize),
    )
    with h5py._objects.phil:
        failed = np.fromiter(map(library.H5Dget_chunk_storage_size, *arguments), np.int64, count) < 0
    found[failed] = 0
    return found


def keep_unlinked(dataset: h5py.h5d.DatasetID) -> None:
    """Make HDF5 leave a dataset and all its space unchanged when its only link is removed."""
    library = _hdf5()
    if library is not None:
        with h5py._objects.phil:
            library.H5Oincr_refcount(ctypes.c_int64(dataset.id))


def separate_library(keeps_gil: bool) -> Any:
    """Return an object of its own for the HDF5 library that h5py uses; None if it cannot be called.

    Parameters
    ----------
    keeps_gil : bool
        Whether calls keep the GIL, which suits short ones.
    """
    if _hdf5() is None:
        return None
    return (ctypes.PyDLL if keeps_gil else ctypes.CDLL)(h5py.defs.__file__)


def hdf5_lock() -> Any:
    """Return the lock of h5py, which whoever calls HDF5 holds."""
    return h5py._objects.phil


@functools.cache
def _hdf5() -> Any:
    """Return the HDF5 library that h5py uses; None if h5py's modules do not expose its functions."""
    try:
        # PyDLL keeps the GIL.  If each of very many calls released it, each would wait for other threads.
        library = ctypes.PyDLL(h5py.defs.__file__)
        library.H5Dget_chunk_storage_size.argtypes = (ctypes.c_int64, ctypes.c_size_t, ctypes.c_size_t)
        return library if library.H5Pget_chunk_opts and library.H5Dget_chunk_index_type else None
    except (OSError, AttributeError):  # Windows
        return None
