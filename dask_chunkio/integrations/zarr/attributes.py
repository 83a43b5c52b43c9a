"""Attributes of zarr, which are JSON, as attributes of HDF5, which have types, and back.

A string, a number, a bool, and a list of several of one of these have a type in HDF5.  Any other value (an object, a
nested or empty list, null, a number beyond 64 bits, a string with a NUL, what is larger than an attribute may be) is
stored as JSON text, and the attribute ``dask_chunkio_json`` of the same object lists the names of those.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np

__all__ = ["ENUM", "JSON_NAMES", "UnstorableError", "enum_of", "from_json", "json_text", "named_fill", "parse_text"]
__all__ += ["parsed_names"]
__all__ += ["stored_fill", "to_json"]

JSON_NAMES = "dask_chunkio_json"
ENUM = "dask_chunkio_enum"
# HDF5 keeps attributes up to 64 kB; a string takes 16 bytes of it, wherever its text is.
_MOST_NBYTES, _STRING_NBYTES = 60_000, 16
_DOUBLE = "<d"


class UnstorableError(Exception):
    """A value that the other format cannot have; the message says why."""


def from_json(value: Any) -> Any:
    """Return a JSON value as h5py stores it; None if it needs JSON text.

    Parameters
    ----------
    value : object
        The value of an attribute of zarr.

    Examples
    --------
    >>> from_json([1, 2.5])
    array([1. , 2.5])
    >>> from_json({"nested": True}) is None
    True
    """
    if isinstance(value, str):
        return value if _is_text(value) else None
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int | float):
        return _numbers(value)
    return _list(value) if isinstance(value, list | tuple) and value else None


def _list(value: Sequence[Any]) -> Any:
    if all(isinstance(one, str) for one in value):
        is_small = len(value) * _STRING_NBYTES < _MOST_NBYTES
        return np.array(value, h5py.string_dtype()) if is_small and all(map(_is_text, value)) else None
    kinds = {isinstance(one, bool) for one in value}
    if len(kinds) > 1 or not all(isinstance(one, int | float) for one in value):
        return None
    found = np.array(value, bool) if kinds == {True} else _numbers(value)
    return found if found is not None and found.nbytes < _MOST_NBYTES else None


def _numbers(value: Any) -> Any:
    """Return numbers in 64 bits, if these hold them exactly."""
    try:
        found = np.asarray(value)
    except (OverflowError, ValueError):
        return None
    # numpy turns integers beyond 63 bits beside others into floats.
    is_exact = found.dtype.kind in "iu" or all(isinstance(one, float) or abs(one) <= 2**53 for one in np.atleast_1d(
        np.asarray(value, object)
    ))  # fmt: skip
    return found[()] if found.dtype.kind in "iuf" and is_exact else None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def to_json(value: Any, is_netcdf: bool = False) -> Any:
    """Return the value of an attribute of HDF5, as h5py reads it, as JSON.

    Parameters
    ----------
    value : object
        What h5py returns.
    is_netcdf : bool
        Whether an array of one element stands for a number, as in netCDF.

    Raises
    ------
    UnstorableError
        If there is no such JSON value.

    Examples
    --------
    >>> to_json(np.array([1, 2], "i2")), to_json(np.bytes_(b"m/s")), to_json(np.array([5]), is_netcdf=True)
    ([1, 2], 'm/s', 5)
    """
    if isinstance(value, h5py.Empty):
        return "" if value.dtype.kind in "SO" else []
    if isinstance(value, str | bytes):
        return _text(value)
    array = np.asarray(value)
    if array.dtype.kind not in "biufSO" or (array.dtype.kind == "f" and array.dtype.itemsize > 8):
        raise UnstorableError(f"JSON has no {_words(array.dtype)}")
    if array.dtype.kind == "O" and not all(isinstance(one, str | bytes) for one in array.flat):
        raise UnstorableError("JSON has no references, and no arrays of arrays of various lengths")
    found = array.tolist()
    found = _texts(found) if array.dtype.kind in "SO" else found
    return found[0] if is_netcdf and array.shape == (1,) else found


def _words(dtype: np.dtype[Any]) -> str:
    return "compound values" if dtype.names is not None else f"values of the type {dtype}"


def _texts(value: Any) -> Any:
    return [_texts(one) for one in value] if isinstance(value, list) else _text(value)


def _text(value: str | bytes) -> str:
    # h5py returns bytes that are not UTF-8 in strings as surrogates.
    try:
        found = value if isinstance(value, str) else value.decode()
        found.encode()
    except UnicodeError as error:
        raise UnstorableError("it is text that is not UTF-8") from error
    return found


def stored_fill(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return the ``_FillValue`` of an array of format 3, as xarray stores it, as an element; None if it is not one.

    Parameters
    ----------
    value : object
        The value of the attribute.
    dtype : numpy.dtype
        Type of the elements.
    """
    try:
        if dtype.kind == "f":
            return dtype.type(_double(value))
        if dtype.kind == "c":
            return dtype.type(complex(*map(_double, value)))
        if dtype.kind == "S":
            return np.array(base64.b64decode(value, validate=True), dtype)[()]
        return dtype.type(value) if dtype.kind in "biu" else None
    except (TypeError, ValueError, OverflowError, binascii.Error, struct.error):
        return None


def named_fill(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return an element as the ``_FillValue`` of an array of format 3, as xarray stores it.

    Examples
    --------
    >>> named_fill(np.float32(-1), np.dtype("f4")), stored_fill("AAAAAAAA8L8=", np.dtype("f4"))
    ('AAAAAAAA8L8=', np.float32(-1.0))
    """
    if dtype.kind == "f":
        return base64.b64encode(struct.pack(_DOUBLE, float(value))).decode()
    if dtype.kind == "c":
        return [base64.b64encode(struct.pack(_DOUBLE, part)).decode() for part in (value.real, value.imag)]
    return base64.b64encode(bytes(value)).decode() if dtype.kind == "S" else to_json(value)


def _double(value: Any) -> float:
    (found,) = struct.unpack(_DOUBLE, base64.b64decode(value, validate=True))
    return float(found)


def enum_of(attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> dict[str, int] | None:
    """Return the names of an enumeration that a conversion has noted, if they are those of such integers.

    Parameters
    ----------
    attributes : mapping
        The attributes of the zarr array.
    dtype : numpy.dtype
        Type of its elements.
    """
    found = attributes.get(ENUM)
    if dtype.kind not in "iu" or not isinstance(found, Mapping) or not found:
        return None
    limits = np.iinfo(dtype)
    is_valid = all(isinstance(one, int) and limits.min <= one <= limits.max for one in found.values())
    return {str(name): int(one) for name, one in found.items()} if is_valid and all(map(_is_text, found)) else None


def json_text(value: Any) -> str:
    """Return a value as JSON text of ASCII characters."""
    return json.dumps(value)


def parse_text(text: Any) -> Any:
    """Return the value that JSON text has.

    Raises
    ------
    UnstorableError
        If it is not JSON text.
    """
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnstorableError(f"{JSON_NAMES} says that it is JSON, but it is not: {error}") from error


def parsed_names(value: Any) -> frozenset[str]:
    """Return the names that ``dask_chunkio_json`` lists; none if it holds something else."""
    array = np.atleast_1d(np.asarray(value, object))
    return frozenset(one for one in array if isinstance(one, str))
