"""What each rank of an MPI program runs: it writes its part of one file.

Usage: mpiexec -n 4 python -m tests.support.mpi_rank FOLDER
"""

import sys
from pathlib import Path

import numpy as np

import dask_chunkio as dcio
from tests.support.iterators import FromArray

DATA = (1 + np.arange(500 * 40, dtype="i4")).reshape(500, 40)


def run(folder: Path) -> None:
    """Write the part of this rank."""
    # Only here: the import initializes MPI.
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    source = FromArray(DATA, chunk_shape=(10, 16), buffer_shape=(20, 40))
    part = world.rank, world.size
    done = dcio.to_hdf5(folder / "out.h5", "/x", source, part=part, compression="gzip", scheduler="synchronous")
    print(f"rank {world.rank} of {world.size}: {'whole' if done.is_whole else 'done'}", flush=True)  # noqa: T201


if __name__ == "__main__":
    run(Path(sys.argv[1]))
