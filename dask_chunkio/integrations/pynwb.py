"""PyNWB's ``NWBHDF5IO``, which fills large datasets in parallel."""

from __future__ import annotations

import functools
from typing import Any

import pynwb

from dask_chunkio.integrations.hdmf.drafted_io import HDF5IO

__all__ = ["NWBHDF5IO"]


class NWBHDF5IO(HDF5IO, pynwb.NWBHDF5IO):  # type: ignore[misc]
    """PyNWB's ``NWBHDF5IO``, which fills large datasets in parallel.

    Parameters
    ----------
    *args, **kwargs
        Those of PyNWB's class, and the parameters of `dask_chunkio.integrations.hdmf.WriteOptions`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


# hdmf finds the arguments of a method in its attributes.
functools.update_wrapper(NWBHDF5IO.__init__, pynwb.NWBHDF5IO.__init__, assigned=())
