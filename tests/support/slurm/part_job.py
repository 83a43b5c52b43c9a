"""What each job of an array runs that writes one file in parts.

Usage: python -m tests.support.slurm.part_job FOLDER [NUMBER]

The number of the part comes from Slurm, unless it is given.  A job whose file ``hold-NUMBER`` is in the folder waits in
its source until that is removed.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import dask_chunkio as dcio
from tests.support.iterators import FromArray

JOBS = 6
CHUNKS = (5, 50)
DATA = (1 + np.arange(120 * 50, dtype="i4")).reshape(120, 50)


class Held(FromArray):
    """An array whose reading can be held up."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        super().__init__(DATA, chunk_shape=CHUNKS, buffer_shape=(10, 50))

    def _get_data(self, selection: Any) -> Any:
        (self.folder / f"came-{self.number}").touch()
        while (self.folder / f"hold-{self.number}").exists():
            time.sleep(0.01)
        return super()._get_data(selection)


def run(folder: Path, number: int | None) -> None:
    """Write one part."""
    source = Held(folder, int(os.environ["SLURM_ARRAY_TASK_ID"]) if number is None else number)
    part: Any = "slurm" if number is None else (number, JOBS)
    done = dcio.to_hdf5(folder / "out.h5", "/x", source, part=part, compression="gzip", scheduler="threads")
    print("whole" if done.is_whole else "done")  # noqa: T201


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
