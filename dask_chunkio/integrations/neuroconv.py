"""NeuroConv's write functions with our ``NWBHDF5IO``: they fill large datasets in parallel."""

from __future__ import annotations

import contextlib
from typing import Any

import pynwb
from neuroconv.tools import nwb_helpers

from dask_chunkio.integrations.hdmf import WriteOptions
from dask_chunkio.integrations.pynwb import NWBHDF5IO

__all__ = ["parallel_backend"]

_HDF5 = "hdf5"


def parallel_backend(**options: Any) -> contextlib.ExitStack:
    """Make NeuroConv write HDF5 files in parallel, from this call on or inside a ``with`` statement.

    ``configure_and_write_nwbfile``, ``run_conversion``, ``repack_nwbfile`` and all others look for their class in one
    table of NeuroConv.  This function puts ours there.  NeuroConv's backend configuration stays as it is.

    Parameters
    ----------
    **options
        The parameters of `dask_chunkio.integrations.hdmf.WriteOptions`.

    Returns
    -------
    contextlib.ExitStack
        The end of its ``with`` block, or its ``close()``, puts back the class that was there before.

    Raises
    ------
    ArgumentError
        If an option cannot be used.

    Examples
    --------
    >>> from neuroconv.tools.nwb_helpers import BACKEND_NWB_IO
    >>> with parallel_backend(parallel_threshold="1 MiB"):
    ...     issubclass(BACKEND_NWB_IO["hdf5"], NWBHDF5IO)
    True
    >>> BACKEND_NWB_IO["hdf5"].__module__
    'pynwb'
    """
    table = nwb_helpers.BACKEND_NWB_IO
    before = table[_HDF5]
    space = {"write_options": WriteOptions().replaced(options), "__doc__": NWBHDF5IO.__doc__}
    table[_HDF5] = type("NWBHDF5IO", (_Backend,), space)
    stack = contextlib.ExitStack()
    stack.callback(table.__setitem__, _HDF5, before)
    return stack


class _Backend(NWBHDF5IO):
    """The class in NeuroConv's table, which also tells by ``isinstance`` which backend has read a file."""

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        """Count PyNWB's own class as a subclass: it reads the same files."""
        return True if pynwb.NWBHDF5IO in other.__mro__ else NotImplemented
