"""Types of elements and fill values in the words of zarr, version 2."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

from dask_chunkio.geometry.grid import Array

__all__ = ["dtype_words", "fill_words", "problem_of_dtype"]

# Simple types that zarr knows; all are stored with the same bytes as in memory.
_KINDS = "biufcSV"
_MOST_BYTES_OF_FLOAT = {"f": 8, "c": 16}


def dtype_words(dtype: np.dtype[Any]) -> str | list[list[str]]:
    """Return a dtype as ``.zarray`` has it.

    Examples
    --------
    >>> dtype_words(np.dtype(">f8")), dtype_words(np.dtype([("a", "<i4"), ("b", "S3")]))
    ('>f8', [['a', '<i4'], ['b', '|S3']])
    """
    if dtype.hasobject:
        return "|O"
    if dtype.names is None:
        return dtype.str
    return [[name, dtype[name].str] for name in dtype.names]


def problem_of_dtype(dtype: np.dtype[Any]) -> str | None:
    """Return in words why zarr cannot hold elements of a type; None if it can.

    Examples
    --------
    >>> problem_of_dtype(np.dtype("f4")), problem_of_dtype(np.dtype([("a", "i4", (2,))]))
    (None, 'the field a is an array or has fields itself, which zarr does not read')
    """
    if dtype.names is None:
        most = _MOST_BYTES_OF_FLOAT.get(dtype.kind, dtype.itemsize)
        if dtype.kind in _KINDS and 0 < dtype.itemsize <= most and not dtype.hasobject and dtype.subdtype is None:
            return None
        return f"zarr has no type for elements of {dtype}"
    for name in dtype.names:
        if dtype[name].names is not None or dtype[name].subdtype is not None:
            return f"the field {name} is an array or has fields itself, which zarr does not read"
        if (problem := problem_of_dtype(dtype[name])) is not None:
            return f"the field {name}: {problem}"
    if dtype.itemsize != sum(dtype[name].itemsize for name in dtype.names) or _is_reordered(dtype):
        return "there are unused bytes between its fields, which zarr cannot express"
    return None


def _is_reordered(dtype: np.dtype[Any]) -> bool:
    offsets = [dtype.fields[name][1] for name in dtype.names or ()] if dtype.fields is not None else []
    return offsets != sorted(offsets)


def fill_words(fill: Array) -> Any:
    """Return one element as the ``fill_value`` of ``.zarray``.

    Examples
    --------
    >>> fill_words(np.array(np.nan)), fill_words(np.array(1 + 2j)), fill_words(np.array(b"ab"))
    ('NaN', [1.0, 2.0], 'YWI=')
    """
    kind = fill.dtype.kind
    if kind == "c":
        return [_float_words(float(fill.real)), _float_words(float(fill.imag))]
    if kind == "f":
        return _float_words(float(fill))
    if kind in "SV":
        # All bytes of the element: `tobytes` of a string has its padding, too.
        return base64.standard_b64encode(fill.tobytes()).decode() if kind == "V" else _of_string(fill)
    return fill.item()


def _of_string(fill: Array) -> str:
    return base64.standard_b64encode(fill.item()).decode()


def _float_words(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value
