"""What a batch job runs: the same write, begun or gone on with.

Usage: python -m tests.support.slurm.batch_write FOLDER
"""

import os
import sys
from pathlib import Path
from typing import Any

import dask_chunkio as dcio
from tests.support.gates import Gated, open_gate

BUFFERS = 24
CHUNKS = (5, 50)
LAYOUT: dict[str, Any] = {"chunks": CHUNKS, "buffer_shape": (10, 50), "compression": "gzip"}


def source(folder: str | Path, free: int) -> Gated:
    """Return a source of which the first `free` buffers can be read at once."""
    return Gated(folder, BUFFERS, free=free, chunk_shape=CHUNKS)


if __name__ == "__main__":
    folder = sys.argv[1]
    if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
        open_gate(folder)
    dcio.to_hdf5(os.path.join(folder, "out.h5"), "/x", source(folder, 12), scheduler="threads", resume=True, **LAYOUT)
