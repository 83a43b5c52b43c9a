"""Checks of elements of variable length and of references, which h5py converts without a check.

h5py assumes that each Python object is an array of the dtype of the first one.  If an object is something else, h5py
reads wrong memory and crashes the process.  An error in its conversion interrupts HDF5 in the middle of a write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from dask_chunkio.errors import SourceError
from dask_chunkio.filters.compatibility import common_fields, is_partial, refusal, words
from dask_chunkio.filters.conversion import convert
from dask_chunkio.geometry.grid import Array

__all__ = ["noted_elements", "storable_elements"]

DType = np.dtype[Any]
_OF_OBJECTS = {
    str: h5py.string_dtype(),
    bytes: h5py.string_dtype("ascii"),
    h5py.Reference: h5py.ref_dtype,
    h5py.RegionReference: h5py.regionref_dtype,
}


def noted_elements(data: Array) -> Array:
    """Return objects that are all strings, or all references, with the dtype that h5py uses for them.

    Examples
    --------
    >>> words(noted_elements(np.array(["a", "b"], object)).dtype)
    'object (UTF-8 strings)'
    """
    if data.dtype.kind != "O" or data.dtype.metadata is not None:
        return data
    kinds = set(map(type, data.reshape(-1)))
    found = _OF_OBJECTS.get(kinds.pop()) if len(kinds) == 1 else None
    return data if found is None else data.view(found)


def storable_elements(data: Array, dtype: DType) -> Array:
    """Return elements with the dtype of a dataset, or as objects of exactly the types that h5py converts.

    If `data` lacks some fields of the dataset, the result lacks them too.

    Parameters
    ----------
    data : numpy.ndarray
        The elements.
    dtype : numpy.dtype
        Dtype of the dataset.

    Raises
    ------
    SourceError
        If an element cannot be stored; the message names the element.

    Examples
    --------
    >>> storable_elements(np.array(["a", b"b"], object), h5py.string_dtype())
    array([b'a', b'b'], dtype=object)
    """
    if not (dtype.hasobject or is_partial(data.dtype, dtype)):
        return convert(data, dtype)
    return _checked(data, dtype) if dtype.hasobject else data


def _checked(data: Array, dtype: DType) -> Array:
    if dtype.names is not None:
        names = common_fields(data.dtype, dtype)
        found: Array = np.zeros(data.shape, [(name, dtype[name]) for name in names])
        for name in names:
            found[name] = _checked(data[name], dtype[name].base)
        return found
    return _each(_checker(dtype), data, dtype) if dtype.hasobject else convert(data, dtype)


def _each(check: Callable[[Any], Any], data: Array, dtype: DType) -> Array:
    found = np.empty(data.size, dtype)
    for number, element in enumerate(data.astype(object).reshape(-1)):
        try:
            found[number] = check(element)
        except (ValueError, TypeError) as error:
            place = tuple(map(int, np.unravel_index(number, data.shape))) if data.shape else ()
            raise SourceError(f"element {place} cannot be stored as {words(dtype)}: {error}") from error
    return found.reshape(data.shape)


def _checker(dtype: DType) -> Callable[[Any], Any]:
    if (text := h5py.check_string_dtype(dtype)) is not None:
        return lambda element: _text(element, text.encoding)
    if (kind := h5py.check_ref_dtype(dtype)) is not None:
        return lambda element: _reference(element, kind)
    base = np.dtype(h5py.check_vlen_dtype(dtype))
    return lambda element: _sequence(element, base)


def _text(element: Any, encoding: str) -> bytes:
    if not isinstance(element, (str, bytes)):
        raise TypeError(f"it is {_named(element)}, not a str or bytes")
    found = element.encode(encoding) if isinstance(element, str) else bytes(element)
    if b"\0" in found:
        raise ValueError("it has a NUL character, which ends a string of variable length in HDF5")
    return found


def _reference(element: Any, kind: type) -> Any:
    is_region = isinstance(element, h5py.RegionReference)
    is_right = isinstance(element, h5py.Reference) and is_region == (kind is h5py.RegionReference)
    if element is not None and not is_right:
        raise TypeError(f"it is {_named(element)}, not a {kind.__name__} of h5py's")
    return element


def _sequence(element: Any, base: DType) -> Array:
    if not isinstance(element, (np.ndarray, list, tuple)):
        raise TypeError(f"it is {_named(element)}, not an array or a list")
    is_array = isinstance(element, np.ndarray)
    found = np.asarray(element, None if is_array or not base.hasobject else object)
    if found.ndim != 1:
        raise ValueError(f"it has {found.ndim} axes; an element of variable length has one")
    if not found.size:
        return np.empty(0, base)
    if (reason := refusal(found.dtype, base)) is not None:
        raise TypeError(reason)
    return np.ascontiguousarray(_checked(found, base))


def _named(element: Any) -> str:
    return "None" if element is None else f"a {type(element).__name__}"
