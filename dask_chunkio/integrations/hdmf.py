"""hdmf: its serial ``HDF5IO`` and ``H5DataIO`` take our iterator for one of theirs.

Nobody has to import this module for that: our iterator makes itself known to hdmf when
hdmf asks for it, and not before hdmf is there (`dask_chunkio.iterator`).  Importing it settles
the same at once, for code that asks ``issubclass`` of a class that has no objects yet.

Examples
--------
>>> from dask_chunkio.integrations.hdmf import AbstractDataChunkIterator
>>> from dask_chunkio.iterator import GenericDataChunkIterator
>>> issubclass(GenericDataChunkIterator, AbstractDataChunkIterator)
True
"""

from __future__ import annotations

from hdmf.data_utils import AbstractDataChunkIterator

from dask_chunkio.iterator import GenericDataChunkIterator

__all__ = ["AbstractDataChunkIterator"]

AbstractDataChunkIterator.register(GenericDataChunkIterator)
