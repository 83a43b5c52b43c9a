"""Writing through HDF5 itself: elements of no fixed length, of types that numpy lacks, or of unchunked datasets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import h5py
import numpy as np

from dask_chunkio.filters.compatibility import is_partial
from dask_chunkio.filters.conversion import assign
from dask_chunkio.geometry.grid import Array, Selection, Shape, selection_shape

__all__ = ["write_elements"]

# Most bytes of zeros that are written at once.
_MOST = 1 << 20


def write_elements(dataset: h5py.Dataset, data: Array, selection: Selection, end: int) -> None:
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
    end : int
        End of the bytes of the file that anything was ever stored in.
    """
    if data.size < dataset.size and _is_unallocated(dataset):
        _allocate(dataset, end)
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


def _is_unallocated(dataset: h5py.Dataset) -> bool:
    """Return whether a dataset has no space yet, and HDF5 would leave in it what the file held there before.

    HDF5 initializes the space only if the dataset has a fill value of its own, or elements of variable length (see
    ``H5Pset_fill_time`` in its reference manual); until then, readers find zeros.
    """
    plist = dataset.id.get_create_plist()
    return (
        plist.get_layout() == h5py.h5d.CONTIGUOUS
        and dataset.id.get_offset() is None
        and not dataset.dtype.hasobject
        and plist.get_fill_time() == h5py.h5d.FILL_TIME_IFSET
        and plist.fill_value_defined() != h5py.h5d.FILL_VALUE_USER_DEFINED
    )


def _allocate(dataset: h5py.Dataset, end: int) -> None:
    """Give a dataset its space, with zeros where that space lies before `end`."""
    boxes = _boxes(dataset.shape, dataset.dtype.itemsize)
    first, _ = next(boxes)
    # The first write allocates the space.
    _write(dataset, np.zeros(selection_shape(first), dataset.dtype), first)
    reused = end - int(dataset.id.get_offset())
    for box, start in boxes:
        if start * dataset.dtype.itemsize >= reused:
            break
        _write(dataset, np.zeros(selection_shape(box), dataset.dtype), box)


def _boxes(shape: Shape, itemsize: int) -> Iterator[tuple[Selection, int]]:
    """Return boxes of a limited size that cover a shape, in C order, each with the number of its first element."""
    box = list(shape)
    for axis in range(len(shape)):
        box[axis] = max(1, min(box[axis], _MOST // (itemsize * math.prod(box[axis + 1 :]))))
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    for corner in itertools.product(*map(range, itertools.repeat(0), shape, box)):
        ends = map(min, map(sum, zip(corner, box, strict=True)), shape)
        yield tuple(map(slice, corner, ends)), sum(at * stride for at, stride in zip(corner, strides, strict=True))
