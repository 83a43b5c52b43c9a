"""The choice of what is filled in parallel; hdmf itself writes everything else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from hdmf.data_utils import DataChunkIterator
from hdmf.data_utils import GenericDataChunkIterator as HdmfIterator
from hdmf.utils import is_zarr_array

from dask_chunkio.filters.compatibility import refusal
from dask_chunkio.filters.hdf5_encoder import runs_outside_hdf5
from dask_chunkio.integrations.hdmf.compat import has_been_begun
from dask_chunkio.integrations.hdmf.dask_iterator import DaskIterator
from dask_chunkio.integrations.hdmf.rows import Rows
from dask_chunkio.iterator import GenericDataChunkIterator
from dask_chunkio.sources.adapt import as_source

__all__ = ["Pending", "is_large_array", "pending_array", "pending_iterator"]

# Keywords of h5py that make a dataset chunked.
_CHUNKED = {"chunks", "compression", "fletcher32", "maxshape", "scaleoffset", "shuffle"}


@dataclass(frozen=True, slots=True)
class Pending:
    """Data that wait until they are filled into their dataset.

    Parameters
    ----------
    name : str
        Absolute name of the dataset.
    source : object
        What is written: an array, an iterator or a stream.
    is_concurrent : bool
        Whether it may be read at the same time as other sources.  hdmf reads one iterator after the other, so that
        two of them may share a file that is not safe to read from two threads.
    """

    name: str
    source: Any
    is_concurrent: bool

    @property
    def is_iterator(self) -> bool:
        """Whether the source is an iterator that reads any selection."""
        return hasattr(self.source, "_get_data")


def is_large_array(data: Any, settings: Any, threshold: int) -> bool:
    """Return whether an array is filled in parallel.

    Parameters
    ----------
    data : object
        What hdmf would assign to a new dataset.
    settings : mapping
        The keywords with which hdmf makes the dataset.
    threshold : int
        Size in bytes from which an array is large.
    """
    if not (isinstance(data, np.ndarray) or is_zarr_array(data)):
        return False
    nbytes = math.prod(data.shape) * data.dtype.itemsize
    if not data.ndim or data.dtype.kind not in "biufc" or not nbytes or nbytes < threshold:
        return False
    # An array in memory without filters is written at once, by HDF5.
    in_memory = isinstance(data, np.ndarray) and not isinstance(data, np.memmap)
    return not in_memory or any(settings.get(keyword) for keyword in _CHUNKED)


def pending_array(data: Any, dataset: h5py.Dataset) -> Pending | None:
    """Return an array as pending data; None if HDF5 has to convert it in a way of its own."""
    if data.shape != dataset.shape or not _is_encoded_outside_hdf5(data.dtype, dataset):
        return None
    return Pending(dataset.name, data, is_concurrent=True)


def pending_iterator(data: Any, dataset: h5py.Dataset, threshold: int, takes_streams: bool) -> Pending | None:
    """Return an iterator as pending data; None if hdmf has to write it.

    Parameters
    ----------
    data : hdmf.data_utils.AbstractDataChunkIterator
        Any iterator.
    dataset : h5py.Dataset
        The dataset as hdmf made it for this iterator.
    threshold : int
        Size in bytes from which data are large.
    takes_streams : bool
        Whether a stream may be read as a whole, before or after other streams.
    """
    dtype = dataset.dtype
    if not dataset.shape or dtype.kind not in "biufc" or not _is_encoded_outside_hdf5(data.dtype, dataset):
        return None
    if _reads_anywhere(data):
        return _pending_at_once(data, dataset, threshold)
    if type(data) is not DataChunkIterator or data.iter_axis != 0:
        return None
    if (array := _whole_array(data)) is not None and array.shape == dataset.shape:
        return Pending(dataset.name, array, is_concurrent=True) if _nbytes(array.shape, dtype) >= threshold else None
    return _pending_stream(data, dataset, threshold) if takes_streams else None


def _is_encoded_outside_hdf5(dtype: Any, dataset: h5py.Dataset) -> bool:
    """Return whether values of a dtype are converted and filtered without HDF5.

    Nothing is gained where HDF5 does it, and some filters cannot be set up again for an existing dataset.
    """
    is_converted = refusal(np.dtype(dtype), dataset.dtype) is None
    return is_converted and runs_outside_hdf5(dataset.id.get_create_plist())


def _pending_at_once(data: Any, dataset: h5py.Dataset, threshold: int) -> Pending | None:
    if _nbytes(data.maxshape, dataset.dtype) < threshold or tuple(data.maxshape) != dataset.shape:
        return None
    if isinstance(data, DaskIterator):
        return Pending(dataset.name, data.array, is_concurrent=True)
    return Pending(dataset.name, data, as_source(data, dataset.name).read_mode == "concurrent")


def _pending_stream(data: DataChunkIterator, dataset: h5py.Dataset, threshold: int) -> Pending | None:
    maxshape = data.maxshape
    if maxshape is None or tuple(maxshape[1:]) != dataset.shape[1:]:
        return None
    if maxshape[0] is not None and _nbytes(dataset.shape, dataset.dtype) < threshold:
        return None
    rows = Rows(data, dataset)
    if rows.hold(threshold):
        rows.write(dataset)
        return None
    return Pending(dataset.name, rows, is_concurrent=False)


def _reads_anywhere(data: Any) -> bool:
    """Return whether an iterator reads any selection, and ``next`` does nothing else."""
    return any(
        isinstance(data, kind) and type(data).__next__ is kind.__next__ and None not in data.maxshape
        for kind in (GenericDataChunkIterator, HdmfIterator)
    )


def _whole_array(data: DataChunkIterator) -> Any:
    """Return the array over which an iterator iterates, if nobody has begun to."""
    array = data.data
    is_array = isinstance(array, (np.ndarray, h5py.Dataset)) or is_zarr_array(array)
    return array if is_array and array.dtype.kind in "biufc" and not has_been_begun(data) else None


def _nbytes(shape: Any, dtype: np.dtype[Any]) -> int:
    return math.prod(map(int, shape)) * dtype.itemsize
