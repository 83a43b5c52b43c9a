"""hdmf's ``HDF5IO``, which fills large datasets in parallel.

Examples
--------
>>> import os, tempfile
>>> import numpy as np
>>> from hdmf.backends.hdf5 import H5DataIO
>>> from hdmf.common import DynamicTable, VectorData, get_manager
>>> path = os.path.join(tempfile.mkdtemp(), "table.h5")
>>> data = H5DataIO(np.arange(20_000), compression="gzip", chunks=(5_000,))
>>> column = VectorData(name="numbers", description="From 0 on", data=data)
>>> table = DynamicTable(name="table", description="Numbers", columns=[column])
>>> with HDF5IO(path, manager=get_manager(), mode="w", parallel_threshold="100 kB") as io:
...     io.write(table)
>>> import h5py
>>> with h5py.File(path) as file:
...     int(file["numbers"][-1])
19999
"""

from __future__ import annotations

from typing import Any

from hdmf.data_utils import AbstractDataChunkIterator

from dask_chunkio.integrations.hdmf.dask_iterator import DaskIterator
from dask_chunkio.integrations.hdmf.drafted_io import HDF5IO
from dask_chunkio.integrations.hdmf.options import WriteOptions
from dask_chunkio.iterator import GenericDataChunkIterator

__all__ = ["HDF5IO", "AbstractDataChunkIterator", "DaskIterator", "WriteOptions"]

AbstractDataChunkIterator.register(GenericDataChunkIterator)


def __getattr__(name: str) -> Any:
    if name == "NWBHDF5IO":
        from dask_chunkio.integrations.pynwb import NWBHDF5IO

        return NWBHDF5IO
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
