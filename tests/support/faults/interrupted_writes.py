"""A write that is interrupted by Ctrl-C.

Usage: python -m tests.support.faults.interrupted_writes SCHEDULER OUT.h5 LOG
"""

import os
import signal
import sys
from typing import Any

import dask
import numpy as np
from dask.distributed import Client, LocalCluster

import dask_chunkio as dcio
from tests.support.notes import note

BUFFERS = 12
DATA = np.arange(BUFFERS * 100, dtype="i4").reshape(-1, 10)


class Slow(dcio.GenericDataChunkIterator):
    """Interrupts the command at the third buffer; a call that has begun takes a while longer."""

    def __init__(self, log: str | os.PathLike[str], victim: int | None) -> None:
        self.log, self.victim = log, victim
        super().__init__(buffer_shape=(10, 10), chunk_shape=(5, 10))

    def _get_data(self, selection: Any) -> Any:
        number = selection[0].start // 10
        note(self.log, "begin", number)
        if number == 3 and self.victim:
            os.kill(self.victim, signal.SIGINT)
        total = sum(range(3_000_000))
        note(self.log, "end", number)
        return DATA[selection] + 0 * total

    def _get_maxshape(self) -> Any:
        return DATA.shape

    def _get_dtype(self) -> Any:
        return DATA.dtype


def write(path: Any, source: Any, scheduler: Any, **keywords: Any) -> Any:
    with dask.config.set(num_workers=2):
        return dcio.to_hdf5(path, "/x", source, scheduler=scheduler, progress=False, **keywords)


def main() -> int:
    scheduler, path, log = sys.argv[1:]
    source = Slow(log, os.getpid())
    try:
        if scheduler == "cluster":
            with LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
                try:
                    write(path, source, client)
                finally:
                    note(log, "returned")
        else:
            try:
                write(path, source, scheduler)
            finally:
                note(log, "returned")
    except KeyboardInterrupt as interrupt:
        sys.stdout.write("\n".join(interrupt.__notes__))
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
