"""What the engine "chunkio" of `xarray.open_dataset` does: h5netcdf reads the metadata, and threads decode the chunks.

The file is not kept open.  What HDF5 has to read, such as strings, h5netcdf reads as with the engine "h5netcdf".
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from typing import Any

import xarray
from xarray.backends import BackendArray, H5NetCDFStore, StoreBackendEntrypoint
from xarray.core import indexing

from dask_chunkio.errors import ChunkIOError, IntegrityError, TargetError
from dask_chunkio.integrations.xarray.compat import HDF5_LOCK, variable_path
from dask_chunkio.isolated_call import is_isolated
from dask_chunkio.paths import local_path
from dask_chunkio.reading.array import Hdf5Array
from dask_chunkio.reading.file_state import refusal
from dask_chunkio.reading.stored_array import index_dataset
from dask_chunkio.reading.structure_check import check_structure
from dask_chunkio.validation import check_flag

__all__ = ["open_dataset"]


def open_dataset(
    filename: str | os.PathLike[str],
    opening: Mapping[str, Any],
    decoding: Mapping[str, Any],
    isolated: bool | None = None,
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
    isolated : bool, optional
        Whether a separate process checks all metadata first; as `dask_chunkio.open_array`.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If the file is not one of the local file system.
    FileNotFoundError
        If there is no such file.
    TargetBusyError
        If another program has it open for writing.
    TargetError
        If it is not HDF5 or not netCDF, or cannot be read.
    UnfinishedWriteError
        If a write was cut off while it changed the file.
    IntegrityError
        If HDF5 cannot read its metadata, or crashes, or takes more time or memory than any valid file needs.
    WorkerError
        If `isolated` is true, and no process can be started.
    """
    path = os.path.realpath(local_path("filename_or_obj", filename))
    check_flag("isolated", isolated)
    isolates = is_isolated(isolated)
    if isolates and os.path.exists(path):
        _require_end(path, check_structure(path), opening)
    try:
        return _opened(path, opening, decoding, isolates)
    except (ChunkIOError, FileNotFoundError):
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raised_by = _package_of(error)
        if raised_by == "h5py" or isinstance(error, AttributeError | IndexError | RecursionError):
            raise IntegrityError(f"{path}: HDF5 cannot read all metadata ({error}); the file is damaged") from error
        if raised_by == "h5netcdf":
            raise TargetError(f"{path} cannot be opened as a netCDF file: {error}") from error
        raise


def _opened(path: str, opening: Mapping[str, Any], decoding: Mapping[str, Any], isolates: bool) -> xarray.Dataset:
    try:
        store = _Store.open(path, lock=HDF5_LOCK, **opening)
    except FileNotFoundError:  # it says what is missing, and is what callers of xarray expect
        raise
    except OSError as error:
        raise refusal(path, error) from error
    store.isolates = isolates
    try:
        return StoreBackendEntrypoint().open_dataset(store, **decoding)
    finally:
        # It is opened again for the variables that HDF5 has to read.
        store.close()


def _require_end(path: str, cycle: str | None, opening: Mapping[str, Any]) -> None:
    """Refuse a file in which h5netcdf would walk in a circle: so it counts dimensions without names."""
    if cycle is not None and opening.get("phony_dims") == "sort":
        raise TargetError(
            f"{path}: {cycle} is a hard link to a group above it, which no netCDF file has, and h5netcdf would go "
            f"round for ever; give phony_dims='access', or remove the link"
        )


def _package_of(error: BaseException) -> str:
    """Return the package that has raised an error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


class _Store(H5NetCDFStore):
    """A store whose variables are read in parallel."""

    __slots__ = ("isolates",)
    isolates: bool

    def open_store_variable(self, name: Any, var: Any) -> xarray.Variable:
        """Return a variable that is read when it is needed."""
        found: xarray.Variable = super().open_store_variable(name, var)  # type: ignore[no-untyped-call]
        if found.dtype.hasobject or var.dtype != found.dtype:
            return found
        data = indexing.LazilyIndexedArray(_Data(self._filename, variable_path(var), found, self.isolates))
        return xarray.Variable(found.dims, data, found.attrs, found.encoding)


class _Data(BackendArray):
    """The data of a variable, whose chunks are looked for at the first read."""

    def __init__(self, path: str, name: str, like: xarray.Variable, isolates: bool) -> None:
        self.path, self.name, self.shape, self.dtype = path, name, like.shape, like.dtype
        self._isolates = isolates
        self._array: Hdf5Array | None = None

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, index: tuple[Any, ...]) -> Any:
        if self._array is None:
            self._array = Hdf5Array(index_dataset(self.path, self.name, isolated=self._isolates))
        return self._array.read_outer(index)
