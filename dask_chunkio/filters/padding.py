"""Padding bytes of elements, which belong to no value: between fields, and after long doubles."""

from __future__ import annotations

from typing import Any

import numpy as np

from dask_chunkio.geometry.grid import Array

__all__ = ["as_bytes", "is_padded", "without_padding"]

DType = np.dtype[Any]


def as_bytes(data: Array) -> Array:
    """Return a view of the elements as opaque bytes, so that a copy includes the padding bytes."""
    return data.view(f"V{data.dtype.itemsize}") if is_padded(data.dtype) else data


def without_padding(data: Array) -> Array:
    r"""Return the same values with zeros in the padding bytes.

    Examples
    --------
    >>> padded = np.full(1, 255, "u1").repeat(8).view([("a", "u1"), ("", "V3"), ("b", "i4")])[["a", "b"]]
    >>> without_padding(padded).tobytes()
    b'\xff\x00\x00\x00\xff\xff\xff\xff'
    """
    if not is_padded(data.dtype):
        return data
    found: Array = np.zeros(data.shape, data.dtype)
    _copy_values(found, data)
    return found


def is_padded(dtype: DType) -> bool:
    """Return whether elements may have padding bytes."""
    return not dtype.hasobject and (dtype.names is not None or dtype.char in "gG")


def _copy_values(target: Array, data: Array) -> None:
    if data.dtype.names is not None:
        for name in data.dtype.names:
            _copy_values(target[name], data[name])
    elif data.dtype.char == "G":
        _copy_values(target.real, data.real)
        _copy_values(target.imag, data.imag)
    elif data.dtype.char == "g":
        value = _value_of_long_double(data.dtype)
        target.view(value)["value"] = data.view(value)["value"]
    else:
        target[...] = data


def _value_of_long_double(dtype: DType) -> DType:
    # The 80-bit numbers of x87 occupy 12 or 16 bytes.
    length = 10 if np.finfo(dtype).nmant == 63 else dtype.itemsize
    offset = dtype.itemsize - length if dtype.byteorder == ">" else 0
    return np.dtype({"names": ["value"], "formats": [f"V{length}"], "offsets": [offset], "itemsize": dtype.itemsize})
