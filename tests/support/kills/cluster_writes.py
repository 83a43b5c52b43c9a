"""A write on a running cluster, in a process that can be killed.

Usage: python -m tests.support.kills.cluster_writes SCHEDULER_FILE OUT.h5 GATE
"""

import sys
from pathlib import Path

import numpy as np
from distributed import Client

import dask_chunkio as dcio

SHAPE, BUFFER = (400, 50), (10, 50)


class Gated(dcio.GenericDataChunkIterator):
    """Numbers; the second half can be read as soon as a file is there, so that a kill comes in the middle."""

    def __init__(self, gate, log):
        self.gate, self.log = gate, log
        super().__init__(buffer_shape=BUFFER, chunk_shape=(5, 25))

    def _get_data(self, selection):
        start = selection[0].start
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"{start}\n")
        while start >= SHAPE[0] // 2 and not Path(self.gate).exists():
            pass
        return data()[selection]

    def _get_maxshape(self):
        return SHAPE

    def _get_dtype(self):
        return np.dtype("i4")


def data():
    return np.arange(SHAPE[0] * SHAPE[1], dtype="i4").reshape(SHAPE)


def write(path, gate, **keywords):
    return dcio.to_hdf5(path, "/new/x", Gated(gate, gate + ".log"), compression="gzip", progress=False, **keywords)


if __name__ == "__main__":
    with Client(scheduler_file=sys.argv[1]) as client:
        client.wait_for_workers(2)
        write(sys.argv[2], sys.argv[3])
    sys.stdout.write("done\n")
