"""A client whose workers are on two hosts, each with its own mount of one file system.

Usage: python -m tests.support.hosts.network_client SCHEDULER PATH
"""

import sys
import time
from typing import Any

import dask.array as da
import numpy as np
from distributed import Client, get_worker
from numpy.typing import NDArray

import dask_chunkio as dcio

DATA = np.arange(120_000, dtype="i4").reshape(6000, 20)


def slowly(block: NDArray[Any]) -> NDArray[Any]:
    time.sleep(0.02)
    return block


def host(block: NDArray[Any]) -> NDArray[Any]:
    return np.full(block.shape, int(get_worker().address.rpartition(".")[2].partition(":")[0]))


def lazy(data: NDArray[Any]) -> Any:
    return da.from_array(data, chunks=(100, 20)).map_blocks(slowly, meta=data[:0])


if __name__ == "__main__":
    address, path = sys.argv[1:]
    with Client(address) as client:
        client.wait_for_workers(2, timeout=60)
        keywords: dict[str, Any] = {"chunks": (50, 20), "compression": "gzip", "progress": False}
        both = {"/x": lazy(DATA), "/host": da.zeros(DATA.shape, chunks=(100, 20)).map_blocks(host, dtype="i8")}
        dcio.to_hdf5(path, both, maxshape=(None, 20), **keywords)
        dcio.to_hdf5(path, "/x", lazy(DATA), append=True, progress=False)
        dcio.to_hdf5(path, "/x", lazy(DATA[::-1][:3010]), region=np.s_[:3010], progress=False)
        sys.stdout.write("done\n")
