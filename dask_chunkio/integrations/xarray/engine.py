"""What the engine "chunkio" of `xarray.open_dataset` does: h5netcdf reads the metadata, and threads decode the chunks.

The file is not kept open.  What HDF5 has to read, such as strings, h5netcdf reads as with the engine "h5netcdf".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import xarray
from xarray.backends import BackendArray, H5NetCDFStore, StoreBackendEntrypoint
from xarray.core import indexing

from dask_chunkio.integrations.xarray.compat import HDF5_LOCK, variable_path
from dask_chunkio.paths import local_path
from dask_chunkio.reading.array import Hdf5Array
from dask_chunkio.reading.file_state import refusal
from dask_chunkio.reading.stored_array import index_dataset

__all__ = ["open_dataset"]


def open_dataset(
    filename: str | os.PathLike[str], opening: Mapping[str, Any], decoding: Mapping[str, Any]
) -> xarray.Dataset:
    """Open a file, or a group of it, lazily.

    Parameters
    ----------
    filename : str or path-like
        The file.
    opening : mapping
        Keywords of the engine "h5netcdf".
    decoding : mapping
        Keywords of `xarray.open_dataset`, which say how variables are decoded.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If the file is not one of the local file system.
    FileNotFoundError
        If there is no such file.
    TargetBusyError
        If another program has it open for writing.
    TargetError
        If it is not HDF5, or cannot be read.
    """
    path = os.path.realpath(local_path("filename_or_obj", filename))
    try:
        store = _Store.open(path, lock=HDF5_LOCK, **opening)
    except FileNotFoundError:  # it says what is missing, and is what callers of xarray expect
        raise
    except OSError as error:
        raise refusal(path, error) from error
    try:
        return StoreBackendEntrypoint().open_dataset(store, **decoding)
    finally:
        # It is opened again for the variables that HDF5 has to read.
        store.close()


class _Store(H5NetCDFStore):
    """A store whose variables are read in parallel."""

    __slots__ = ()

    def open_store_variable(self, name: Any, var: Any) -> xarray.Variable:
        """Return a variable that is read when it is needed."""
        found: xarray.Variable = super().open_store_variable(name, var)  # type: ignore[no-untyped-call]
        if found.dtype.hasobject or var.dtype != found.dtype:
            return found
        data = indexing.LazilyIndexedArray(_Data(self._filename, variable_path(var), found.shape, found.dtype))
        return xarray.Variable(found.dims, data, found.attrs, found.encoding)


class _Data(BackendArray):
    """The data of a variable, whose chunks are looked for at the first read."""

    def __init__(self, path: str, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.path, self.name, self.shape, self.dtype = path, name, shape, dtype
        self._array: Hdf5Array | None = None

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, index: tuple[Any, ...]) -> Any:
        if self._array is None:
            self._array = Hdf5Array(index_dataset(self.path, self.name))
        return self._array.read_outer(index)
