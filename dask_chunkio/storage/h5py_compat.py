"""What HDF5 knows and h5py does not show."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import h5py

__all__ = ["EXTENSIBLE_ARRAY", "chunk_index_type", "keep_unlinked", "keeps_partial_chunks_unfiltered"]

# H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS and H5D_CHUNK_IDX_EARRAY of H5Dpublic.h.
_DONT_FILTER_PARTIAL_CHUNKS = 2
EXTENSIBLE_ARRAY = 4


def keeps_partial_chunks_unfiltered(plist: h5py.h5p.PropDCID) -> bool:
    """Say whether chunks that reach beyond the dataset skip the pipeline, which neither h5py nor their mask shows."""
    library = _hdf5()
    if library is None:
        return False
    options = ctypes.c_uint()
    with h5py._objects.phil:
        failed = library.H5Pget_chunk_opts(ctypes.c_int64(plist.id), ctypes.byref(options))
    return failed >= 0 and bool(options.value & _DONT_FILTER_PARTIAL_CHUNKS)


def chunk_index_type(dataset: h5py.h5d.DatasetID) -> int | None:
    """Return HDF5's number of the kind of index that a chunked dataset has; None where the library does not show it."""
    library = _hdf5()
    if library is None:
        return None
    kind = ctypes.c_int()
    with h5py._objects.phil:
        failed = library.H5Dget_chunk_index_type(ctypes.c_int64(dataset.id), ctypes.byref(kind))
    return kind.value if failed >= 0 else None


def keep_unlinked(dataset: h5py.h5d.DatasetID) -> None:
    """Have HDF5 leave a dataset and all its space as they are when its only link is removed."""
    library = _hdf5()
    if library is not None:
        with h5py._objects.phil:
            library.H5Oincr_refcount(ctypes.c_int64(dataset.id))


@functools.cache
def _hdf5() -> Any:
    """Return the HDF5 library that h5py uses; None where a library does not show what it was linked with."""
    try:
        library = ctypes.CDLL(h5py.defs.__file__)
        return library if library.H5Pget_chunk_opts and library.H5Dget_chunk_index_type else None
    except (OSError, AttributeError):  # Windows
        return None
