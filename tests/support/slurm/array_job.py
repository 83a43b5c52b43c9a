"""What each job of an array runs: it writes rows of one dataset, and adds a dataset, and waits for the others.

Usage: python -m tests.support.slurm.array_job FOLDER
"""

import os
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import dask_chunkio as dcio

JOBS = 6
# Neighbours share a chunk of five rows.
ROWS, COLUMNS, CHUNKS = 7, 50, (5, 50)
DATA = np.arange(JOBS * ROWS * COLUMNS, dtype="i4").reshape(JOBS * ROWS, COLUMNS)


def make(folder: Path) -> Path:
    """Make the file with the dataset that all jobs write."""
    path = folder / "out.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", DATA.shape, "i4", chunks=CHUNKS, compression="gzip", fillvalue=-1)
    return path


def run(folder: Path, number: int) -> None:
    """Make the calls of one job."""
    path, rows = folder / "out.h5", slice(number * ROWS, (number + 1) * ROWS)
    keywords: dict[str, Any] = {"wait": True, "resume": True, "scheduler": "threads"}
    dcio.to_hdf5(path, "/x", DATA[rows], region=rows, **keywords)
    dcio.to_hdf5(path, f"/job/{number}", DATA[rows], chunks=CHUNKS, **keywords)
    print("done")  # noqa: T201


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(os.environ["SLURM_ARRAY_TASK_ID"]))
