"""Conversion from the dtype of a source to that of a dataset, with the same results as in HDF5.

HDF5 converts numbers of the machine's byte order with casts of the compiler.  These agree with numpy's, except for
values out of range and NaNs of half precision.  For other byte orders HDF5 converts in software, with errors; this
module converts such numbers in the machine's byte order and then swaps their bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from h5py import h5t

from dask_chunkio.filters.compatibility import common_fields, with_parts
from dask_chunkio.filters.padding import as_bytes
from dask_chunkio.geometry.grid import Array

__all__ = ["assign", "convert"]

DType = np.dtype[Any]


def convert(data: Array, dtype: DType) -> Array:
    """Return `data` as `dtype`, converted as in HDF5.

    Integers out of range become the nearest integer in range, other numbers become infinite.  Strings are truncated or
    padded.  Fields are matched by their names.

    Examples
    --------
    >>> convert(np.array([-5, 300, 7]), np.dtype("u1"))
    array([  0, 255,   7], dtype=uint8)
    >>> convert(np.array([(1, 2)], [("lon", "i4"), ("lat", "i4")]), np.dtype([("lat", "f4"), ("lon", "f4")]))
    array([(2., 1.)], dtype=[('lat', '<f4'), ('lon', '<f4')])
    """
    if data.dtype == dtype:
        return data
    if dtype.names is not None or data.dtype.names is not None:
        found: Array = np.zeros(data.shape, dtype)
        assign(found, data)
        return found
    if dtype.kind == "S":
        return _strings(data, dtype)
    if dtype.kind == "c":
        return _complex(data, dtype)
    return _integers(data, dtype) if dtype.kind in "iu" else _floats(data, dtype)


def assign(target: Array, data: Array) -> None:
    """Store values in an array, matched by the names of their fields; other fields of the array keep their values."""
    if target.dtype == data.dtype:
        as_bytes(target)[...] = as_bytes(data)
        return
    if data.dtype.names is None:
        target[...] = convert(data, target.dtype)
        return
    parts = target.view(with_parts(target.dtype)) if target.dtype.kind == "c" else target
    for name in common_fields(data.dtype, parts.dtype):
        assign(parts[name], data[name])


def _integers(data: Array, dtype: DType) -> Array:
    if data.dtype.kind in "iu":
        source, target = np.iinfo(data.dtype), np.iinfo(dtype)
        low, high = max(source.min, target.min), min(source.max, target.max)
        if (low, high) != (source.min, source.max):
            data = np.clip(data, data.dtype.type(low), data.dtype.type(high))
    return data.astype(dtype)


def _floats(data: Array, dtype: DType) -> Array:
    native = dtype.newbyteorder("=")
    if dtype.kind != "f" or native == data.dtype.newbyteorder("="):
        return data.astype(dtype)
    if data.dtype.char == "g" and dtype.itemsize == 2:
        # numpy would round twice.
        return _by_hdf5(data.astype("g"), native).reshape(data.shape).astype(dtype, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        found = data.astype(native)
    if dtype.itemsize < data.dtype.itemsize or dtype.itemsize == 2:
        _overflow(data, found)
    if data.dtype.kind == "f" and 2 in (data.dtype.itemsize, dtype.itemsize):
        _nans(data, found)
    return found.astype(dtype, copy=False)


def _overflow(data: Array, found: Array) -> None:
    """Make those numbers infinite that numpy rounds down to the largest finite number."""
    largest = np.finfo(found.dtype).max
    near = np.abs(found) == largest
    if near.any():
        over = np.zeros(found.shape, bool)
        over[near] = np.abs(data[near]) > largest
        found[over] = np.copysign(np.inf, found[over])


def _nans(data: Array, found: Array) -> None:
    """Replace NaNs by those that HDF5 makes when it converts from or to half precision."""
    odd = np.isnan(found)
    if odd.any():
        found[odd] = _by_hdf5(data[odd].astype(data.dtype.newbyteorder("=")), found.dtype)


def _by_hdf5(data: Array, dtype: DType) -> Array:
    room = np.zeros(data.size * max(data.itemsize, dtype.itemsize), "u1")
    room[: data.nbytes] = np.ascontiguousarray(data).reshape(-1).view("u1")
    h5t.convert(h5t.py_create(data.dtype), h5t.py_create(dtype), data.size, room)
    return room[: data.size * dtype.itemsize].view(dtype)


def _complex(data: Array, dtype: DType) -> Array:
    found = np.empty(data.shape, dtype)
    found.real = convert(data.real, found.real.dtype)
    found.imag = convert(data.imag, found.imag.dtype)
    return found


def _strings(data: Array, dtype: DType) -> Array:
    """Convert strings; truncate them at their first NUL if the lengths differ, as HDF5 does."""
    if data.dtype.itemsize == dtype.itemsize:
        return data.astype(dtype)
    length = min(data.dtype.itemsize, dtype.itemsize)
    text = np.ascontiguousarray(data).reshape(-1).view("u1").reshape(-1, data.dtype.itemsize)[:, :length]
    found = np.zeros((data.size, dtype.itemsize), "u1")
    found[:, :length] = text * np.logical_and.accumulate(text != 0, axis=1)
    return found.reshape(-1).view(dtype).reshape(data.shape)
