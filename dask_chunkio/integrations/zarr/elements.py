"""Types, fill values and attributes of the datasets of an HDF5 file, as zarr has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from dask_chunkio.integrations.zarr.attributes import (
    ENUM,
    JSON_NAMES,
    UnstorableError,
    named_fill,
    parse_text,
    parsed_names,
    to_json,
)
from dask_chunkio.integrations.zarr.dimensions import STRUCTURE
from dask_chunkio.integrations.zarr.records import Refusal

__all__ = ["Elements", "Fill", "convert_attributes", "convert_elements", "convert_fill", "own_text"]

_FILL = "_FillValue"
_NETCDF = "_NCProperties"
# zarr's own.
_RESERVED = frozenset({"_ARRAY_DIMENSIONS"})


@dataclass(frozen=True, slots=True)
class Elements:
    """The elements of an array.

    Parameters
    ----------
    dtype : numpy.dtype or type
        Their type in zarr; `str` for strings of any length.
    attributes : mapping
        What else of their type the array has to note.
    """

    dtype: Any
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fill:
    """The fill value of an array.

    Parameters
    ----------
    value : object
        The element of chunks that are not stored; None for none.
    is_that_of_hdf5 : bool
        Whether HDF5 has the same; otherwise all chunks have to be stored.
    """

    value: Any
    is_that_of_hdf5: bool


def convert_elements(dataset: h5py.Dataset, zarr_format: int) -> Elements:
    """Return the type of the elements of a dataset in zarr.

    Parameters
    ----------
    dataset : h5py.Dataset
        The dataset.
    zarr_format : int
        2 or 3.

    Raises
    ------
    UnstorableError
        If zarr has no such type.
    """
    if dataset.shape is None:
        raise UnstorableError("it has no elements and no shape (an empty dataspace)")
    try:
        dtype: np.dtype[Any] = dataset.dtype
    except (TypeError, ValueError) as error:
        raise UnstorableError(f"its type has no equal in numpy: {error}") from error
    if (info := h5py.check_string_dtype(dtype)) is not None and info.length is None:
        return Elements(str, {})
    if dtype.hasobject or dtype.subdtype is not None:
        raise UnstorableError(_why_not(dtype))
    members = h5py.check_enum_dtype(dtype)
    notes = {} if members is None else {ENUM: {str(name): int(value) for name, value in members.items()}}
    if dtype.names is None:
        return Elements(np.dtype(dtype.str), notes)
    return Elements(_packed(dtype, zarr_format), {})


def _why_not(dtype: np.dtype[Any]) -> str:
    if h5py.check_ref_dtype(dtype) is not None:
        return "its elements are references"
    if dtype.names is not None:
        return "its compound type has strings of any length, references, or arrays of any length"
    return "its elements are arrays"


def _packed(dtype: np.dtype[Any], zarr_format: int) -> np.dtype[Any]:
    """Return a compound type without gaps; format 3 does not say the byte order of fields."""
    if dtype.subdtype is not None:
        raise UnstorableError("its compound type has arrays")
    if dtype.names is None:
        plain = np.dtype(dtype.str)
        return plain.newbyteorder("<") if zarr_format == 3 else plain
    return np.dtype([(name, _packed(dtype[name], zarr_format)) for name in dtype.names])


def convert_fill(
    dataset: h5py.Dataset, elements: Elements, attributes: dict[str, Any], zarr_format: int, has_names: bool
) -> Fill:
    """Return the fill value of an array.

    xarray takes the fill value of format 2 for netCDF's ``_FillValue``, so that attribute becomes it.  For format 3
    xarray stores the attribute in a form of its own.

    Parameters
    ----------
    dataset : h5py.Dataset
        The dataset.
    elements : Elements
        The type of its elements.
    attributes : dict
        The JSON values of its attributes; ``_FillValue`` is converted, or taken out.
    zarr_format : int
        2 or 3.
    has_names : bool
        Whether all dimensions have names, so that xarray can read the array.
    """
    if elements.dtype is str:
        return _text_fill(dataset, is_mask=zarr_format == 2 and has_names)
    own = _own_fill(dataset, elements.dtype)
    named = _named(dataset, elements.dtype) if _FILL in attributes else None
    if zarr_format == 3:
        if named is not None:
            attributes[_FILL] = named_fill(named[()], elements.dtype)
        return Fill(own[()], is_that_of_hdf5=True)
    if not has_names:
        return Fill(own[()], is_that_of_hdf5=True)
    if named is None:
        return Fill(None, is_that_of_hdf5=False)
    del attributes[_FILL]
    return Fill(named[()], named.tobytes() == own.tobytes())


def _text_fill(dataset: h5py.Dataset, is_mask: bool) -> Fill:
    """Return the fill value of strings; None if xarray would take it for missing strings."""
    own = own_text(dataset)
    if own is None:
        return Fill("", is_that_of_hdf5=False)
    return Fill(None, is_that_of_hdf5=False) if is_mask else Fill(own, is_that_of_hdf5=True)


def own_text(dataset: h5py.Dataset) -> str | None:
    """Return the fill value of a dataset of strings of any length; None if it is not UTF-8."""
    try:
        return bytes(dataset.fillvalue).decode()
    except (UnicodeDecodeError, TypeError, ValueError, RuntimeError):
        return None


def _own_fill(dataset: h5py.Dataset, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    if dataset.id.get_create_plist().fill_value_defined() == h5py.h5d.FILL_VALUE_UNDEFINED:
        return np.zeros((), dtype)
    return np.asarray(dataset.fillvalue).astype(dtype)


def _named(dataset: h5py.Dataset, dtype: np.dtype[Any]) -> np.ndarray[Any, Any] | None:
    """Return the ``_FillValue`` of a dataset, if it is an element."""
    found = np.asarray(dataset.attrs[_FILL])
    if found.size != 1 or dtype.kind not in "biufcS" or not np.can_cast(found.dtype, dtype, "same_kind"):
        return None
    return found.reshape(()).astype(dtype)


def convert_attributes(path: str, target: Any, is_netcdf: bool, refused: list[Refusal]) -> dict[str, Any]:
    """Return the attributes of an object as JSON, without those that make dimension scales.

    Parameters
    ----------
    path : str
        Absolute path of the object.
    target : h5py.Group or h5py.Dataset
        The object.
    is_netcdf : bool
        Whether netCDF made the file.
    refused : list of Refusal
        Gets what JSON cannot have.
    """
    found: dict[str, Any] = {}
    texts = _json_names(target)
    hidden = STRUCTURE | {JSON_NAMES, _NETCDF}
    if isinstance(target, h5py.Dataset) and target.is_scale:
        hidden |= {"CLASS", "NAME"}
    for name in target.attrs:
        if name in hidden:
            continue
        try:
            if not isinstance(name, str):  # bytes, where they are not UTF-8
                raise UnstorableError("its name is not UTF-8")
            if name in _RESERVED:
                raise UnstorableError("zarr uses this name itself")
            value = target.attrs[name]
            if name == _FILL and np.asarray(value).dtype.kind == "c":
                # Of an array of complex numbers; `convert_fill` stores it.
                found[name] = None
            else:
                found[name] = parse_text(value) if name in texts else to_json(value, is_netcdf or name == _FILL)
        except (UnstorableError, OSError, TypeError, ValueError, KeyError, RuntimeError) as error:
            refused.append(Refusal(f"{path}@{name}", str(error)))
    return found


def _json_names(target: Any) -> frozenset[str]:
    try:
        return parsed_names(target.attrs[JSON_NAMES]) if JSON_NAMES in target.attrs else frozenset()
    except (OSError, TypeError, ValueError, RuntimeError):
        return frozenset()
