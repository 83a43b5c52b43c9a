"""Registration of our iterator with hdmf, whose serial ``HDF5IO`` and ``H5DataIO`` then accept it.

This import is usually not needed: our iterator registers itself when hdmf checks an object
(`dask_chunkio.iterator`).  The import of this module registers it at once, for code that
calls ``issubclass`` before any object exists.

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
