"""The queue in which hdmf puts iterators, and the group in which it makes datasets: what is large, only notes."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from hdmf.backends.hdf5.h5_utils import HDF5IODataChunkIteratorQueue

from dask_chunkio.integrations.hdmf.selection import pending_iterator
from dask_chunkio.integrations.hdmf.target import WriteTarget

__all__ = ["IteratorQueue", "ShapeOnly", "UnwrittenGroup"]


class IteratorQueue(HDF5IODataChunkIteratorQueue):  # type: ignore[misc]
    """A queue that notes the iterators which are filled in parallel, and leaves the others to hdmf.

    Parameters
    ----------
    target : WriteTarget
        Where they are noted.
    """

    def __init__(self, target: WriteTarget) -> None:
        super().__init__()
        self._target = target

    def append(self, dataset: h5py.Dataset, data: Any) -> None:
        """Note the iterator, or enter it in the queue."""
        target, pending = self._target, None
        if target.collects:
            pending = pending_iterator(data, dataset, target.options.threshold, target.takes_streams)
        if pending is None:
            super().append(dataset=dataset, data=data)
        else:
            target.note(pending)


class ShapeOnly:
    """Shape and dtype of an array, for the code of hdmf that makes its dataset; its elements are all 0."""

    def __init__(self, array: Any) -> None:
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, index: Any) -> Any:
        return np.broadcast_to(self.dtype.type(0), self.shape)[index]


class UnwrittenGroup:
    """A group in which hdmf makes a dataset without writing to it.

    Parameters
    ----------
    group : h5py.Group
        The group.
    """

    def __init__(self, group: h5py.Group) -> None:
        self._group = group

    @property
    def name(self) -> str:
        """Name of the group."""
        name: str = self._group.name
        return name

    def create_dataset(self, *args: Any, **keywords: Any) -> UnwrittenDataset:
        """Make a dataset."""
        return UnwrittenDataset(self._group.create_dataset(*args, **keywords))


class UnwrittenDataset:
    """A dataset that ignores what is assigned to it.

    Parameters
    ----------
    dataset : h5py.Dataset
        The dataset.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset = dataset

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        shape: tuple[int, ...] = self.dataset.shape
        return shape

    def resize(self, shape: Any) -> None:
        """Resize it."""
        self.dataset.resize(shape)

    def __setitem__(self, index: Any, data: Any) -> None:
        pass
