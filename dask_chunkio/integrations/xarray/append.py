"""Append a dataset along a dimension of a netCDF4 file.

The encodings of the file rule: new values are encoded with its dtypes, units, scales and fill values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray

from dask_chunkio.errors import ArgumentError
from dask_chunkio.integrations.xarray.compat import Adder, Variables, dump, grow_dimension, target_of

__all__ = ["append"]

# Attributes that say how values are stored.
_MEANING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")
_TIME = ("units", "calendar")


def append(store: Any, dataset: xarray.Dataset, encoding: Mapping[Any, Any], dim: Any, writer: Adder) -> None:
    """Extend the variables along a dimension, and write all others as a call without ``append_dim`` does.

    Parameters
    ----------
    store : xarray.backends.H5NetCDFStore
        Group of the file, which has the dimension.
    dataset : xarray.Dataset
        What is appended.
    encoding : mapping
        Encodings of variables that the file does not have.
    dim : hashable
        The dimension.
    writer : Adder
        Receiver of the data.

    Raises
    ------
    ArgumentError
        If the file or the dataset lacks a variable along the dimension, or if the values cannot be stored as those of
        the file.
    """
    found = {name: one for name, one in store.get_variables().items() if dim in one.dims}
    along = {name: one for name, one in dataset.variables.items() if dim in one.dims}
    _check_names(dim, along, found, encoding)
    start = grow_dimension(store, dim, dataset.sizes[dim])
    encoded: Variables = {}

    def encoder(variables: Variables, attrs: dict[str, Any]) -> tuple[Variables, dict[str, Any]]:
        kept = {name: _as_found(variables.pop(name), found[name]) for name in along}
        encoded.update(store.encode(kept, {})[0])
        return variables, attrs

    dump(dataset, store, writer, encoder=encoder, encoding=encoding, unlimited_dims=None)
    for name, variable in encoded.items():
        _check(name, variable, found[name], dim)
    new = slice(start, start + dataset.sizes[dim])
    for name, variable in encoded.items():
        region = tuple(new if one == dim else slice(0, length) for one, length in variable.sizes.items())
        writer.add(variable.data, target_of(store, name), region)


def _check_names(dim: Any, along: Mapping[Any, Any], found: Mapping[Any, Any], encoding: Mapping[Any, Any]) -> None:
    if missing := sorted(map(str, found.keys() - along.keys())):
        raise ArgumentError(
            f"append_dim={dim!r}: the dataset lacks {', '.join(missing)}, which the file has along this dimension; "
            f"append all variables at once"
        )
    if new := sorted(map(str, along.keys() - found.keys())):
        raise ArgumentError(
            f"append_dim={dim!r}: the file lacks {', '.join(new)}, which the dataset has along this dimension; "
            f"drop them, or add them to the file first, with mode='a' and without append_dim"
        )
    if given := sorted(map(str, along.keys() & encoding.keys())):
        raise ArgumentError(f"encoding= names {', '.join(given)}, which the file has already; its encoding is used")


def _as_found(variable: xarray.Variable, found: xarray.Variable) -> xarray.Variable:
    """Return a variable with the encoding of the file's."""
    encoding: dict[str, Any] = {name: found.attrs[name] for name in _MEANING if name in found.attrs}
    is_time = variable.dtype.kind in "mM" or xarray.core.common.contains_cftime_datetimes(variable)
    if is_time:
        encoding |= {name: found.attrs[name] for name in _TIME if name in found.attrs}
    stored = found.encoding.get("dtype", found.dtype)
    if stored is not str and np.dtype(stored).kind in "biufc":
        encoding["dtype"] = np.dtype(stored)
    encoding.setdefault("_FillValue", None)
    kept = variable.copy(deep=False)
    kept.encoding = encoding
    kept.attrs = {name: value for name, value in variable.attrs.items() if name not in encoding}
    return kept


def _check(name: Any, encoded: xarray.Variable, found: xarray.Variable, dim: Any) -> None:
    """Refuse encoded values that mean something else than those of the file."""
    theirs, ours = ({one: n for one, n in each.sizes.items() if one != dim} for each in (found, encoded))
    if encoded.dims != found.dims or theirs != ours:
        raise ArgumentError(
            f"{name}: its dimensions are {dict(encoded.sizes)}, and {dict(found.sizes)} in the file; only the "
            f"length of {dim!r} may differ"
        )
    for key in _MEANING if _moments(encoded) == _moments(found) else (*_TIME, *_MEANING):
        if key in found.attrs and not _is_same(encoded.attrs.get(key), found.attrs[key]):
            raise ArgumentError(
                f"{name}: its values cannot be stored with {key} = {found.attrs[key]!r} as in the file: xarray would "
                f"use {encoded.attrs.get(key)!r}; round or convert them"
            )


def _moments(variable: xarray.Variable) -> Any:
    """Return what the numbers 0 and 1 mean in the units of a variable: these can be written in several ways."""
    attrs = {name: variable.attrs[name] for name in _TIME if name in variable.attrs}
    try:
        found = xarray.decode_cf(xarray.Dataset({"times": ("n", [0, 1], attrs)}), decode_timedelta=True)
    except ValueError:
        return attrs
    return found["times"].values.tolist()


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return bool(one == other)
    return one is not None and np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True)
