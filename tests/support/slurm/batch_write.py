"""What a batch job runs: the same write, begun or gone on with."""

import os
import sys

import dask_chunkio as dcio
from tests.support.slurm.gated import LAYOUT, Gated, open_gate

if __name__ == "__main__":
    folder = sys.argv[1]
    if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
        open_gate(folder)
    dcio.to_hdf5(os.path.join(folder, "out.h5"), "/x", Gated(folder, 12), scheduler="threads", resume=True, **LAYOUT)
