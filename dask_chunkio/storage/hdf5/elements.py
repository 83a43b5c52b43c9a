"""Writing through HDF5 itself: elements of no fixed length, of types that numpy lacks, or of unchunked datasets."""

from __future__ import annotations

import h5py
import numpy as np

from dask_chunkio.filters.compatibility import is_partial
from dask_chunkio.filters.conversion import assign
from dask_chunkio.geometry.grid import Array, Selection, selection_shape

__all__ = ["write_elements"]


def write_elements(dataset: h5py.Dataset, data: Array, selection: Selection) -> None:
    """Write elements through HDF5.

    h5py's own ``dataset[selection] = data`` is not used: it guesses the meaning of objects.

    Parameters
    ----------
    dataset : h5py.Dataset
        The dataset.
    data : numpy.ndarray
        Elements, as `storable_elements` returns them.
    selection : tuple of slice
        Where the elements go.
    """
    if not data.size:
        return
    if not data.dtype.hasobject and is_partial(data.dtype, dataset.dtype):
        # HDF5 does not always preserve the other fields.
        old = np.asarray(dataset[selection or ()], dataset.dtype)
        assign(old, data)
        data = old
    _write(dataset, np.asarray(data, order="C"), selection)


def _write(dataset: h5py.Dataset, data: Array, selection: Selection) -> None:
    # Scalars and dask drop the metadata that h5py stores in a dtype.
    kind = None if data.dtype.hasobject or data.dtype != dataset.dtype else h5py.h5t.py_create(dataset.dtype)
    if not selection:
        dataset.id.write(h5py.h5s.ALL, h5py.h5s.ALL, data, kind)
        return
    there = dataset.id.get_space()
    there.select_hyperslab(tuple(axis.start for axis in selection), selection_shape(selection))
    dataset.id.write(h5py.h5s.create_simple(data.shape), there, data, kind)
