"""A client on a host that does not see the target's folder.

Usage: python -m tests.support.hosts.remote_client SCHEDULER PATH
"""

import os
import sys

import dask.array as da
import numpy as np
from distributed import Client

import dask_chunkio as dcio
from tests.support.hosts.remote_source import Numbers

if __name__ == "__main__":
    address, path = sys.argv[1:]
    with Client(address) as client:
        client.wait_for_workers(2, timeout=60)
        events: list[dcio.WriteEvent] = []
        lazy = da.from_array(np.arange(3000).reshape(300, 10), chunks=(50, 10)) * 2
        result = dcio.to_hdf5(
            path, {"/a": Numbers(), "/b": lazy}, compression="gzip", progress=False, callback=events.append
        )
        seen = len(os.listdir(os.path.dirname(path)))
        sys.stdout.write(f"{result.path} {result.buffers} {seen} {type(events[-1]).__name__}\n")
        dcio.to_hdf5(path, "/c", lazy, chunks=(50, 10), maxshape=(None, 10))
        dcio.to_hdf5(path, "/c", lazy, append=True)
        try:
            dcio.to_hdf5(path, "/a", lazy)
        except dcio.errors.TargetExistsError:
            sys.stdout.write("refused\n")
