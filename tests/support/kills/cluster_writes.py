"""A write on a running cluster, in a process that can be killed; the second half waits at a gate.

Usage: python -m tests.support.kills.cluster_writes SCHEDULER_FILE OUT.h5 FOLDER
"""

import sys
from pathlib import Path
from typing import Any

from distributed import Client

import dask_chunkio as dcio
from tests.support.gates import Gated

BUFFERS = 40
FREE = BUFFERS // 2


def write(path: str | Path, folder: str | Path, **keywords: Any) -> Any:
    source = Gated(folder, BUFFERS, free=FREE)
    return dcio.to_hdf5(path, "/new/x", source, compression="gzip", progress=False, **keywords)


if __name__ == "__main__":
    with Client(scheduler_file=sys.argv[1]) as client:
        client.wait_for_workers(2)
        write(sys.argv[2], sys.argv[3])
    sys.stdout.write("done\n")
