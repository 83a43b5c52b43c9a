"""Attributes of HDF5 objects in the form in which kerchunk puts them into ``.zattrs``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import IntegrityError

__all__ = ["FILL_ATTRIBUTE", "attribute_of", "read_attributes"]

FILL_ATTRIBUTE = "_FillValue"
# Those that libraries of netCDF keep for themselves, and those of dimension scales.
_HIDDEN = {
    "CLASS",
    "DIMENSION_LIST",
    "NAME",
    "REFERENCE_LIST",
    "_NCProperties",
    "_Netcdf4Coordinates",
    "_Netcdf4Dimid",
    "_nc3_strict",
}
_DIMENSIONS = "_ARRAY_DIMENSIONS"


def read_attributes(found: h5py.Group | h5py.Dataset, size: int, note: Callable[[str], None]) -> dict[str, Any]:
    """Return the attributes of a group or a dataset as values of JSON.

    Parameters
    ----------
    found : h5py.Group or h5py.Dataset
        The object.
    size : int
        Bytes of the file, which no attribute exceeds.
    note : callable
        Is told of each attribute that has no such form.

    Raises
    ------
    IntegrityError
        If an attribute claims more bytes than the file has.
    """
    values: dict[str, Any] = {}
    for name in found.attrs:
        if name in _HIDDEN or name in (FILL_ATTRIBUTE, _DIMENSIONS):
            continue
        try:
            value = _plain(attribute_of(found, name, size))
        except (TypeError, ValueError, OSError, RuntimeError, KeyError) as error:
            if isinstance(error, IntegrityError):
                raise
            note(f"the attribute {name!r} of {found.name}: h5py cannot read it ({error})")
            continue
        if value != "DIMENSION_SCALE":
            values[_text(name)] = value
    return values


def attribute_of(found: h5py.Group | h5py.Dataset, name: str, size: int) -> Any:
    """Return the value of an attribute, after a look at the size that it claims."""
    attribute = found.attrs.get_id(name)
    claimed = math.prod(attribute.shape or ()) * int(attribute.get_type().get_size())
    if claimed > size:
        raise IntegrityError(
            f"{found.name}: the attribute {name!r} claims {claimed} bytes, and the whole file has {size}; the file is "
            f"damaged"
        )
    return found.attrs[name]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace") or " "
    elif isinstance(value, (np.ndarray, np.number, np.bool_)):
        value = _of_array(np.asarray(value))
    elif isinstance(value, h5py.Empty):
        value = ""
    if isinstance(value, (str, int, float)):
        return _text(value)
    if isinstance(value, (tuple, list)) and all(isinstance(one, (str, int, float)) for one in value):
        return [_text(one) for one in value]
    return _text(str(value))


def _of_array(value: np.ndarray[Any, Any]) -> Any:
    if value.dtype.kind == "S":
        value = np.char.decode(value, "utf-8", "replace")
    if value.size == 1:
        one = value.reshape(-1)[0]
        return one.tolist() if isinstance(one, (np.generic, np.ndarray)) else one
    return value.tolist()


def _text(value: Any) -> Any:
    """Return text that UTF-8 can hold; other values unchanged."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
