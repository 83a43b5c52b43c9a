"""PyNWB's ``NWBHDF5IO``, which fills large datasets in parallel."""

from __future__ import annotations

import pynwb

from dask_chunkio.integrations.hdmf import HDF5IO

__all__ = ["NWBHDF5IO"]


class NWBHDF5IO(HDF5IO, pynwb.NWBHDF5IO):  # type: ignore[misc]
    """PyNWB's ``NWBHDF5IO``, which fills large datasets in parallel.

    Parameters
    ----------
    *args, **kwargs
        Those of PyNWB's class, and the parameters of `dask_chunkio.integrations.hdmf.WriteOptions`.
    """
