"""What is private in xarray and h5netcdf, behind functions of ours.

xarray's own ``to_netcdf`` writes the structure of a file and its data in one call.  The functions that it consists of
have no public names.  This module imports them, and says which versions have them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import xarray
from xarray.backends import H5NetCDFStore

from dask_chunkio.errors import ArgumentError

__all__ = [
    "HDF5_LOCK",
    "Adder",
    "Encoder",
    "FoundStore",
    "Variables",
    "as_dataset",
    "check_dataset",
    "dataset_name",
    "dump",
    "grow_dimension",
    "open_store",
    "remaining_chunks",
    "target_of",
    "variable_path",
]


def _private(module: str, name: str) -> Any:
    """Return a function, class or constant of a module of xarray that has no public name."""
    try:
        return getattr(importlib.import_module(f"xarray.backends.{module}"), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"dask_chunkio.integrations.xarray was made with xarray 2026.9, and xarray {xarray.__version__} lacks "
            f"{name} ({error}); install another version of xarray (2025.11 or newer), or a newer dask_chunkio"
        ) from error


_DATAARRAY_NAME = _private("api", "DATAARRAY_NAME")
_DATAARRAY_VARIABLE = _private("api", "DATAARRAY_VARIABLE")
_ArrayWrapper = _private("h5netcdf_", "H5NetCDFArrayWrapper")
_extract_encoding = _private("h5netcdf_", "_extract_h5nc_encoding")
HDF5_LOCK = _private("locks", "HDF5_LOCK")
_dump_to_store = _private("writers", "dump_to_store")
_sanitize_unlimited_dims = _private("writers", "_sanitize_unlimited_dims")
_validate_attrs = _private("writers", "_validate_attrs")
_validate_dataset_names = _private("writers", "_validate_dataset_names")

Variables = dict[Any, xarray.Variable]
Encoder = Callable[[Variables, dict[str, Any]], tuple[Variables, dict[str, Any]]]


class Adder(Protocol):
    """What takes the encoded data of each variable."""

    def add(self, source: Any, target: Any, region: Any = None) -> None:
        """Take the data of one variable, and what writes them."""


class FoundStore(H5NetCDFStore):
    """Store of a file whose structure is complete: it encodes variables, and changes nothing."""

    __slots__ = ()

    def set_attributes(self, attributes: Any) -> None:
        """Leave the attributes as they are."""

    def set_dimensions(self, variables: Any, unlimited_dims: Any = None) -> None:
        """Leave the dimensions as they are."""

    def prepare_variable(
        self,
        name: Any,
        variable: Any,
        check_encoding: bool = False,  # noqa: ARG002
        unlimited_dims: Any = None,  # noqa: ARG002
    ) -> tuple[Any, Any]:
        """Return the variable of the file and the encoded data."""
        return _ArrayWrapper(name, self), variable.data


@contextlib.contextmanager
def open_store(
    place: str | io.BytesIO,
    mode: str,
    *,
    form: str | None,
    invalid_netcdf: bool,
    options: Mapping[str, Any] | None = None,
) -> Iterator[Any]:
    """Open the structure of a file, or of memory, with h5netcdf; with the mode ``"r"`` nothing is changed.

    `options` are keywords of `h5py.File`.
    """
    kind = FoundStore if mode == "r" else H5NetCDFStore
    # xarray's own lock would ask a scheduler of dask's.
    store = kind.open(place, mode=mode, format=form, invalid_netcdf=invalid_netcdf, lock=HDF5_LOCK, driver_kwds=options)
    try:
        yield store
    finally:
        store.close()


def check_dataset(
    dataset: xarray.Dataset, unlimited_dims: Iterable[Any] | None, invalid_netcdf: bool
) -> set[Any] | None:
    """Check names and attributes as xarray does, and return the unlimited dimensions."""
    _validate_dataset_names(dataset)
    _validate_attrs(dataset, "h5netcdf", invalid_netcdf)
    found = _sanitize_unlimited_dims(dataset, unlimited_dims)
    return None if found is None else set(found)


def dump(
    dataset: xarray.Dataset,
    store: Any,
    writer: Adder,
    *,
    encoder: Encoder,
    encoding: Mapping[Any, Any] | None,
    unlimited_dims: set[Any] | None,
) -> None:
    """Write the structure of a dataset, and hand the data of each variable to `writer`."""
    if unknown := set(encoding or {}) - set(dataset.variables):
        raise ArgumentError(f"encoding= names {sorted(map(str, unknown))}, which the dataset does not have")
    # xarray takes keys out of the encodings.
    copies = {name: dict(one) if isinstance(one, Mapping) else one for name, one in (encoding or {}).items()}
    _dump_to_store(dataset, store, writer, encoder=encoder, encoding=copies, unlimited_dims=unlimited_dims)


def target_of(store: Any, name: str) -> Any:
    """Return what writes a variable of an open store."""
    return _ArrayWrapper(name, store)


def dataset_name(target: Any) -> str:
    """Return the absolute path of the HDF5 dataset of a variable; its name may have a prefix of netCDF's."""
    return variable_path(target.get_array())


def variable_path(variable: Any) -> str:
    """Return the absolute path of the HDF5 dataset of one of h5netcdf's variables."""
    return str(variable._h5path)


def remaining_chunks(variable: xarray.Variable, is_given: bool) -> Any:
    """Return the chunk shape that xarray would use: it drops one that is not given and does not fit any more."""
    if is_given:
        return variable.encoding.get("chunksizes")
    return _extract_encoding(variable, raise_on_invalid=False).get("chunksizes")


def grow_dimension(store: Any, name: Any, count: int) -> int:
    """Add `count` to the length of a dimension, unless the file is read only, and return where the new part begins."""
    group = store.ds
    while name not in group.dimensions:
        group = group.parent
    dimension = group.dimensions[name]
    if isinstance(store, FoundStore):
        return int(dimension.size) - count
    if not dimension.isunlimited():
        raise ArgumentError(
            f"append_dim={name!r}: the dimension has the fixed length {dimension.size} in the file; write the file "
            f"with unlimited_dims=[{name!r}]"
        )
    start = int(dimension.size)
    group.resize_dimension(name, start + count)
    return start


def as_dataset(array: xarray.DataArray) -> xarray.Dataset:
    """Return the dataset that xarray writes for a DataArray."""
    if array.name is not None and array.name not in array.coords and array.name not in array.dims:
        return array.to_dataset()
    dataset = array.to_dataset(name=_DATAARRAY_VARIABLE)
    if array.name is not None:
        dataset.attrs[_DATAARRAY_NAME] = array.name
    return dataset
